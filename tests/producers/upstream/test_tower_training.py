"""Training towers: it learns, keeps the best, and holds its space in refreshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.training_log import read_metrics
from provender.producers.upstream.tower_training import moments_at_end, train_towers
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.planted_batches import (
    STREAM,
    PlantedStream,
    same,
    small_config,
    tensors,
    trained,
    untrained,
)

ROOT = Path(__file__).parents[3]


def _click_share(model: UpstreamModel, stream: PlantedStream) -> float:
    """How many examples the sign of the click's logit tells."""
    told = []
    with torch.no_grad():
        for batch in stream.batches(0):
            users, pins = model.users(batch.users), model.pins(batch.pins)
            logits = model.scores(users, pins, batch.cross, batch.user, batch.pin)
            right = (logits[:, 0] > 0) == (batch.labels[:, 0] > 0)
            told.append(right[batch.known[:, 0]].float())
    return float(torch.cat(told).mean())


def test_what_was_planted_is_learned(tmp_path: Path) -> None:
    config = small_config(
        epochs=4, learning_rate=1e-2, contrastive={"weight": 0.1}, checkpoint_minutes=60
    )
    model = trained(tmp_path, config, PlantedStream(size=30, examples=96, users=48, pins=48))
    held_out = PlantedStream(seed=77)
    assert _click_share(untrained(config), held_out) < 0.65
    assert _click_share(model, held_out) > 0.85


def test_the_best_epoch_is_returned_tables_and_all(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def judge(model: UpstreamModel) -> float:
        seen.append(tensors(model))
        return [0.2, 0.5, 0.3][len(seen) - 1]

    found = trained(tmp_path, small_config(epochs=3), validate=judge)
    assert same(tensors(found), seen[1])
    lines = [line for line in read_metrics(tmp_path) if "validation" in line]
    assert [line["validation"] for line in lines] == [0.2, 0.5, 0.3]
    assert read_metrics(tmp_path)[-1]["examples_per_second"] > 0


def test_a_refresh_is_one_pass_in_order(tmp_path: Path) -> None:
    asked: list[tuple[int, int, bool]] = []

    class Noting(PlantedStream):
        def batches(self, epoch: int, start: int = 0, *, in_order: bool = False) -> Any:
            asked.append((epoch, start, in_order))
            return super().batches(epoch, start, in_order=in_order)

    config = small_config(epochs=2)
    former = trained(tmp_path / "first", config, Noting())
    trained(tmp_path / "then", config, Noting(), former=former)
    assert asked == [(0, 0, False), (1, 0, False), (0, 0, True)]


def test_a_refresh_stays_near_and_leaves_the_former_towers_alone(tmp_path: Path) -> None:
    config = small_config(epochs=3, learning_rate=1e-2)
    trained(tmp_path / "first", config).save(tmp_path / "model")
    former = UpstreamModel.load(tmp_path / "model")
    known = tensors(former)
    batch = PlantedStream(seed=9).batch(0)
    away = []
    for stay in (0.0, 10.0):
        config = small_config(refresh_learning_rate=1e-2, stay=stay)
        model = UpstreamModel.load(tmp_path / "model")
        new = train_towers(
            model,
            PlantedStream(seed=9),
            config,
            tmp_path / f"stay {stay}",
            mark="refresh",
            former=former,
            device="cpu",
        )
        with torch.no_grad():
            cosines = (new.users(batch.users).vector * former.users(batch.users).vector).sum(1)
        away.append(float(1 - cosines.mean()))
    assert away[1] < away[0] / 2
    assert same(known, tensors(former))


def test_what_adamw_remembers_goes_on(tmp_path: Path) -> None:
    config = small_config(epochs=2)
    former = trained(tmp_path / "first", config)
    known = moments_at_end(tmp_path / "first", config, "mark")
    assert float(known["scale/step"]) == 2 * STREAM.size
    refreshed = [
        tensors(trained(tmp_path / name, config, former=former, moments=given))
        for name, given in (("with", known), ("without", None))
    ]
    then = moments_at_end(tmp_path / "with", config, "mark")
    assert float(then["scale/step"]) == 3 * STREAM.size
    assert not same(*refreshed)
    assert moments_at_end(tmp_path / "nowhere", config, "mark") == {}


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    nothing = PlantedStream(size=0)
    with pytest.raises(TrainingError, match="examples of the sources"):
        trained(tmp_path / "first", small_config(), nothing)
    former = untrained(small_config())
    found = trained(tmp_path / "then", small_config(), nothing, former=former)
    assert same(tensors(found), tensors(former))


def test_torchs_own_generator_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trained(tmp_path, small_config(epochs=1))
    assert torch.equal(torch.rand(3), expected)
