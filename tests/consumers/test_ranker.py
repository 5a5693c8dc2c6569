from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from provender.consumers.features import DenseFeature, FeatureLayout, RankerBatch
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import (
    Ranker,
    RankerConfig,
    Rates,
    entire_space_loss,
    load_ranker,
    save_ranker,
)
from provender.consumers.ranker_training import (
    TrainingConfig,
    compare,
    evaluate_ranker,
    train_ranker,
)
from provender.consumers.training_join import TrainingSet
from provender.plugin.errors import CheckpointError, FetchError, TrainingError
from provender.plugin.spec import EmbeddingSpec


def spec(entity: str) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=entity,
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=4,
        space="graph",
        producer="test",
        ttl=timedelta(days=1),
    )


def count(name: str) -> DenseFeature:
    return DenseFeature(view="counters", name=name, join_key="pin_id", integer=True)


LAYOUT = FeatureLayout(
    service="ranker",
    embeddings=(spec("user"), spec("pin")),
    dense=(count("clicks"), count("impressions")),
)
CONFIG = RankerConfig(query="pin_v1", head_width=8, attention_heads=2, hidden=8, dropout=0.0)


def world(rows: int = 400, seed: int = 0, strength: float = 3.0) -> TrainingSet:
    """Impressions whose clicks follow the dot product of user and pin, and nothing else."""
    generator = np.random.default_rng(seed)
    user, pin = (generator.normal(size=(rows, 4)).astype(np.float32) for _ in range(2))
    affinity = (user * pin).sum(1)
    click = generator.random(rows) < 1 / (1 + np.exp(-(strength * affinity - 1)))
    conversion = click & (generator.random(rows) < 0.3)
    batch = RankerBatch(
        vectors={"user_v1": torch.from_numpy(user), "pin_v1": torch.from_numpy(pin)},
        present={view: torch.ones(rows, dtype=torch.bool) for view in ("user_v1", "pin_v1")},
        age_seconds={view: torch.zeros(rows) for view in ("user_v1", "pin_v1")},
        dense=torch.from_numpy(generator.integers(0, 50, size=(rows, 2)).astype(np.float32)),
        dense_present=torch.from_numpy(generator.random((rows, 2)) < 0.9),
        context={"place": pa.array(generator.choice(["home", "search"], rows))},
        labels={
            "click": torch.from_numpy(click.astype(np.float32)),
            "conversion": torch.from_numpy(conversion.astype(np.float32)),
        },
    )
    return TrainingSet(LAYOUT, batch, np.arange(rows, dtype=np.int64) * 1_000_000)


def later(rows: TrainingSet) -> TrainingSet:
    """The same rows a day later."""
    return TrainingSet(rows.layout, rows.rows, rows.times + 86_400_000_000)


def some_ranker(config: RankerConfig = CONFIG) -> Ranker:
    torch.manual_seed(0)
    rows = world().rows
    return Ranker(config, LAYOUT, Preprocessing.fit(LAYOUT, rows, ["place"]))


def test_inputs_are_logged_standardised_flagged_and_one_hot() -> None:
    rows = world(50).rows
    fitted = Preprocessing.fit(LAYOUT, rows, ["place"])
    inputs = fitted(rows)
    assert inputs.shape == (50, fitted.width) == (50, 6)
    for place in range(2):
        seen = rows.dense_present[:, place].numpy()
        logged = np.log1p(rows.dense[:, place].numpy().astype(np.float64))
        mean, spread = logged[seen].mean(), logged[seen].std()
        expected = np.where(seen, (logged - mean) / spread, 0)
        np.testing.assert_allclose(inputs[:, place], expected, atol=1e-5)
        assert (inputs[:, 2 + place].numpy() == seen).all()
    home = np.array(rows.context["place"].to_pylist()) == "home"
    assert (inputs[:, 4].numpy() == home).all()
    assert (inputs[:, 5].numpy() == ~home).all()


