"""The loop of all producers: where it goes on, what it writes, what it tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from provender.producers.checkpoint import Position
from provender.producers.training_log import TrainingLog, read_metrics
from provender.producers.training_loop import START, Checkpoints, Done, Progress, train_from


@dataclass
class _Sum:
    """Adds up the batches of 3 epochs of 5 batches; judged by the sum, over after `most`."""

    sum: int = 0
    most: int = 10**9
    written: list[int] = field(default_factory=list)

    def goes_on(self, epoch: int) -> bool:
        return epoch < 3 and self.sum < self.most

    def epoch(self, at: Position) -> tuple[int, Iterator[Done]]:
        return 15, self._steps(at)

    def _steps(self, at: Position) -> Iterator[Done]:
        for batch in range(at.chunk, 5, 2):
            ends = min(batch + 2, 5)
            self.sum += sum(10 * at.epoch + each for each in range(batch, ends))
            yield Done(ends - batch, 100 * (ends - batch), self.sum)

    def judge(self, epoch: int) -> float | None:
        return self.sum if epoch != 2 else None

    def tensors(self) -> dict[str, Tensor]:
        self.written.append(self.sum)
        return {"sum": torch.tensor(self.sum)}


WHOLE = sum(10 * epoch + batch for epoch in range(3) for batch in range(5))


def _checkpoints(folder: Path | None, minutes: float = 1e-9, leads: bool = True) -> Checkpoints:
    return Checkpoints(folder, "mark", minutes, leads)


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 4, 5, 10, 14])
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, stop: int) -> None:
    def stopping(at: Progress) -> None:
        if at.step >= stop:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        train_from(START, _Sum(), _checkpoints(tmp_path), on_progress=stopping)
    checkpoints = _checkpoints(tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert found.position.step >= stop
    again = _Sum(int(found.tensors["sum"]))
    train_from(found.position, again, checkpoints)
    assert again.sum == WHOLE


def test_no_state_is_written_twice(tmp_path: Path) -> None:
    each = _Sum()
    train_from(START, each, _checkpoints(tmp_path))
    assert each.written == sorted(set(each.written))
    assert each.written[-1] == WHOLE
    checkpoints = _checkpoints(tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert found.position == Position(3, 0, 15)
    again = _Sum(WHOLE)
    train_from(found.position, again, checkpoints)
    assert not again.written
    seldom = _Sum()
    train_from(START, seldom, _checkpoints(tmp_path / "seldom", minutes=60))
    assert seldom.written == [WHOLE]


def test_who_does_not_lead_writes_and_tells_nothing(tmp_path: Path) -> None:
    told: list[Progress] = []
    follower = _Sum()
    kept = _checkpoints(tmp_path / "kept", leads=False)
    with TrainingLog(tmp_path / "log") as log:
        train_from(START, follower, kept, leads=False, log=log, on_progress=told.append)
    assert (follower.sum, told, follower.written) == (WHOLE, [], [])
    assert not list(tmp_path.iterdir())


def test_what_is_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    with TrainingLog(tmp_path, every=0) as log:
        train_from(START, _Sum(), _checkpoints(None), log=log, on_progress=told.append)
    assert [(at.epoch, at.step, at.count) for at in told[:4]] == [
        (0, 2, 200),
        (0, 4, 200),
        (0, 5, 100),
        (1, 7, 200),
    ]
    assert told[-1].seconds_left == 0
    assert all(at.total == 15 and at.rate > 0 for at in told)
    lines = read_metrics(tmp_path)
    assert [line["validation"] for line in lines if "validation" in line] == [10, WHOLE]
    assert lines[-2]["step"] == 15


def test_it_ends_when_nothing_follows() -> None:
    each = _Sum(most=10)
    train_from(START, each, _checkpoints(None))
    assert each.sum == 10


def test_blocks_are_told_by_their_mean() -> None:
    assert Done.together([(1, 4.0), (3, 8.0)]) == Done(2, 4, 7.0)
