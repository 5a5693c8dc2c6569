"""Training of the page encoder, over batches of positives by the loop of all producers.

Under torchrun each process encodes its share of every batch, and all add up their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from provender.producers.checkpoint import Position
from provender.producers.devices import pick_device
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.features import Features
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_sampling import first_seed
from provender.producers.linksage.page_steps import PageSteps
from provender.producers.linksage.page_training_state import PageTrainingState, fingerprint
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

#: Judges a model after an epoch: the higher the better.
Validate = Callable[[PageModel], float]


def train_pages(
    config: LinkSageConfig,
    features: Features,
    graph: PageGraph,
    neighbours: Neighbours,
    folder: Path,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    validate: Validate | None = None,
) -> PageModel:
    """Train on the positives of a graph and return the model, on the CPU.

    Metrics go to `folder` (`metrics.jsonl`, TensorBoard), checkpoints to `folder/checkpoints`: a
    run that was stopped goes on from the newest whole one if everything that it depends on is the
    same, on the CPU with one thread to the same bits. With `validate` the model is that of the
    best epoch. Processes that have joined each other (producers/ranks.py) all call this with the
    same arguments, judge alike, and get the same model; the first one writes.

    Args:
        neighbours: of the graph's positives, row by row: those that each one's page has without it
            (page_folds.py).

    Raises ConfigError (device, targets of another length, features of none), TrainingError (no
    positives, a loss or a gradient that is no finite number) and CheckpointError (every checkpoint
    is damaged).
    """
    where = pick_device(device)
    rng = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(rng), TrainingLog(folder, unit="positives") as log:
        torch.manual_seed(first_seed(config.training.seed))
        model = PageModel.new(config, features).to(where)
        steps = PageSteps.prepare(model, features, graph, neighbours, where)
        state = PageTrainingState.start(model)
        mark = fingerprint(config, features, graph, neighbours)
        checkpoints = Checkpoints(
            folder / "checkpoints", mark, config.training.checkpoint_minutes, steps.leads
        )
        at = START
        if found := checkpoints.newest():
            state.restore(found)
            at = found.position
        check_together(at)
        keep_freed_memory()
        training = _PageTraining(steps, state, validate)
        train_from(at, training, checkpoints, leads=steps.leads, log=log, on_progress=on_progress)
        return state.best()


@dataclass(frozen=True, eq=False)
class _PageTraining:
    """What the loop trains: steps that change a state."""

    steps: PageSteps
    state: PageTrainingState
    validate: Validate | None

    def goes_on(self, epoch: int) -> bool:
        return epoch < self._epochs

    def epoch(self, at: Position) -> tuple[int, Iterator[Done]]:
        batches = self.steps.batches(at.epoch)
        total = self._epochs * len(batches)
        return total, self._trained(batches, at, total)

    def _trained(self, batches: list[Tensor], at: Position, total: int) -> Iterator[Done]:
        for done, batch in enumerate(batches[at.chunk :]):
            here = Position(at.epoch, at.chunk + done, at.step + done)
            yield Done(1, len(batch), self.steps.step(self.state, batch, here, total))

    def judge(self, epoch: int) -> float | None:
        if self.validate is None:
            return None
        self.state.modules.eval()
        self.state.judged(self.validate(self.state.model))
        return self.state.curve[-1]

    def tensors(self) -> dict[str, Tensor]:
        return self.state.tensors()

    @property
    def _epochs(self) -> int:
        return self.state.model.config.training.epochs
