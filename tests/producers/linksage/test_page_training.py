"""Training: it learns what was planted, goes on to the same bits, and stops at no numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers.linksage import page_steps
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.features import NodeFeatures
from provender.producers.linksage.page_embedding import embed_pages, embed_pins
from provender.producers.linksage.page_folds import taken
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_sampling import Positives, dropout_seed
from provender.producers.linksage.page_tokens import PageTokens, TokenSource
from provender.producers.linksage.page_training import train_pages
from provender.producers.ranks import Ranks
from provender.producers.training_log import read_metrics
from provender.producers.training_loop import Progress
from tests.producers.linksage.planted_pages import Planted, planted, recall, small
from tests.producers.rank_world import over

PLANTED = planted()


def _train(
    folder: Path, config: LinkSageConfig, given: Planted = PLANTED, **further: Any
) -> PageModel:
    found = taken(given.neighbours, given.graph.positive_page)
    return train_pages(config, given.features, given.graph, found, folder, "cpu", **further)


def _tensors(model: PageModel) -> dict[str, Tensor]:
    return dict(model.modules.state_dict())


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("targets", ["given", "joint"])
def test_what_was_planted_is_learned(tmp_path: Path, targets: str) -> None:
    many = planted(pages=240, pins=360, topics=12)
    config = small(training={"targets": targets, "epochs": 8})
    model = _train(tmp_path, config, many)
    pages = embed_pages(model, many.features, many.graph, many.neighbours, device="cpu")
    pins = embed_pins(model, many.features)
    text = recall(many.features.pages.text, many.features.pins.text, many, 10)
    best = 10 / 15  # of a topic's 20 pin nodes 5 are known; nothing tells the other 15 apart
    for dim, share in ((16, 0.75), (8, 0.6)):
        prefixes = (each[:, :dim] for each in (pages, pins))
        cut = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in prefixes]
        assert recall(cut[0], cut[1], many, 10) > max(share * best, 2 * text)


@pytest.mark.parametrize("targets", ["given", "joint"])
def test_every_parameter_moves(tmp_path: Path, targets: str) -> None:
    config = small(training={"targets": targets, "epochs": 1})
    torch.manual_seed(0)
    trained = _tensors(_train(tmp_path / "a", config))
    further = small(training={"targets": targets, "epochs": 1, "learning_rate": 1e-3})
    for name, value in _tensors(_train(tmp_path / "b", further)).items():
        assert not torch.equal(value, trained[name]), name


@pytest.mark.parametrize("kind", ["text", "images"])
def test_texts_or_images_alone_will_do(tmp_path: Path, kind: str) -> None:
    def only(nodes: NodeFeatures) -> NodeFeatures:
        if kind == "images":
            return replace(nodes, text=nodes.text[:, :0])
        none = np.zeros_like(nodes.image_offsets)
        return replace(
            nodes,
            images=nodes.images[:0, :0],
            image_offsets=none,
            image_sizes=nodes.image_sizes[:0],
        )

    features = PLANTED.features
    some = replace(features, pages=only(features.pages), pins=only(features.pins))
    given = replace(PLANTED, features=some)
    for images in ("mean", "tokens"):
        told: list[Progress] = []
        config = small(model={"images": images}, training={"targets": "joint"})
        model = _train(tmp_path / images, config, given, on_progress=told.append)
        assert told[-1].loss < told[0].loss
        vectors = embed_pages(model, some, PLANTED.graph, PLANTED.neighbours, device="cpu")
        assert np.isfinite(vectors).all()


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize(("targets", "stop"), [("given", 1), ("given", 10), ("joint", 12)])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, targets: str, stop: int) -> None:
    config = small(training={"targets": targets, "checkpoint_minutes": 1e-9})

    def judge(model: PageModel) -> float:
        """Whatever, so that it is no turn's but the model's."""
        return float(model.encoder.head.bias[0].detach())

    whole = _tensors(_train(tmp_path / "whole", config, validate=judge))

    def stopping(at: Progress) -> None:
        if at.step == stop:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        _train(tmp_path / "stopped", config, validate=judge, on_progress=stopping)
    steps: list[int] = []
    found = _train(
        tmp_path / "stopped", config, validate=judge, on_progress=lambda at: steps.append(at.step)
    )
    assert steps == list(range(stop + 1, steps[-1] + 1))
    assert _same(whole, _tensors(found))
    steps.clear()
    again = _train(tmp_path / "stopped", config, on_progress=lambda at: steps.append(at.step))
    assert not steps
    assert _same(whole, _tensors(again))


def test_other_settings_or_data_do_not_go_on_from_it(tmp_path: Path) -> None:
    _train(tmp_path, small(training={"epochs": 1}))
    for config, given in (
        (small(training={"epochs": 1, "temperature": 0.1}), PLANTED),
        (small(training={"epochs": 1}), planted(seed=1)),
    ):
        steps: list[int] = []
        _train(tmp_path, config, given, on_progress=lambda at, steps=steps: steps.append(at.step))
        assert steps[0] == 1


def test_the_best_epoch_is_returned(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def judge(model: PageModel) -> float:
        seen.append({name: each.clone() for name, each in _tensors(model).items()})
        return [0.2, 0.5, 0.3][len(seen) - 1]

    found = _train(tmp_path, small(), validate=judge)
    assert _same(_tensors(found), seen[1])
    lines = [line for line in read_metrics(tmp_path) if "validation" in line]
    assert [line["validation"] for line in lines] == [0.2, 0.5, 0.3]


def test_progress_is_told_and_kept(tmp_path: Path) -> None:
    told: list[Progress] = []
    _train(tmp_path, small(), on_progress=told.append)
    batches = -(-len(PLANTED.graph.positive_pin) // 32)
    assert [at.step for at in told] == list(range(1, 3 * batches + 1))
    assert sum(at.count for at in told) == 3 * len(PLANTED.graph.positive_pin)
    assert told[-1].seconds_left == 0
    assert told[-1].loss < told[0].loss
    last = read_metrics(tmp_path)[-1]
    assert (last["step"], last["of"]) == (3 * batches, 3 * batches)
    assert last["positives_per_second"] > 0


def test_no_numbers_stop_it_at_the_step(tmp_path: Path) -> None:
    text = PLANTED.features.pins.text.copy()
    text[3] = np.inf
    bad = replace(PLANTED.features, pins=replace(PLANTED.features.pins, text=text))
    with pytest.raises(TrainingError, match=r"epoch 0, step \d+, batch \d+ \(positives \d+"):
        _train(tmp_path, small(), replace(PLANTED, features=bad))


def test_targets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="targets of pins"):
        _train(tmp_path, small(model={"dim": 32}))


def test_neighbours_of_pages_are_not_taken_for_those_of_positives(tmp_path: Path) -> None:
    given = PLANTED.features, PLANTED.graph, PLANTED.neighbours
    with pytest.raises(ValueError, match="60 rows, 300 positives"):
        train_pages(small(), *given, tmp_path, "cpu")


def test_pins_without_targets_are_left_out(tmp_path: Path) -> None:
    assert PLANTED.features.targets is not None
    targets = PLANTED.features.targets.copy()
    targets[::2] = np.nan
    some = replace(PLANTED, features=replace(PLANTED.features, targets=targets))
    counts: list[int] = []
    _train(tmp_path, small(), some, on_progress=lambda at: counts.append(at.count))
    # Every second pin of the first of a cluster has none, unless its duplicate has one.
    has = {int(PLANTED.graph.cluster[row]) for row in range(1, len(targets), 2)}
    expected = sum(int(pin) in has for pin in PLANTED.graph.positive_pin)
    assert sum(counts) == 3 * expected


def test_torchs_own_generator_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    _train(tmp_path, small(training={"epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("targets", ["given", "joint"])
def test_two_processes_train_as_one(tmp_path: Path, targets: str) -> None:
    config = small(model={"dropout": 0.0}, training={"targets": targets, "batch_size": 33})

    def told(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
        losses: list[float] = []
        torch.set_num_threads(1)
        model = _train(folder, config, on_progress=lambda at: losses.append(at.loss))
        return _tensors(model), losses

    def work(_: Ranks) -> tuple[dict[str, Tensor], list[float]]:
        return told(tmp_path / "two")

    alone, losses = told(tmp_path / "one")
    (first, of_first), (second, of_second) = over(2, work)
    assert _same(first, second)
    assert not of_second, "only the first one tells"
    assert of_first == pytest.approx(losses, rel=1e-3)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)
    assert not _same(first, alone)


def test_no_page_sees_the_pin_that_it_is_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PageTokens] = []
    distinct = TokenSource.distinct

    def noting(source: TokenSource, tokens: PageTokens) -> Any:
        seen.append(tokens)
        return distinct(source, tokens)

    monkeypatch.setattr(TokenSource, "distinct", noting)
    config = small(training={"epochs": 1, "neighbour_dropout": 0.0})
    _train(tmp_path, config)
    positives = Positives.of(PLANTED.graph)
    found = 0
    for tokens, batch in zip(seen, positives.order(0, 0).split(32), strict=True):
        own = (tokens.neighbours == positives.pin[batch].unsqueeze(1)) & tokens.has_neighbour
        assert not bool(own.any())
        found += int(tokens.has_neighbour.any(1).sum())
    assert found > len(positives) / 2, "else there is nothing to see"


def test_each_step_drops_out_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def noting(*at: int) -> int:
        seeds.append(dropout_seed(*at))
        return seeds[-1]

    monkeypatch.setattr(page_steps, "dropout_seed", noting)
    steps: list[int] = []
    _train(tmp_path, small(), on_progress=lambda at: steps.append(at.step))
    assert len(set(seeds)) == len(steps)