def test_a_place_never_seen_is_all_zeros_and_none_at_all_is_refused() -> None:
    rows = world(5).rows
    fitted = Preprocessing.fit(LAYOUT, rows, ["place"])
    rows.context["place"] = pa.array(["profile"] * 5)
    assert (fitted(rows)[:, 4:] == 0).all()
    rows.context["place"] = pa.array(["home", None, "home", None, "home"])
    with pytest.raises(FetchError, match="context column place: found 2 rows"):
        fitted(rows)
    del rows.context["place"]
    with pytest.raises(FetchError, match="expected the column place"):
        fitted(rows)


def test_many_numbers_are_standardised_and_nan_is_refused() -> None:
    rows = world(60).rows
    rows.context["price"] = pa.array(np.linspace(1, 9, 60))
    fitted = Preprocessing.fit(LAYOUT, rows, ["price"])
    inputs = fitted(rows)[:, 4]
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-6)
    assert float(inputs.std(correction=0)) == pytest.approx(1, abs=1e-6)
    rows.context["price"] = pa.array([float("nan")] * 60)
    with pytest.raises(FetchError, match="60 rows that are null or NaN"):
        fitted(rows)


def test_the_loss_is_the_two_log_losses_written_out() -> None:
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-4.0, -3.0]], dtype=torch.float64)
    click = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    conversion = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    p = logits.sigmoid()
    both = p[:, 0] * p[:, 1]
    expected = sum(
        -torch.log(q[i] if y[i] else 1 - q[i])
        for q, y in ((p[:, 0], click), (both, conversion))
        for i in range(3)
    )
    torch.testing.assert_close(entire_space_loss(logits, click, conversion), expected / 3)


