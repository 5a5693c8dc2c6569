"""How good predicted probabilities are, by task: ranking, log loss, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
#: Probabilities are kept so far from 0 and 1 in the log loss.
_EDGE = 1e-7
_BINS = 10


@dataclass(frozen=True)
class Bin:
    """Some rows of about equal predictions: their weight, mean prediction and share observed."""

    weight: float
    predicted: float
    observed: float


@dataclass(frozen=True)
class TaskFigures:
    """One task's figures.

    Attributes:
        rows, positives: counts of known labels.
        auc: None where only one kind of label is there.
        log_loss: nats a row, None of scores that are no probabilities.
        calibration: expected over observed positives, 1 is right; None likewise and without any.
        bins: ten, of equal weight, by ascending prediction; none of scores.
    """

    rows: int
    positives: int
    auc: float | None
    log_loss: float | None = None
    calibration: float | None = None
    bins: tuple[Bin, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def ranking_figures(labels: Floats, scores: Floats, weight: Floats) -> TaskFigures:
    """Of scores (n,) of which only the order counts; labels 0 or 1, all (n,)."""
    return TaskFigures(len(labels), int(labels.sum()), auc(labels, scores, weight))


def probability_figures(labels: Floats, predicted: Floats, weight: Floats) -> TaskFigures:
    """Of probabilities (n,); labels 0 or 1, weights as the rows stand for, all (n,)."""
    if not len(labels):
        return TaskFigures(0, 0, None)
    # Weights that are added up in float32 would miss the tenths, and stand still at 2^24.
    weight = weight.astype(np.float64)
    p = np.clip(predicted.astype(np.float64), _EDGE, 1 - _EDGE)
    losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    observed = float(weight @ labels)
    return TaskFigures(
        rows=len(labels),
        positives=int(labels.sum()),
        auc=auc(labels, predicted, weight),
        log_loss=float(np.average(losses, weights=weight)),
        calibration=float(weight @ predicted) / observed if observed else None,
        bins=tuple(_bins(labels, predicted, weight)),
    )


def auc(labels: Floats, scores: Floats, weight: Floats) -> float | None:
    """Area under the ROC curve, of weighted rows; None where a kind of label is missing."""
    if not len(labels) or labels.min() == labels.max():
        return None
    from sklearn.metrics import roc_auc_score  # late: a second to import

    return float(roc_auc_score(labels, scores, sample_weight=weight))


def _bins(labels: Floats, predicted: Floats, weight: Floats) -> Sequence[Bin]:
    order = np.argsort(predicted, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    places = np.minimum((share * _BINS - 1e-9).astype(int), _BINS - 1)
    found = []
    for each in range(_BINS):
        rows = order[places == each]
        if len(rows):
            of = weight[rows]
            found.append(
                Bin(
                    float(of.sum()),
                    float(np.average(predicted[rows], weights=of)),
                    float(np.average(labels[rows], weights=of)),
                )
            )
    return found
