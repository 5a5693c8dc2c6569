"""Training towers over processes: as one would, and to a clear end where one is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from provender.producers.ranks import Ranks
from tests.producers.rank_world import over
from tests.producers.upstream.planted_batches import (
    STREAM,
    PlantedStream,
    same,
    small_config,
    tensors,
    trained,
    untrained,
)

#: Of 47 examples, 17 users and 19 pins two processes do no halves.
ODD = PlantedStream(size=5, examples=47)


@pytest.mark.parametrize("refreshes", [False, True])
def test_two_processes_train_as_one(tmp_path: Path, refreshes: bool) -> None:
    config = small_config(epochs=2)
    former = untrained(config) if refreshes else None

    def told(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
        losses: list[float] = []
        torch.set_num_threads(1)
        model = trained(
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

        trained(tmp_path, config, Dying(STREAM.size))

    answer, gone = over(2, dying)
    assert gone is None
    assert answer.startswith("TrainingError")
    assert "rank 0 of 2" in answer

    def going_on(_: Ranks) -> tuple[dict[str, Tensor], list[int]]:
        steps: list[int] = []
        model = trained(tmp_path, config, on_progress=lambda at: steps.append(at.step))
        return tensors(model), steps

    (found, steps), (_, none) = over(2, going_on)
    assert steps[0] == STREAM.size + 3
    assert not none
    (whole, _), _ = over(2, lambda _: (tensors(trained(tmp_path / "whole", config)), 0))
    assert same(found, whole)
