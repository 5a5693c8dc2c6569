"""The head in rankers that somebody else wrote, and the two that come as examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from provender.consumers import dlrm_ranker
from provender.consumers.attention_head import AttentionHead
from provender.consumers.dlrm_ranker import DlrmRanker
from provender.consumers.features import RankerBatch
from provender.consumers.flat_features import MEMORY_SECONDS, flat_features
from provender.consumers.lightgbm_ranker import LightGbmRanker
from provender.consumers.metrics import auc
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.training_join import TrainingSet
from tests.consumers.test_ranker import LAYOUT, later, world
from tests.consumers.test_ranker_parts import full_world


class DeepFm(nn.Module):
    """As DeepCTR's: one dict of tensors in, a probability out; it knows nothing of provender."""

    def __init__(self, ids: int, dense: int, width: int = 8) -> None:
        super().__init__()
        self.linear, self.embedding = nn.Embedding(ids, 1), nn.Embedding(ids, width)
        self.network = nn.Sequential(nn.Linear(2 * width + dense, 32), nn.ReLU(), nn.Linear(32, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def logit(self, features: dict[str, Tensor]) -> Tensor:
        ids = torch.stack([features["user"], features["pin"]], dim=1)
        each = self.embedding(ids)
        crossed = each.prod(1).sum(1, keepdim=True)
        deep = self.network(torch.cat([each.flatten(1), features["dense"]], dim=1))
        found: Tensor = self.linear(ids).sum(1) + crossed + deep + self.bias
        return found

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.logit(features).sigmoid()[:, 0]
        return found


class Dlrm(nn.Module):
    """As the reference DLRM: dense and sparse tensors in, a logit out."""

    def __init__(self, ids: int, dense: int, width: int = 8) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(dense, width), nn.ReLU())
        self.bags = nn.ModuleList(nn.EmbeddingBag(ids, width, mode="sum") for _ in range(2))
        self.top = nn.Sequential(nn.Linear(width + 3, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        every = [bottom, *(bag(sparse[:, n : n + 1]) for n, bag in enumerate(self.bags))]
        dots = [(every[a] * every[b]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))]
        found: Tensor = self.top(torch.cat([bottom, torch.stack(dots, dim=1)], dim=1))
        return found


# What is added to each, and counted:
class DeepFmWithHead(DeepFm):
    def __init__(self, ids: int, dense: int) -> None:
        super().__init__(ids, dense)
        self.head = AttentionHead(LAYOUT.embeddings, "pin_v1", tasks=1)

    def with_vectors(self, features: dict[str, Tensor], batch: RankerBatch) -> Tensor:
        added: Tensor = self.head(batch.vectors, batch.present)
        return self.logit(features) + added


class DlrmWithHead(Dlrm):
    def __init__(self, ids: int, dense: int) -> None:
        super().__init__(ids, dense)
        self.head = AttentionHead(LAYOUT.embeddings, "pin_v1", tasks=1)

    def with_vectors(self, dense: Tensor, sparse: Tensor, batch: RankerBatch) -> Tensor:
        logits: Tensor = self(dense, sparse) + self.head(batch.vectors, batch.present)
        return logits


def trained(model: nn.Module, logits: Callable[[RankerBatch], Tensor], rows: RankerBatch) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(6):
        for start in range(0, len(rows), 256):
            batch = rows.take(torch.arange(start, min(start + 256, len(rows))))
            loss = functional.binary_cross_entropy_with_logits(
                logits(batch)[:, 0], batch.labels["click"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def theirs(batch: RankerBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The other rankers' own inputs."""
    ids = [torch.from_numpy(batch.keys[key].to_numpy()) for key in ("user_id", "pin_id")]
    dense = torch.log1p(batch.dense) / 4
    return {"user": ids[0], "pin": ids[1], "dense": dense}, torch.stack(ids, dim=1)


def keyed(rows: TrainingSet, seed: int) -> TrainingSet:
    generator = np.random.default_rng(seed)
    keys = {key: pa.array(generator.integers(0, 50, len(rows))) for key in ("user_id", "pin_id")}
    return replace(rows, rows=replace(rows.rows, keys=keys))


@pytest.mark.parametrize("kind", ["deepctr", "dlrm"])
def test_the_head_is_a_few_lines_in_anybodys_ranker(kind: str) -> None:
    training, evaluation = keyed(world(5000, seed=1), 1).rows, keyed(world(2000, seed=2), 2).rows
    torch.manual_seed(0)
    if kind == "deepctr":
        deepfm = DeepFmWithHead(50, 2)
        plain, model = deepfm.logit, deepfm

        def without(batch: RankerBatch) -> Tensor:
            return plain(theirs(batch)[0])

        def with_head(batch: RankerBatch) -> Tensor:
            return deepfm.with_vectors(theirs(batch)[0], batch)

        added = DeepFmWithHead
    else:
        dlrm = DlrmWithHead(50, 2)
        model, added = dlrm, DlrmWithHead  # type: ignore[assignment]

        def without(batch: RankerBatch) -> Tensor:
            features, sparse = theirs(batch)
            found: Tensor = dlrm(features["dense"], sparse)
            return found

        def with_head(batch: RankerBatch) -> Tensor:
            features, sparse = theirs(batch)
            return dlrm.with_vectors(features["dense"], sparse, batch)

    assert len(inspect.getsource(added).splitlines()) < 30
    with torch.no_grad():
        assert torch.equal(without(evaluation), with_head(evaluation)), "ignored at first"
    trained(model, with_head, training)
    with torch.no_grad():
        label = evaluation.labels["click"].numpy()
        assert auc(label, without(evaluation)[:, 0].numpy()) < 0.6
        assert auc(label, with_head(evaluation)[:, 0].numpy()) > 0.85


def test_the_dlrm_example_learns_and_says_how_much_was_added() -> None:
    training, evaluation = keyed(world(5000, seed=1), 1).rows, keyed(world(2000, seed=2), 2).rows
    torch.manual_seed(0)
    model = DlrmRanker(LAYOUT, "pin_v1", buckets=64)
    trained(model, lambda batch: model(batch)[:, None], training)
    with torch.no_grad():
        assert auc(evaluation.labels["click"].numpy(), model(evaluation).numpy()) > 0.85
    marked = [line for line in inspect.getsource(dlrm_ranker).splitlines() if "# head" in line]
    assert len(marked) == 3
    model(evaluation).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_the_lightgbm_example_learns_from_geometry() -> None:
    pytest.importorskip("lightgbm")
    training, evaluation = world(4000, seed=1), later(world(2000, seed=2))
    ranker = LightGbmRanker.train(training, seed=0, rounds=60)
    scores = ranker.score(evaluation.rows)
    assert auc(evaluation.rows.labels["click"].numpy(), scores.click.numpy()) > 0.85
    both = evaluation.rows.labels["click"] * evaluation.rows.labels["conversion"]
    assert auc(both.numpy(), scores.conversion.numpy()) > 0.75
    assert (scores.conversion <= scores.click).all()
    again = LightGbmRanker.train(training, seed=0, rounds=60).score(evaluation.rows)
    assert torch.equal(again.click, scores.click)
    nobody = evaluation.rows.take(torch.zeros(0, dtype=torch.int64))
    assert len(ranker.score(nobody).click) == 0


def test_labels_that_are_not_known_are_not_learned_from() -> None:
    pytest.importorskip("lightgbm")
    training = world(800, seed=1)
    unknown = torch.rand(800) < 0.4
    found = []
    for label in (0.0, 1.0):
        labels = {task: torch.where(unknown, label, y) for task, y in training.rows.labels.items()}
        weights = {task: (~unknown).float() for task in labels}
        rows = replace(training.rows, labels=labels, weights=weights)
        ranker = LightGbmRanker.train(replace(training, rows=rows), seed=0, rounds=10)
        found.append(ranker.score(world(100, seed=5).rows))
    assert torch.equal(found[0].click, found[1].click)
    assert torch.equal(found[0].conversion, found[1].conversion)


def test_flat_features_are_named_numbers_and_nan_where_missing() -> None:
    rows = full_world(60).rows
    rows.present["user_v1"][:9] = False
    context = Preprocessing.fit(LAYOUT, rows, ["place"]).context
    frame = flat_features(LAYOUT, rows, context)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns[:4]) == [
        "counters__clicks", "counters__impressions", "place=home", "place=search",
    ]  # fmt: skip
    assert {"user_v1[0]", "pin_v1[3]", "past~pin_v1:recent_dot"} <= set(frame.columns)
    user, pin = rows.vectors["user_v1"].numpy(), rows.vectors["pin_v1"].numpy()
    dots = np.where(np.arange(60) < 9, np.nan, (user * pin).sum(1))
    np.testing.assert_allclose(frame["user_v1~pin_v1:dot"], dots, rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(user, axis=1) * np.linalg.norm(pin, axis=1)
    np.testing.assert_allclose(frame["user_v1~pin_v1:cosine"], dots / lengths, rtol=1e-4, atol=1e-5)
    past = rows.history
    assert past is not None
    for row in range(60):
        items = [int(item) for item in past.items[row] if item >= 0]
        assert frame["past~pin_v1:actions"][row] == len(items)
        if not items:
            assert np.isnan(frame["past~pin_v1:max_dot"][row])
            continue
        there = past.items[row] >= 0
        each = past.vectors["pin_v1"][past.items[row][there]].numpy() @ pin[row]
        weights = np.exp(-past.age_seconds[row][there].numpy() / MEMORY_SECONDS)
        assert frame["past~pin_v1:max_dot"][row] == pytest.approx(each.max(), rel=1e-4, abs=1e-5)
        recent = (weights * each).sum() / weights.sum()
        assert frame["past~pin_v1:recent_dot"][row] == pytest.approx(recent, rel=1e-3, abs=1e-5)
    slim = flat_features(LAYOUT, rows, context, coordinates=False)
    assert not [name for name in slim.columns if "[" in name]
