"""Early stopping: judge every few epochs, keep the best, stop when nothing betters it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provender.producers.parameters import Parameters


@dataclass(frozen=True)
class Validation:
    """How training is judged.

    Attributes:
        judge: parameters to one figure, higher is better.
        every: judge after so many epochs, and after the last.
        patience: stop after so many judgements in a row that are no better than the best.
    """

    judge: Callable[[Parameters], float]
    every: int = 1
    patience: int = 3

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to judge after so many of all epochs."""
        return epoch % self.every == 0 or epoch == epochs

    def over(self, curve: Sequence[float]) -> bool:
        """Whether to stop after these judgements."""
        return bool(curve) and len(curve) - best_of(curve) > self.patience


def best_of(curve: Sequence[float]) -> int:
    """The position of the first best figure."""
    return max(range(len(curve)), key=curve.__getitem__)
