"""The reference ranker with vectors as inputs, learned rows, the past, weights, and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.consumers.calibration import Calibration, fit_calibration
from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import (
    Ranker,
    RankerConfig,
    TableConfig,
    entire_space_loss,
    load_ranker,
    save_ranker,
)
from provender.consumers.ranker_evaluation import (
    cold_segments,
    evaluate_segments,
    parts_of,
    scores_of,
)
from provender.consumers.ranker_training import (
    TrainingConfig,
    evaluate_ranker,
    train_on_stream,
    train_ranker,
)
from provender.consumers.training_join import TrainingSet
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.errors import CheckpointError, ConfigError, FetchError
from tests.consumers.test_ranker import LAYOUT, world

SPEC = HistorySpec(length=3, kinds=("click", "save"))
SIZES = {"head_width": 8, "attention_heads": 2, "hidden": 8, "dropout": 0.0}
USERS, PINS = 40, 25
TABLES = (
    TableConfig(name="users", join_key="user_id", dim=5),
    TableConfig(name="pins", join_key="pin_id", dim=5),
)
HOW = TrainingConfig(epochs=2, batch_size=128)


def full_world(rows: int = 400, seed: int = 0, text: bool = False) -> TrainingSet:
    """As `world`, with keys and a past of random pins."""
    made = world(rows, seed)
    generator = np.random.default_rng(seed + 100)
    keys = {
        "user_id": generator.integers(0, USERS, rows),
        "pin_id": generator.integers(0, PINS, rows),
    }
    items = torch.from_numpy(generator.integers(-1, PINS, (rows, SPEC.length)))
    history = History(
        items=items,
        kinds=torch.from_numpy(generator.integers(0, 2, (rows, SPEC.length))) * (items >= 0),
        age_seconds=torch.rand(rows, SPEC.length) * 1e5 * (items >= 0),
        keys=pa.array(range(PINS), pa.int64()),
        vectors={"pin_v1": torch.from_numpy(generator.normal(size=(PINS, 4)).astype(np.float32))},
        present={"pin_v1": torch.ones(PINS, dtype=torch.bool)},
    )
    arrays = {
        name: pa.array([f"é{key}" for key in each]) if text else pa.array(each)
        for name, each in keys.items()
    }
    if text:
        history = replace(history, keys=pa.array([f"é{n}" for n in range(PINS)]))
    return replace(made, rows=replace(made.rows, keys=arrays, history=history))


def tables(text: bool = False, rate: float = 0.1) -> dict[str, EntityTable]:
    counts = {"users": USERS, "pins": PINS}
    return {
        name: EntityTable.from_nothing(
            pa.array([f"é{n}" for n in range(count)] if text else range(count)),
            5,
            seed=1,
            buckets=4,
            training=RowTraining(rate=rate),
        )
        for name, count in counts.items()
    }


def config(vectors: str, *, with_tables: bool = True, with_past: bool = True) -> RankerConfig:
    return RankerConfig.model_validate(
        {
            "vectors": vectors,
            "tables": TABLES if with_tables else (),
            "history": SPEC if with_past else None,
            **SIZES,
        }
    )


KINDS = ["none", "concat", "attention"]


def opened(ranker: Ranker) -> Ranker:
    """With its gate open and no weight of zero left."""
    torch.manual_seed(2)
    for parameter in ranker.dense_parameters():
        if parameter.ndim and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return ranker


@pytest.mark.parametrize("vectors", KINDS)
def test_every_parameter_and_every_row_in_use_gets_a_gradient(vectors: str) -> None:
    rows = full_world().rows
    torch.manual_seed(0)
    made = tables()
    ranker = opened(Ranker(config(vectors), LAYOUT, Preprocessing.fit(LAYOUT, rows, []), made))
    if ranker.head is not None:
        ranker.head.facet_dropout = 0.5  # Else no candidate is ever unknown.
    before = {name: table.values.clone() for name, table in made.items()}
    ranker.train()
    logits = ranker.logits(ranker.preprocessing(rows), rows)
    entire_space_loss(logits, rows.labels["click"], rows.labels["conversion"]).backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    ranker.step_tables()
    for name, table in made.items():
        used = table.rows_of(rows.keys[f"{name[:-1]}_id"]).unique()
        moved = (table.values != before[name]).any(1)
        assert moved[used].float().mean() > 0.9
        assert not moved[-4:].any(), "no key was unknown"


@pytest.mark.parametrize("vectors", KINDS)
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "strings"])
def test_a_checkpoint_with_tables_scores_the_same(vectors: str, text: bool, tmp_path: Path) -> None:
    training = full_world(text=text)
    trained = train_ranker(training, config(vectors), HOW, seed=0, tables=tables(text)).ranker
    path = tmp_path / "ranker.safetensors"
    save_ranker(path, trained)
    loaded = load_ranker(path)
    rows = full_world(60, seed=5, text=text).rows
    assert torch.equal(loaded.score(rows).click, trained.score(rows).click)
    assert torch.equal(loaded.score(rows).conversion, trained.score(rows).conversion)
    assert loaded.calibration == trained.calibration
    assert list(trained.calibration) == ["click"] or "conversion" in trained.calibration
    for name in ("users", "pins"):
        assert loaded.table(name).keys.equals(trained.table(name).keys)
        assert torch.equal(loaded.table(name).squares, trained.table(name).squares)
        assert loaded.table(name).row_training == trained.table(name).row_training
    whole = path.read_bytes()
    flipped = bytes([whole[-3] ^ 1])
    path.write_bytes(whole[:-3] + flipped + whole[-2:])
    with pytest.raises(CheckpointError, match="Train it again"):
        load_ranker(path)


@pytest.mark.parametrize("vectors", KINDS)
def test_the_same_seed_trains_the_same_ranker_and_tables(vectors: str) -> None:
    training = full_world()
    first, second, other = (
        train_ranker(training, config(vectors), HOW, seed=seed, tables=tables()).ranker
        for seed in (3, 3, 4)
    )
    mine, same, others = (each.state_dict() for each in (first, second, other))
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert not torch.equal(mine["tables.users.values"], others["tables.users.values"])


def test_the_tables_end_as_they_were_at_the_best_pass() -> None:
    training = full_world()
    made = tables(rate=5.0)  # So fast that later passes can only harm.
    losses: list[float] = []
    kept: list[torch.Tensor] = []

    def seen(_: int, __: int, loss: float) -> None:
        losses.append(loss)
        kept.append(made["users"].values.clone())

    how = TrainingConfig(epochs=6, patience=6, batch_size=64)
    train_ranker(training, config("none"), how, seed=0, tables=made, on_epoch=seen)
    best = int(np.argmin(losses))
    assert best < 5
    assert torch.equal(made["users"].values, kept[best])


def test_vectors_as_inputs_find_what_is_planted_and_none_does_not() -> None:
    training, evaluation = world(6000, seed=1), world(3000, seed=2)
    # Products of small inputs show after some passes.
    how = TrainingConfig(epochs=20, patience=4, batch_size=256, learning_rate=5e-3)
    found = {}
    for vectors in KINDS:
        plain = config(vectors, with_tables=False, with_past=False)
        ranker = train_ranker(training, plain, how, seed=0).ranker
        found[vectors] = evaluate_ranker(ranker, evaluation)["click"].auc or 0
    assert found["none"] < 0.55
    assert found["concat"] > 0.75
    assert found["attention"] > 0.85


def test_missing_vectors_are_zeros_and_a_flag_whatever_they_hold() -> None:
    rows = full_world().rows
    rows.present["user_v1"][:200] = False
    torch.manual_seed(0)
    ranker = Ranker(config("concat"), LAYOUT, Preprocessing.fit(LAYOUT, rows, []), tables()).eval()
    expected = ranker.score(rows).click
    rows.vectors["user_v1"][:200] = float("nan")
    assert torch.equal(ranker.score(rows).click, expected)
    with_it = replace(rows, present={**rows.present, "user_v1": torch.ones(400, dtype=torch.bool)})
    with_it.vectors["user_v1"][:200] = 0
    assert (ranker.score(with_it).click[:200] != expected[:200]).all(), "the flag says it"


def test_what_a_ranker_is_made_of_has_to_be_there() -> None:
    rows = full_world().rows
    fitted = Preprocessing.fit(LAYOUT, rows, [])
    with pytest.raises(ConfigError, match=r"ranker's tables: found pins; expected pins, users"):
        Ranker(config("none"), LAYOUT, fitted, {"pins": tables()["pins"]})
    ranker = Ranker(config("attention"), LAYOUT, fitted, tables())
    with pytest.raises(FetchError, match="found no history"):
        ranker.score(replace(rows, history=None))
    with pytest.raises(FetchError, match="expected user_id, of which the table users has rows"):
        ranker.score(replace(rows, keys={}))
    bare = FeatureLayout(service="bare", embeddings=(), dense=LAYOUT.dense)
    with pytest.raises(ConfigError, match="no embedding view keyed by pin_id"):
        Ranker(RankerConfig(vectors="attention"), bare, fitted)


def test_a_query_alone_still_means_the_attention_head() -> None:
    assert RankerConfig(query="pin_v1").reads == "attention"
    assert RankerConfig().reads == "none"
    assert RankerConfig(vectors="concat").reads == "concat"
    fitted = Preprocessing.fit(LAYOUT, world().rows, [])
    head = Ranker(RankerConfig(vectors="attention", **SIZES), LAYOUT, fitted).head
    assert head is not None
    assert head.query == "pin_v1"


def test_labels_that_are_not_known_are_in_no_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8, 2, requires_grad=True)
    click, conversion = torch.tensor([1.0, 0] * 4), torch.tensor([1.0, 1, 0, 0] * 2)
    weights = {
        "click": torch.tensor([2.0, 1, 1, 1, 0, 0, 1, 1]),
        "conversion": torch.tensor([0.0, 1, 1, 3, 1, 1, 0, 1]),
    }
    loss = entire_space_loss(logits, click, conversion, weights)
    p = logits.detach().double().sigmoid()
    both = p[:, 0] * p[:, 1]
    expected = 0.0
    for q, y, w in (
        (p[:, 0], click, weights["click"]),
        (both, torch.where(weights["click"] > 0, click, 0) * conversion, weights["conversion"]),
    ):
        each = [-float(torch.log(q[i] if y[i] else 1 - q[i])) * float(w[i]) for i in range(8)]
        expected += sum(each) / float(w.sum())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    poisoned = click.clone()
    poisoned[4:6] = float("nan")
    again = entire_space_loss(logits, poisoned, conversion, weights)
    assert again.item() == loss.item()
    again.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_unknown_labels_change_neither_training_nor_figures() -> None:
    training, evaluation = full_world(800), full_world(400, seed=3)
    some = torch.rand(800) < 0.3

    def with_weights(rows: TrainingSet, unknown: torch.Tensor, label: float) -> TrainingSet:
        labels = {t: torch.where(unknown, label, y) for t, y in rows.rows.labels.items()}
        weights = {task: (~unknown).float() for task in labels}
        return replace(rows, rows=replace(rows.rows, labels=labels, weights=weights))

    plain = config("concat", with_tables=False, with_past=False)
    one, other = (
        train_ranker(with_weights(training, some, label), plain, HOW, seed=0).ranker
        for label in (0.0, 1.0)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert one.calibration == other.calibration
    hidden = torch.arange(400) < 150
    judged = evaluate_ranker(one, with_weights(evaluation, hidden, 1.0))
    known = replace(evaluation, rows=evaluation.rows.take(torch.arange(150, 400)))
    expected = evaluate_ranker(one, known)
    for task in expected:
        assert judged[task].rows == 250
        assert judged[task].auc == pytest.approx(expected[task].auc, rel=1e-9)
        assert judged[task].log_loss == pytest.approx(expected[task].log_loss, rel=1e-5)


def test_a_stream_of_the_same_batches_trains_the_same_ranker() -> None:
    training = full_world(600)
    late = training.times >= np.quantile(training.times, 0.8)
    sample, held_back = (
        replace(
            training,
            rows=training.rows.take(torch.from_numpy(np.flatnonzero(mask))),
            times=training.times[mask],
        )
        for mask in (~late, late)
    )

    def stream(epoch: int) -> Iterator[RankerBatch]:
        yield from sample.batches(128, seed=7, epoch=epoch)

    found = [
        train_on_stream(
            stream, sample, held_back, config("attention"), HOW, seed=1, tables=tables()
        )
        for _ in range(2)
    ]
    first, second = (each.ranker.state_dict() for each in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert found[0].ranker.stamp is not None
    before = tables()["pins"].values
    assert not torch.equal(first["tables.pins.values"], before)


def test_parts_score_as_the_whole() -> None:
    rows = full_world(50).rows
    torch.manual_seed(0)
    fitted = Preprocessing.fit(LAYOUT, rows, [])
    ranker = opened(Ranker(config("attention"), LAYOUT, fitted, tables())).eval()
    parts = [ranker.score(part).click for part in parts_of(rows, 7)]
    torch.testing.assert_close(torch.cat(parts), scores_of(ranker, rows).click)


def test_segments_are_told_by_vectors_and_impressions() -> None:
    training, rows = full_world(300), full_world(200, seed=9)
    rows.rows.present["pin_v1"][:60] = False
    keys = {**rows.rows.keys, "user_id": pa.array([*range(1000, 1050), *[0] * 150])}
    rows = replace(rows, rows=replace(rows.rows, keys=keys))
    segments = cold_segments(training, rows, few=2)
    assert (np.flatnonzero(segments["users with few impressions"]) == np.arange(50)).all()
    assert (np.flatnonzero(segments["pins without vector"]) == np.arange(60)).all()
    assert not (segments["warm pins"] & segments["pins without vector"]).any()
    ranker = train_ranker(training, config("attention"), HOW, seed=0, tables=tables()).ranker
    found = evaluate_segments(ranker, rows, segments)
    assert found["users with few impressions"]["click"].rows == 50
    alone = replace(rows, rows=rows.rows.take(torch.arange(60)))
    expected = evaluate_ranker(ranker, alone)["click"]
    assert found["pins without vector"]["click"].auc == pytest.approx(expected.auc)
    assert found["warm users"]["click"].calibration_before is not None


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_curve_makes_biased_scores_probabilities(method: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(0.01, 0.3, 40_000)
    labels = (generator.random(40_000) < truth).astype(np.float64)
    logits = np.log(truth / (1 - truth)) * 0.5 + 2  # Too flat, and far too high.
    scores = 1 / (1 + np.exp(-logits))
    weights = np.ones_like(labels)
    weights[:1000], labels[:1000] = 0, 1
    curve = fit_calibration(method, labels, scores, weights)  # type: ignore[arg-type]
    assert curve is not None
    found = curve(torch.from_numpy(scores)).numpy()
    assert np.abs(found - truth).mean() < 0.012
    assert np.abs(scores - truth).mean() > 0.4
    order = np.argsort(scores)
    assert (np.diff(found[order]) >= 0).all()
    assert Calibration.model_validate_json(curve.model_dump_json()) == curve
    if method == "platt":
        assert curve.slope == pytest.approx(2, abs=0.15)
        assert curve.intercept == pytest.approx(-4, abs=0.3)


def test_a_curve_that_would_turn_the_ranking_round_only_shifts() -> None:
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.1, 0.9, 2000)
    labels = (generator.random(2000) < 0.5 * (1 - scores)).astype(np.float64)
    curve = fit_calibration("platt", labels, scores, np.ones(2000))
    assert curve is not None
    assert curve.slope == 1
    assert float(curve(torch.from_numpy(scores)).sum()) == pytest.approx(labels.sum(), rel=1e-4)


def test_too_few_positives_leave_scores_as_they_are() -> None:
    labels = np.zeros(500)
    labels[:9] = 1
    assert fit_calibration("platt", labels, np.full(500, 0.1), np.ones(500)) is None
    assert fit_calibration("none", labels, np.full(500, 0.1), np.ones(500)) is None


def test_scores_are_calibrated_and_both_are_told() -> None:
    training, evaluation = world(4000, seed=1), world(2000, seed=2)
    ranker = train_ranker(training, RankerConfig(query="pin_v1", **SIZES), HOW, seed=0).ranker
    assert "click" in ranker.calibration
    ranker.calibration["click"] = Calibration(method="platt", slope=1.0, intercept=-1.0)
    raw = ranker.score(evaluation.rows, calibrated=False)
    final = ranker.score(evaluation.rows)
    moved = torch.logit(raw.click.double()) - torch.logit(final.click.double())
    torch.testing.assert_close(moved, torch.ones_like(moved), rtol=1e-3, atol=1e-3)
    assert (final.conversion <= final.click).all()
    figures = evaluate_ranker(ranker, evaluation)["click"]
    positives = float(evaluation.rows.labels["click"].sum())
    assert figures.calibration_before == pytest.approx(float(raw.click.sum()) / positives)
    assert figures.calibration == pytest.approx(float(final.click.sum()) / positives)
