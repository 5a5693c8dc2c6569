"""Training of the page encoder: one visible loop over batches of positives.

Under torchrun each process encodes its share of every batch, and all add up their gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from provender.producers.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
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


@dataclass(frozen=True)
class PageProgress:
    """After `step` of `total` batches: the last one's positives and mean loss, and the pace.

    `rate` are positives a second since this process began, `seconds_left` follow from it.
    """

    epoch: int
    step: int
    total: int
    count: int
    loss: float
    rate: float
    seconds_left: float


OnProgress = Callable[[PageProgress], None]
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
        checkpoints = folder / "checkpoints"
        mark = fingerprint(config, features, graph, neighbours)
        at = Position(0, 0, 0)
        if found := load_checkpoint(checkpoints, mark):
            state.restore(found)
            at = found.position
        steps.check_together(at)
        keep_freed_memory()
        pace, saved = _Pace(at.step), time.monotonic()

        while at.epoch < config.training.epochs:
            batches = steps.batches(at.epoch)
            total = config.training.epochs * len(batches)
            for batch in batches[at.chunk :]:
                loss = steps.step(state, batch, at, total)
                at = Position(at.epoch, at.chunk + 1, at.step + 1)
                minutes = (time.monotonic() - saved) / 60
                if steps.leads and minutes >= config.training.checkpoint_minutes:
                    save_checkpoint(checkpoints, mark, Checkpoint(at, state.tensors()))
                    saved = time.monotonic()
                if steps.leads:
                    told = pace.after(at, total, len(batch), loss)
                    log(told)
                    if on_progress:
                        on_progress(told)
            at = Position(at.epoch + 1, 0, at.step)
            if validate:
                state.modules.eval()
                state.judged(validate(model))
                if steps.leads:
                    log.judged(at.epoch, "validation", state.curve[-1])
        if steps.leads:
            save_checkpoint(checkpoints, mark, Checkpoint(at, state.tensors()))
        return state.best()


class _Pace:
    """Positives a second of this process's training, and how long the rest will take."""

    def __init__(self, step: int) -> None:
        self._began, self._first, self._count = time.monotonic(), step, 0

    def after(self, at: Position, total: int, count: int, loss: float) -> PageProgress:
        self._count += count
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds / (at.step - self._first) * (total - at.step)
        rate = self._count / seconds
        return PageProgress(at.epoch, at.step, total, count, loss, rate, left)
