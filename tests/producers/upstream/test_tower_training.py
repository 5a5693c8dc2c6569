"""Training towers: it learns, goes on to the same bits, over processes too, and holds its space."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.ranks import Ranks
from provender.producers.training_log import read_metrics
from provender.producers.training_loop import Progress
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.tower_training import moments_at_end, train_towers
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.rank_world import over
from tests.producers.upstream.planted_batches import (
    PlantedStream,
    same,
    small_config,
    tensors,
    untrained,
)

ROOT = Path(__file__).parents[3]
STREAM = PlantedStream()


def _train(
    folder: Path, config: UpstreamConfig, stream: PlantedStream = STREAM, **further: Any
) -> UpstreamModel:
    model = untrained(config)
    return train_towers(
        model, stream, config, folder, **({"mark": "mark", "device": "cpu"} | further)
    )


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


class _StoppedError(Exception):
    pass


def test_what_was_planted_is_learned(tmp_path: Path) -> None:
    config = small_config(
        epochs=4, learning_rate=1e-2, contrastive={"weight": 0.1}, checkpoint_minutes=60
    )
    model = _train(tmp_path, config, PlantedStream(size=30, examples=96, users=48, pins=48))
    held_out = PlantedStream(seed=77)
    assert _click_share(untrained(config), held_out) < 0.65
    assert _click_share(model, held_out) > 0.85


@pytest.mark.parametrize("refreshes", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, refreshes: bool) -> None:
    config = small_config(epochs=1 if refreshes else 3)
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"dropout": 0.1, "nested_dims": (4,)})}
    )
    former = untrained(config) if refreshes else None

    def judge(model: UpstreamModel) -> float:
        """Whatever, so that it is no turn's but the model's."""
        return float(model.towers.scale[0])

    def trained(name: str, **further: Any) -> dict[str, Tensor]:
        return tensors(_train(tmp_path / name, config, former=former, validate=judge, **further))

    steps: list[int] = []
    whole = trained("whole", on_progress=lambda at: steps.append(at.step))
    assert steps == list(range(1, len(steps) + 1))
    for stop in random.Random(refreshes).sample(range(1, len(steps)), 3):

        def stopping(at: Progress, stop: int = stop) -> None:
            if at.step == stop:
                raise _StoppedError

        with pytest.raises(_StoppedError):
            trained(str(stop), on_progress=stopping)
        seen: list[int] = []
        found = trained(str(stop), on_progress=lambda at, seen=seen: seen.append(at.step))
        assert seen == steps[stop:]
        assert same(whole, found)
    seen = []
    again = trained("whole", on_progress=lambda at: seen.append(at.step))
    assert not seen
    assert same(whole, again)


_CHILD = """
import sys, time, torch
from pathlib import Path
from tests.producers.upstream.test_tower_training import LONG, _train

torch.set_num_threads(1)

def on_progress(at):
    print(at.step, flush=True)
    time.sleep(0.01)

