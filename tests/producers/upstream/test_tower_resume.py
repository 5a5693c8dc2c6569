"""Runs of training towers that were stopped or killed go on to the same bits."""

from __future__ import annotations

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

from provender.producers.training_loop import Progress
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.planted_batches import (
    STREAM,
    same,
    small_config,
    tensors,
    trained,
    untrained,
)

ROOT = Path(__file__).parents[3]


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("refreshes", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, refreshes: bool) -> None:
    config = small_config(epochs=1 if refreshes else 2)
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"dropout": 0.1, "nested_dims": (4,)})}
    )
    former = untrained(config) if refreshes else None

    def judge(model: UpstreamModel) -> float:
        """Whatever, so that it is no turn's but the model's."""
        return float(model.towers.scale[0])

    def run(name: str, **further: Any) -> dict[str, Tensor]:
        return tensors(trained(tmp_path / name, config, former=former, validate=judge, **further))

    steps: list[int] = []
    whole = run("whole", on_progress=lambda at: steps.append(at.step))
    assert steps == list(range(1, len(steps) + 1))
    for stop in random.Random(refreshes).sample(range(1, len(steps)), 2):

        def stopping(at: Progress, stop: int = stop) -> None:
            if at.step == stop:
                raise _StoppedError

        with pytest.raises(_StoppedError):
            run(str(stop), on_progress=stopping)
        seen: list[int] = []
        found = run(str(stop), on_progress=lambda at, seen=seen: seen.append(at.step))
        assert seen == steps[stop:]
        assert same(whole, found)
    seen = []
    again = run("whole", on_progress=lambda at: seen.append(at.step))
    assert not seen
    assert same(whole, again)


_CHILD = """
import sys, time, torch
from pathlib import Path
from tests.producers.upstream.planted_batches import trained
from tests.producers.upstream.test_tower_resume import LONG

torch.set_num_threads(1)

def on_progress(at):
    print(at.step, flush=True)
    time.sleep(0.01)

trained(Path(sys.argv[1]), LONG, on_progress=on_progress)
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
        found = trained(tmp_path / "killed", LONG, on_progress=lambda at: seen.append(at.step))
        assert 1 < seen[0] <= seen[-1] == 3 * STREAM.size
        assert same(tensors(found), tensors(trained(tmp_path / "whole", LONG)))
    finally:
        torch.set_num_threads(threads)


def test_other_settings_or_data_do_not_go_on_from_it(tmp_path: Path) -> None:
    trained(tmp_path, small_config(epochs=1))
    for config, mark in ((small_config(epochs=1, clip=2.0), "mark"), (small_config(epochs=1), "x")):
        steps: list[int] = []
        trained(
            tmp_path, config, mark=mark, on_progress=lambda at, steps=steps: steps.append(at.step)
        )
        assert steps[0] == 1