def test_rare_events_keep_a_finite_gradient() -> None:
    logits = torch.tensor([[-60.0, -60.0], [60.0, 60.0]], requires_grad=True)
    loss = entire_space_loss(logits, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_adding_the_head_changes_no_score_at_first() -> None:
    with_head = some_ranker()
    torch.manual_seed(0)
    without = some_ranker(CONFIG.model_copy(update={"query": None}))
    shared = {k: v for k, v in with_head.state_dict().items() if not k.startswith("head.")}
    without.load_state_dict(shared)
    rows = world().rows
    assert torch.equal(with_head.score(rows).click, without.score(rows).click)
    assert torch.equal(with_head.score(rows).conversion, without.score(rows).conversion)


def test_every_parameter_gets_a_gradient() -> None:
    ranker = some_ranker()
    assert ranker.head is not None
    torch.nn.init.ones_(ranker.head.gate)
    rows = world().rows
    rows.present["user_v1"][:9] = False
    rows.present["pin_v1"][4:12] = False
    logits = ranker.logits(ranker.preprocessing(rows), rows)
    loss = entire_space_loss(logits, rows.labels["click"], rows.labels["conversion"])
    loss.backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_starts_at_the_base_rates() -> None:
    ranker = some_ranker()
    ranker.start_at(Rates(0.02, 0.2))
    scores = ranker.score(world(2000).rows)
    assert float(scores.click.mean()) == pytest.approx(0.02, rel=0.3)
    assert float(scores.conversion.mean()) == pytest.approx(0.004, rel=0.5)


def test_a_checkpoint_scores_the_same_to_the_bit(tmp_path: Path) -> None:
    ranker = some_ranker()
    save_ranker(tmp_path / "ranker.safetensors", ranker)
    loaded = load_ranker(tmp_path / "ranker.safetensors")
    rows = world().rows
    assert torch.equal(loaded.score(rows).click, ranker.score(rows).click)
    assert loaded.layout == ranker.layout


@pytest.mark.parametrize(
    "damage", ["absent", "cut", "text", "foreign", "pickle", "weight", "version"]
)
def test_what_is_no_whole_ranker_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ranker.safetensors"
    save_ranker(path, some_ranker())
    whole = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        content = {
            "cut": whole[: len(whole) // 2],
            "text": b"no ranker at all",
            "foreign": save({"weight": torch.zeros(3)}),
            "pickle": b"\x80\x04\x95" + json.dumps({"a": 1}).encode(),
            "weight": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
            "version": whole.replace(b'\\"version\\":1', b'\\"version\\":2', 1),
        }[damage]
        assert content != whole
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="Train it again") as refusal:
        load_ranker(path)
    assert "\n" not in str(refusal.value)


def test_the_planted_affinity_is_found_with_vectors_only() -> None:
    training, evaluation = world(6000, seed=1), later(world(3000, seed=2))
    how = TrainingConfig(epochs=6, batch_size=256, learning_rate=5e-3)
    plain = CONFIG.model_copy(update={"query": None})
    judged = {
        kind: [
            evaluate_ranker(train_ranker(training, config, how, seed=s).ranker, evaluation)
            for s in range(2)
        ]
        for kind, config in (("without", plain), ("with", CONFIG))
    }
    report = compare(judged["without"], judged["with"], training, evaluation)
    click = report.tasks["click"]["auc"]
    assert all(value is not None and value < 0.55 for value in click.without)
    assert all(value is not None and value > 0.85 for value in click.with_)
    assert click.difference is not None
    assert click.difference.excludes_zero
    assert report.tasks["click"]["log_loss"].difference is not None


def test_the_same_seed_trains_the_same_ranker() -> None:
    training = world(800)
    how = TrainingConfig(epochs=2, batch_size=128)
    first, second, other = (
        train_ranker(training, CONFIG, how, seed=seed).ranker.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_is_held_back_is_later_and_never_split_within_a_time() -> None:
    training = world(100)
    same_time = TrainingSet(LAYOUT, training.rows, np.repeat([1, 2, 3, 4], 25).astype(np.int64))
    seen: list[float] = []
    train_ranker(
        same_time,
        CONFIG,
        TrainingConfig(epochs=1, held_back=0.3),
        seed=0,
        on_epoch=lambda done, total, loss: seen.append(loss),
    )
    assert len(seen) == 1
    all_at_once = TrainingSet(LAYOUT, training.rows, np.zeros(100, np.int64))
    with pytest.raises(TrainingError, match="rows of a later time"):
        train_ranker(all_at_once, CONFIG, TrainingConfig(epochs=1), seed=0)


def test_no_clicks_are_nothing_to_learn_from() -> None:
    training = world(100)
    training.rows.labels["click"].zero_()
    with pytest.raises(TrainingError, match="with 0 clicks"):
        train_ranker(training, CONFIG, TrainingConfig(epochs=1), seed=0)


def test_no_conversions_leave_the_click_and_say_why() -> None:
    training, evaluation = world(600, seed=1), world(300, seed=2)
    for rows in (training, evaluation):
        rows.rows.labels["conversion"].zero_()
    ranker = train_ranker(training, CONFIG, TrainingConfig(epochs=1), seed=0).ranker
    judged = evaluate_ranker(ranker, evaluation)
    assert judged["click"].auc is not None
    assert judged["conversion"].auc is None
    assert judged["conversion"].reason == "AUC is undefined with no positives"
    report = compare([judged], [judged], training, later(evaluation))
    assert report.tasks["conversion"]["auc"].difference is None
    assert report.tasks["conversion"]["auc"].reason == "AUC is undefined with no positives"
    json.loads(report.model_dump_json(), parse_constant=lambda name: pytest.fail(name))


def test_an_evaluation_that_is_not_later_is_refused() -> None:
    training, evaluation = world(300), world(50)
    ranker = train_ranker(training, CONFIG, TrainingConfig(epochs=1), seed=0).ranker
    judged = evaluate_ranker(ranker, evaluation)
    with pytest.raises(TrainingError, match="as late as the evaluation"):
        compare([judged], [judged], training, evaluation)


def test_a_view_without_any_vector_is_refused_with_the_usual_reason() -> None:
    training = world(300)
    training.rows.present["user_v1"].zero_()
    with pytest.raises(TrainingError, match=r"no vector of user_v1 .* backfills=True"):
        train_ranker(training, CONFIG, TrainingConfig(epochs=1), seed=0)


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train_ranker(world(300), CONFIG, TrainingConfig(epochs=1), seed=0)
    assert torch.equal(torch.rand(3), expected)
