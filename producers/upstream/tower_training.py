"""Training of upstream towers: all examples, shuffled, at first; in refreshes new ones, in order.

Under torchrun each process does its share of every batch (batch_shares.py), and all make the same
updates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.checkpoint import Position, load_checkpoint
from provender.producers.devices import pick_device
from provender.producers.memory import keep_freed_memory
from provender.producers.training_log import TrainingLog
from provender.producers.training_loop import (
    START,
    Checkpoints,
    Done,
    OnProgress,
    check_together,
    train_from,
)
from provender.producers.upstream.batch_shares import Place
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.tower_steps import TowerSteps
from provender.producers.upstream.tower_training_state import TowerTrainingState, moments_of
from provender.producers.upstream.upstream_model import UpstreamModel

_CHECKPOINTS = "checkpoints"

#: Judges a model after an epoch: the higher the better.
Validate = Callable[[UpstreamModel], float]


class Stream(Protocol):
    """Examples in batches: the same ones whenever it is asked for an epoch."""

    def count(self, epoch: int) -> int:
        """How many batches an epoch has."""
        ...

    def batches(self, epoch: int, start: int = 0, *, in_order: bool = False) -> Iterator[Batch]:
        """Those from number `start` on: shuffled anew each epoch, or in the order of time."""
        ...


def train_towers(
    model: UpstreamModel,
    stream: Stream,
    config: UpstreamConfig,
    folder: Path,
    *,
    mark: str,
    former: UpstreamModel | None = None,
    moments: Mapping[str, Tensor] | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    validate: Validate | None = None,
) -> UpstreamModel:
    """Train a model, in place where it is on the device already, and return it on the CPU.

    Metrics go to `folder` (`metrics.jsonl`, TensorBoard), checkpoints to `folder/checkpoints`: a
    run that was stopped goes on from the newest whole one if configuration and `mark` are the
    same, on the CPU with one thread to the same bits. With `validate` the model is that of the
    best epoch. Processes that have joined each other (producers/ranks.py) all call this with the
    same arguments, judge alike, and get the same model; the first one writes.

    Args:
        mark: a fingerprint of all else that training depends on: model, examples and features,
            former towers.
        former: towers of the last refresh, from which `model` was made. With them all examples are
            seen once, in order, and vectors are held near to theirs. None at the first training.
        moments: what AdamW remembered at the end of their training (`moments_at_end`).

    Raises ConfigError (device), TrainingError (nothing to learn from, a loss or a gradient that is
    no finite number, a process that is gone) and CheckpointError (every checkpoint is damaged).
    """
    where = pick_device(device)
    rng = [where] if where.type == "cuda" else []
    place = Place.here()
    leads = place.rank == 0
    with torch.random.fork_rng(rng), TrainingLog(folder, unit="examples") as log:
        frozen = former.to(where) if former else None
        if frozen:
            frozen.towers.eval()
        state = TowerTrainingState.start(model.to(where), moments)
        training = _TowerTraining(
            TowerSteps(config, frozen, where, place), state, stream, config, validate
        )
        training.check_some()
        checkpoints = Checkpoints(
            folder / _CHECKPOINTS, _run_of(config, mark), config.training.checkpoint_minutes, leads
        )
        at = START
        if found := checkpoints.newest():
            state.restore(found)
            at = found.position
        check_together(at)
        keep_freed_memory()
        train_from(at, training, checkpoints, leads=leads, log=log, on_progress=on_progress)
        return state.best()


def moments_at_end(folder: Path, config: UpstreamConfig, mark: str) -> dict[str, Tensor]:
    """What AdamW remembered at the end of a training that `train_towers` was called for so.

    Nothing where its checkpoints are gone; raises CheckpointError where all are damaged.
    """
    found = load_checkpoint(folder / _CHECKPOINTS, _run_of(config, mark))
    return moments_of(found) if found else {}


@dataclass(frozen=True, eq=False)
class _TowerTraining:
    """What the loop trains: steps that change a state."""

    steps: TowerSteps
    state: TowerTrainingState
    stream: Stream
    config: UpstreamConfig
    validate: Validate | None

    def check_some(self) -> None:
        """Raise TrainingError where a first training has nothing to learn from."""
        if not self._refreshes and not self.stream.count(0):
            raise TrainingError(
                "examples of the sources",
                found="none",
                expected="at least one before the as-of time",
                remedy="Check the as-of time, `history_days` and the sources' `where` and `rate`.",
            )

    def goes_on(self, epoch: int) -> bool:
        return epoch < self._epochs

    def epoch(self, at: Position) -> tuple[int, Iterator[Done]]:
        total = sum(self.stream.count(epoch) for epoch in range(self._epochs))
        return total, self._trained(at, total)

    def _trained(self, at: Position, total: int) -> Iterator[Done]:
        batches = self.stream.batches(at.epoch, at.chunk, in_order=self._refreshes)
        for done, batch in enumerate(batches):
            here = Position(at.epoch, at.chunk + done, at.step + done)
            yield Done(1, len(batch), self.steps.step(self.state, batch, here, total))

    def judge(self, epoch: int) -> float | None:
        if self.validate is None:
            return None
        self.state.model.towers.eval()
        with torch.no_grad():
            self.state.judged(self.validate(self.state.model))
        return self.state.curve[-1]

    def tensors(self) -> dict[str, Tensor]:
        return self.state.tensors()

    @property
    def _refreshes(self) -> bool:
        return self.steps.former is not None

    @property
    def _epochs(self) -> int:
        return 1 if self._refreshes else self.config.training.epochs


def _run_of(config: UpstreamConfig, mark: str) -> str:
    return hashlib.sha256(f"{config.hash}/{mark}".encode()).hexdigest()
