"""Early stopping without leakage: a refresh is rehearsed as of some days earlier.

What came in those days judges the rehearsal after each epoch. The refresh proper then trains on
everything for as many epochs as were best, from the parent that is its own. All of it lies before
the as-of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provender.producers.evaluation import quality
from provender.producers.event_set import EventSet
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_loop import OnProgress
from provender.producers.training_state import curve_at_end
from provender.producers.transra_config import EarlyStopping, TransRAConfig
from provender.producers.validation import Validation, best_of
from provender.producers.warm_start import Parent


@dataclass(frozen=True)
class Rehearsal:
    """How it went.

    Attributes:
        epochs: how many were best.
        curve: what was judged every so many epochs: Recall@100, the mean over the relations.
        how: by which setting.
    """

    epochs: int
    curve: tuple[float, ...]
    how: EarlyStopping

    def settle(self, config: TransRAConfig, *, refresh: bool) -> TransRAConfig:
        """The configuration with these epochs: those of a refresh, or of a first one."""
        field = "refresh_epochs" if refresh else "epochs"
        return config.model_copy(update={field: self.epochs})

    @property
    def metrics(self) -> dict[str, float | None]:
        """For a manifest."""
        return {"early_stopping/epochs": self.epochs, "early_stopping/quality": max(self.curve)}

    @property
    def notes(self) -> dict[str, str]:
        """For a manifest: all judgements in their order."""
        curve = " ".join(f"{figure:.4f}" for figure in self.curve)
        return {"early_stopping": f"the last {self.how.hold_out_days:g} days held out: {curve}"}


def rehearse(
    graph: TripleGraph,
    former: EventSet,
    events: EventSet,
    config: TransRAConfig,
    how: EarlyStopping,
    checkpoints: Path,
    *,
    device: str = "auto",
    parent: Parent | None = None,
    on_progress: OnProgress | None = None,
) -> Rehearsal | None:
    """Train on the graph of the former events and judge by those that came since.

    Goes on where it was stopped, and is only looked up where it is done. None where no event of
    those days can be predicted: then there is nothing to stop by.
    """
    window = events.since(former)

    def judge(parameters: Parameters) -> float:
        found = quality(parameters, graph, window)
        return found.model if found else 0.0

    train(
        graph,
        config,
        device=device,
        checkpoint_dir=checkpoints,
        parent=parent,
        validation=Validation(judge, how.every, how.patience),
        on_progress=on_progress,
    )
    curve = curve_at_end(checkpoints, graph, config, parent)
    if not any(curve):
        return None
    most = config.refresh_epochs if parent else config.epochs
    return Rehearsal(min((best_of(curve) + 1) * how.every, most), tuple(curve), how)