_train(Path(sys.argv[1]), LONG, on_progress=on_progress)
"""
LONG = small_config(epochs=3)


def test_sigkill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    child = [sys.executable, "-c", _CHILD, str(tmp_path / "killed")]
    with subprocess.Popen(child, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # It trains.
        time.sleep(random.Random(4).uniform(0.05, 0.2))
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    seen: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = _train(tmp_path / "killed", LONG, on_progress=lambda at: seen.append(at.step))
        assert 1 < seen[0] <= seen[-1] == 3 * STREAM.size
        assert same(tensors(found), tensors(_train(tmp_path / "whole", LONG)))
    finally:
        torch.set_num_threads(threads)


def test_other_settings_or_data_do_not_go_on_from_it(tmp_path: Path) -> None:
    _train(tmp_path, small_config(epochs=1))
    for config, mark in ((small_config(epochs=1, clip=2.0), "mark"), (small_config(epochs=1), "x")):
        steps: list[int] = []
        _train(
            tmp_path, config, mark=mark, on_progress=lambda at, steps=steps: steps.append(at.step)
        )
        assert steps[0] == 1


def test_the_best_epoch_is_returned_tables_and_all(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def judge(model: UpstreamModel) -> float:
        seen.append(tensors(model))
        return [0.2, 0.5, 0.3][len(seen) - 1]

    found = _train(tmp_path, small_config(epochs=3), validate=judge)
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
    former = _train(tmp_path / "first", config, Noting())
    _train(tmp_path / "then", config, Noting(), former=former)
    assert asked == [(0, 0, False), (1, 0, False), (0, 0, True)]


def test_a_refresh_stays_near_and_leaves_the_former_towers_alone(tmp_path: Path) -> None:
    config = small_config(epochs=3, learning_rate=1e-2)
    _train(tmp_path / "first", config).save(tmp_path / "model")
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
    former = _train(tmp_path / "first", config)
    known = moments_at_end(tmp_path / "first", config, "mark")
    assert float(known["scale/step"]) == 2 * STREAM.size
    refreshed = [
        tensors(_train(tmp_path / name, config, former=former, moments=given))
        for name, given in (("with", known), ("without", None))
    ]
    then = moments_at_end(tmp_path / "with", config, "mark")
    assert float(then["scale/step"]) == 3 * STREAM.size
    assert not same(*refreshed)
    assert moments_at_end(tmp_path / "nowhere", config, "mark") == {}


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    nothing = PlantedStream(size=0)
    with pytest.raises(TrainingError, match="examples of the sources"):
        _train(tmp_path / "first", small_config(), nothing)
    former = untrained(small_config())
    found = _train(tmp_path / "then", small_config(), nothing, former=former)
    assert same(tensors(found), tensors(former))


def test_torchs_own_generator_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    _train(tmp_path, small_config(epochs=1))
    assert torch.equal(torch.rand(3), expected)


#: Of 47 examples, 17 users and 19 pins two processes do no halves.
ODD = PlantedStream(size=5, examples=47)


@pytest.mark.parametrize("refreshes", [False, True])
def test_two_processes_train_as_one(tmp_path: Path, refreshes: bool) -> None:
    config = small_config(epochs=2)
    former = untrained(config) if refreshes else None

    def told(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
        losses: list[float] = []
        torch.set_num_threads(1)
        model = _train(
            folder, config, ODD, former=former, on_progress=lambda at: losses.append(at.loss)
        )
        return tensors(model), losses

    def work(_: Ranks) -> tuple[dict[str, Tensor], list[float]]:
        return told(tmp_path / "two")

    (first, of_first), (second, of_second) = over(2, work)
    (alone, losses), *_ = over(1, lambda _: told(tmp_path / "one"))
    assert same(first, second)
    assert not of_second, "only the first one tells"
    assert of_first == pytest.approx(losses, rel=1e-5)
    for name, value in alone.items():
        assert (first[name] - value).norm() <= 1e-5 * value.norm(), name


def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    config = small_config(epochs=2)

    def dying(here: Ranks) -> None:
        class Dying(PlantedStream):
            def batch(self, number: int) -> Any:
                if here.rank == 1 and number == self.order(1)[2]:
                    self.seen.append(number)
                    if len(self.seen) == 2:  # In the second epoch.
                        os.kill(os.getpid(), signal.SIGKILL)
                return super().batch(number)

            seen: list[int] = []  # noqa: RUF012

        _train(tmp_path, config, Dying())

    answer, gone = over(2, dying)
    assert gone is None
    assert answer.startswith("TrainingError")
    assert "rank 0 of 2" in answer

    def going_on(_: Ranks) -> tuple[dict[str, Tensor], list[int]]:
        steps: list[int] = []
        model = _train(tmp_path, config, on_progress=lambda at: steps.append(at.step))
        return tensors(model), steps

    (found, steps), (_, none) = over(2, going_on)
    assert steps[0] == STREAM.size + 3
    assert not none
    (whole, _), _ = over(2, lambda _: (tensors(_train(tmp_path / "whole", config)), 0))
    assert same(found, whole)
