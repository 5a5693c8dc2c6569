"""Runs that were stopped or killed go on bit for bit, early stopping included."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from provender.plugin.errors import CheckpointError
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_loop import Progress
from provender.producers.validation import Validation
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent
from tests.producers.planted import GRAPH, SMALL, changed, equal, planted

ROOT = Path(__file__).parents[2]
PARENT = Parent(
    {
        "user": Vectors(
            pa.array(range(50)),
            np.random.default_rng(3).standard_normal((50, 8)).astype(np.float32) * 0.3,
        )
    }
)


class _StopError(Exception):
    pass


def _stop_at(step: int) -> Callable[[Progress], None]:
    def on_progress(at: Progress) -> None:
        if at.step == step:
            raise _StopError

    return on_progress


@pytest.mark.parametrize("step", [1, 17, "an epoch", "an epoch and 1", "all but 1", "all"])
@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("model", ["transra", "complex"])
def test_resuming_gives_the_same_bits(
    tmp_path: Path, model: str, parent: Parent | None, step: int | str
) -> None:
    config = changed(model=model, refresh_epochs=2)
    total: list[int] = []
    whole = train(GRAPH, config, parent=parent, on_progress=lambda at: total.append(at.total))
    epoch = total[0] // 2
    names = {"an epoch": epoch, "an epoch and 1": epoch + 1}
    names |= {"all but 1": total[0] - 1, "all": total[0]}
    last = step if isinstance(step, int) else names[step]
    with pytest.raises(_StopError):
        train(GRAPH, config, parent=parent, checkpoint_dir=tmp_path, on_progress=_stop_at(last))
    seen: list[int] = []
    resumed = train(
        GRAPH,
        config,
        parent=parent,
        checkpoint_dir=tmp_path,
        on_progress=lambda at: seen.append(at.step),
    )
    # Each block is saved, but for the last one, which is saved when all is done.
    assert seen[0] == (last + 1 if last < total[0] else last)
    assert equal(whole, resumed)


def test_between_checkpoints_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        train(
            GRAPH,
            changed(checkpoint_minutes=60.0),
            checkpoint_dir=tmp_path,
            on_progress=_stop_at(9),
        )
    assert not list(tmp_path.iterdir())


def _nearness(parameters: Parameters) -> float:
    """A figure that rises and then falls while training goes on."""
    return -abs(float(parameters.entity.norm(dim=1).mean()) - 0.375)


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_resuming_keeps_the_curve_and_the_best(tmp_path: Path, epoch: int) -> None:
    config = changed(epochs=12)
    curves: list[list[float]] = [[], []]

    def validation(curve: list[float]) -> Validation:
        def judge(parameters: Parameters) -> float:
            curve.append(_nearness(parameters))
            return curve[-1]

        return Validation(judge, patience=2)

    steps: list[Progress] = []
    whole = train(GRAPH, config, validation=validation(curves[0]), on_progress=steps.append)
    best = max(range(len(curves[0])), key=curves[0].__getitem__)
    assert 0 < best < len(curves[0]) - 1 < config.epochs - 1  # It rose, fell and stopped early.
    stop = next(at.step for at in steps if at.epoch == epoch)  # The first step of that epoch.
    with pytest.raises(_StopError):
        train(
            GRAPH,
            config,
            validation=validation([]),
            checkpoint_dir=tmp_path,
            on_progress=_stop_at(stop),
        )
    resumed = train(GRAPH, config, validation=validation(curves[1]), checkpoint_dir=tmp_path)
    assert curves[1] == curves[0][epoch:]
    assert equal(whole, resumed)
    again = train(
        GRAPH,
        config,
        validation=validation([]),
        checkpoint_dir=tmp_path,
        on_progress=_stop_at(stop),
    )
    assert equal(whole, again)


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    first = train(GRAPH, SMALL, checkpoint_dir=tmp_path)
    again = train(GRAPH, SMALL, checkpoint_dir=tmp_path, on_progress=_stop_at(1))
    assert equal(first, again)


def test_another_configuration_graph_or_parent_starts_anew(tmp_path: Path) -> None:
    train(GRAPH, SMALL, checkpoint_dir=tmp_path)
    other = changed(seed=5)
    graph, _ = planted(seed=9)
    assert equal(train(GRAPH, other, checkpoint_dir=tmp_path), train(GRAPH, other))
    assert equal(train(graph, SMALL, checkpoint_dir=tmp_path), train(graph, SMALL))
    parented = train(GRAPH, SMALL, checkpoint_dir=tmp_path, parent=PARENT)
    assert equal(parented, train(GRAPH, SMALL, parent=PARENT))


def test_how_often_it_is_saved_is_no_other_configuration(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        train(GRAPH, SMALL, checkpoint_dir=tmp_path, on_progress=_stop_at(9))
    seen: list[int] = []
    train(
        GRAPH,
        changed(checkpoint_minutes=7.0),
        checkpoint_dir=tmp_path,
        on_progress=lambda at: seen.append(at.step),
    )
    assert seen[0] == 10


def test_a_damaged_checkpoint_costs_time_but_no_bit(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        train(GRAPH, SMALL, checkpoint_dir=tmp_path, on_progress=_stop_at(11))
    newest = max(tmp_path.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:100])
    assert equal(train(GRAPH, SMALL, checkpoint_dir=tmp_path), train(GRAPH, SMALL))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError):
        train(GRAPH, SMALL, checkpoint_dir=tmp_path)


_CHILD = """
import sys, time
from pathlib import Path
from tests.producers.test_training_resume import LONG, _nearness
from tests.producers.planted import GRAPH
from provender.producers.trainer import train
from provender.producers.validation import Validation

def on_progress(at):
    print(at.step, flush=True)
    time.sleep(0.002)

judged = Validation(_nearness, patience=100)
train(GRAPH, LONG, checkpoint_dir=Path(sys.argv[1]), validation=judged, on_progress=on_progress)
"""
LONG = changed(epochs=40)


def test_sigkill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdout.readline()  # it trains
        time.sleep(rng.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    seen: list[int] = []
    validation = Validation(_nearness, patience=100)
    resumed = train(
        GRAPH,
        LONG,
        checkpoint_dir=tmp_path,
        validation=validation,
        on_progress=lambda at: seen.append(at.step),
    )
    assert seen[0] > 1
    assert equal(resumed, train(GRAPH, LONG, validation=validation))
