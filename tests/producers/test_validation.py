"""Early stopping: when to judge, when to stop, and that the best is kept."""

from __future__ import annotations

import pytest

from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.validation import Validation, best_of
from tests.producers.planted import GRAPH, changed, equal

CONFIG = changed(epochs=8, principal_axes=False)


class _Judge:
    """Gives the figures it was told to, and keeps what it was shown."""

    def __init__(self, figures: list[float]) -> None:
        self._figures = iter(figures)
        self.shown: list[Parameters] = []

    def __call__(self, parameters: Parameters) -> float:
        relation = {name: values.clone() for name, values in parameters.relation.items()}
        self.shown.append(Parameters(parameters.model, parameters.entity.clone(), relation))
        return next(self._figures)


@pytest.mark.parametrize(
    ("curve", "over"),
    [
        ([], False),
        ([0.1], False),
        ([0.3, 0.2], False),
        ([0.3, 0.2, 0.1], True),
        ([0.1, 0.3, 0.2], False),
        ([0.3, 0.3, 0.3], True),  # As good is no better.
        ([0.3, 0.2, 0.4], False),
    ],
)
def test_patience_counts_judgements_that_are_no_better(curve: list[float], over: bool) -> None:
    assert Validation(lambda _: 0.0, patience=2).over(curve) is over


def test_the_first_of_the_best_counts() -> None:
    assert best_of([0.1, 0.4, 0.4, 0.2]) == 1


def test_training_stops_after_patience_and_returns_the_best() -> None:
    judge = _Judge([1.0, 3.0, 2.0, 2.5, 9.0])
    best = train(GRAPH, CONFIG, validation=Validation(judge, patience=2))
    assert len(judge.shown) == 4
    assert equal(best, judge.shown[1])
    assert not equal(best, judge.shown[3])


def test_judged_every_so_many_epochs_and_at_the_end() -> None:
    judge, epochs = _Judge([1.0, 2.0, 3.0]), []
    validation = Validation(judge, every=3)
    last = train(
        GRAPH, CONFIG, validation=validation, on_progress=lambda at: epochs.append(at.epoch)
    )
    assert len(judge.shown) == 3
    assert max(epochs) == 7
    assert equal(last, judge.shown[2])
    assert equal(last, train(GRAPH, CONFIG))  # Judging changes nothing.
