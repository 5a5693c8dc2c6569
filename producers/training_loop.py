"""Training: one visible loop over epochs and batches, for every producer.

What is trained is the producer's own (`Training`): how an epoch is cut, what a step does, what
a checkpoint holds. A run goes on from any position, and ends as if it had never been stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers import ranks
from provender.producers.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from provender.producers.training_log import TrainingLog

START = Position(0, 0, 0)


@dataclass(frozen=True)
class Done:
    """What was just trained: so many batches, of so many examples with this mean loss."""

    batches: int
    count: int
    loss: float

    @classmethod
    def together(cls, done: Sequence[tuple[int, float]]) -> Done:
        """Batches whose examples and mean losses are given."""
        count = sum(examples for examples, _ in done)
        return cls(len(done), count, sum(examples * mean for examples, mean in done) / count)


class Training(Protocol):
    """What is trained."""

    def goes_on(self, epoch: int) -> bool:
        """Whether another epoch follows after so many."""
        ...

    def epoch(self, at: Position) -> tuple[int, Iterator[Done]]:
        """The batches of the whole training, and the steps of this epoch from `at` on.

        Each step is done when it is asked for.
        """
        ...

    def judge(self, epoch: int) -> float | None:
        """What the state is worth after so many epochs; None where nobody judges."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """All that the run needs to go on."""
        ...


@dataclass(frozen=True)
class Progress:
    """After `step` of `total` batches: the last ones' examples and mean loss, and the pace.

    `rate` are examples a second since this process began, `seconds_left` follow from it.
    """

    epoch: int
    step: int
    total: int
    count: int
    loss: float
    rate: float
    seconds_left: float


OnProgress = Callable[[Progress], None]


class Checkpoints:
    """Where a run's state is kept, and when: every so many minutes, and at the end.

    Without a folder nothing is; of several processes all read, and the one that `leads` writes.
    """

    def __init__(self, folder: Path | None, mark: str, minutes: float, leads: bool = True) -> None:
        self._folder, self._mark, self._minutes = folder, mark, minutes
        self._writes = leads and folder is not None
        self._saved, self._at = time.monotonic(), START

    def newest(self) -> Checkpoint | None:
        """What this run goes on from; raises CheckpointError where every one is damaged."""
        found = load_checkpoint(self._folder, self._mark) if self._folder else None
        if found:
            self._at = found.position
        return found

    def due(self) -> bool:
        """Whether it is time for another."""
        return self._writes and (time.monotonic() - self._saved) / 60 >= self._minutes

    def save(self, at: Position, training: Training) -> None:
        """Write one, unless it would be the last one again."""
        if self._folder is not None and self._writes and at != self._at:
            save_checkpoint(self._folder, self._mark, Checkpoint(at, training.tensors()))
            self._saved, self._at = time.monotonic(), at


class Stopwatch:
    """The pace of this process's training, and how long the rest will take."""

    def __init__(self, step: int) -> None:
        self._began, self._first, self._count = time.monotonic(), step, 0

    def after(self, at: Position, total: int, done: Done) -> Progress:
        """How far it is, after what was just done."""
        self._count += done.count
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds / (at.step - self._first) * (total - at.step)
        rate = self._count / seconds
        return Progress(at.epoch, at.step, total, done.count, done.loss, rate, left)


def check_together(at: Position) -> None:
    """Raise TrainingError where processes of one training would go on from different places."""
    if ranks.current():
        steps = ranks.all_gather(torch.tensor([at.step])).flatten().tolist()
        if len(set(steps)) > 1:
            raise TrainingError(
                "checkpoints",
                found=f"processes that would go on from steps {steps}",
                expected="all from the same",
                remedy="Give all processes one folder.",
            )


def train_from(
    at: Position,
    training: Training,
    checkpoints: Checkpoints,
    *,
    leads: bool = True,
    log: TrainingLog | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train from a position to the end.

    Of several processes that train together all call this, and the one that `leads` tells.
    """
    watch = Stopwatch(at.step)
    while training.goes_on(at.epoch):
        total, steps = training.epoch(at)
        for done in steps:
            at = Position(at.epoch, at.chunk + done.batches, at.step + done.batches)
            if checkpoints.due() and at.step < total:
                checkpoints.save(at, training)
            if leads:
                told = watch.after(at, total, done)
                if log:
                    log(told)
                if on_progress:
                    on_progress(told)
        at = Position(at.epoch + 1, 0, at.step)
        figure = training.judge(at.epoch)
        if leads and log and figure is not None:
            log.judged(at.epoch, "validation", figure)
    checkpoints.save(at, training)
