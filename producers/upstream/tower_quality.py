"""What towers are worth on days that they have not seen: what an evaluation tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provender.producers.upstream.task_figures import TaskFigures

#: Who ranks the rows of a task.
TOWERS = "all three towers"
BARE = "all three, without context"
VECTORS = "vectors alone"
REFRESHED = "vectors as of the cut"
POPULARITY = "popularity"
RANDOM = "random"
KS = (10, 20, 100)
_FORMAT = 1


@dataclass(frozen=True)
class TowerQuality:
    """Figures of one training.

    Attributes:
        tasks: task -> who ranks -> figures. TOWERS are all three, with what is known at each row's
            time; BARE the same without the context, where one is declared; VECTORS the inner
            product of the user's and the pin's vectors at that time; REFRESHED that of the vectors
            as of the cut, as a downstream ranker has them; POPULARITY how often a pin was met
            before the cut; others by name, such as single-task models.
        lift_kept: task -> share of the towers' lift in AUC over popularity that VECTORS have; None
            where there is no such lift. The towers are BARE ones: a vector can't know where its pin
            is shown.
        recall: who ranks all pins for users -> k -> share of pairs found: `64 dims` and other
            prefixes, POPULARITY, RANDOM.
        pairs, candidates: of the recall.
        notes: what else is to be known, such as rows read and dropped.
    """

    tasks: Mapping[str, Mapping[str, TaskFigures]]
    lift_kept: Mapping[str, float | None]
    recall: Mapping[str, Mapping[int, float]]
    pairs: int
    candidates: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    def beside(self, others: Mapping[str, Mapping[str, TaskFigures]]) -> TowerQuality:
        """With figures of others, by name and task, beside those of the same tasks."""
        tasks = {
            task: {**by, **{name: found[task] for name, found in others.items() if task in found}}
            for task, by in self.tasks.items()
        }
        return replace(self, tasks=tasks)

    def to_json(self) -> dict[str, Any]:
        """Everything, with string keys."""
        return {
            "format": _FORMAT,
            "tasks": {
                task: {who: one.to_json() for who, one in by.items()}
                for task, by in self.tasks.items()
            },
            "lift_kept": dict(self.lift_kept),
            "recall": {
                who: {f"recall@{k}": value for k, value in by_k.items()}
                for who, by_k in self.recall.items()
            },
            "pairs": self.pairs,
            "candidates": self.candidates,
            "notes": dict(self.notes),
        }


def lift_kept(towers: float | None, vectors: float | None, floor: float | None) -> float | None:
    """The share of a lift in AUC over a floor that vectors have; None without a lift."""
    if towers is None or vectors is None or floor is None or towers <= floor:
        return None
    return (vectors - floor) / (towers - floor)
