"""Scores made probabilities: a curve fitted on rows that were held back, and kept with the ranker.

Platt (1999) fits a line in the logits: two numbers, which a few dozen positives settle. Isotonic
regression (Zadrozny and Elkan 2002) fits any rising curve, and wants thousands.

Legend of shapes: n rows, k knots.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

Method = Literal["none", "platt", "isotonic"]
Floats = npt.NDArray[np.float64]
#: Scores are kept this far from 0 and 1 before their logits are taken.
_EDGE = 1e-7
#: With fewer of either class nothing can be said of a curve, and scores stay as they are.
FEWEST = 10


class Calibration(BaseModel):
    """What turns one task's scores to probabilities; it rises, so order stays but for ties.

    Attributes:
        slope, intercept: of Platt's line in the logits.
        scores, probabilities: (k,) ascending knots of an isotonic curve, straight between them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["platt", "isotonic"]
    slope: float = 1.0
    intercept: float = 0.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the probabilities (n,), in the dtype of the scores (n,)."""
        exact = scores.double()
        if self.method == "platt":
            logits = torch.logit(exact, eps=_EDGE)
            return torch.sigmoid(self.slope * logits + self.intercept).to(scores.dtype)
        found = np.interp(exact.cpu().numpy(), self.scores, self.probabilities)
        return torch.from_numpy(found).to(scores)


#: Task -> its curve.
Calibrations = dict[str, Calibration]


def fit_calibration(
    method: Method, labels: Floats, scores: Floats, weights: Floats
) -> Calibration | None:
    """Fit a curve to rows that the scores were not learned from; None where there is none to fit.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,) between 0 and 1.
        weights: (n,), 0 for rows whose label is not known.
    """
    known = weights > 0
    labels, scores, weights = labels[known], scores[known], weights[known]
    fewest = min((labels == 1).sum(), (labels == 0).sum())
    if method == "none" or fewest < FEWEST:
        return None
    if method == "platt":
        slope, intercept = _line(labels, scores, weights)
        return Calibration(method="platt", slope=slope, intercept=intercept)
    return _isotonic(labels, scores, weights)


def _line(labels: Floats, scores: Floats, weights: Floats) -> tuple[float, float]:
    """Maximise the likelihood of Platt's two numbers by Newton's steps."""
    logits = _logits(scores)
    slope, intercept = 1.0, 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-(slope * logits + intercept)))
        error, curve = weights * (p - labels), weights * p * (1 - p)
        gradient = np.array([(error * logits).sum(), error.sum()])
        mixed = (curve * logits).sum()
        hessian = np.array([[(curve * logits**2).sum(), mixed], [mixed, curve.sum()]])
        # A little more on the diagonal keeps scores that are all the same from being singular.
        step = np.linalg.solve(hessian + 1e-9 * weights.sum() * np.eye(2), gradient)
        size = min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        slope, intercept = slope - size * step[0], intercept - size * step[1]
        if np.abs(step).max() < 1e-10:
            break
    if slope > 0:
        return float(slope), float(intercept)
    return 1.0, _shift(labels, logits, weights)  # A falling line would turn the ranking round.


def _shift(labels: Floats, logits: Floats, weights: Floats) -> float:
    """The intercept at slope 1 with which as much is expected as was seen, by bisection."""
    wanted, low, high = float((weights * labels).sum()), -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        expected = float((weights / (1 + np.exp(-(logits + middle)))).sum())
        low, high = (middle, high) if expected < wanted else (low, middle)
    return (low + high) / 2


def _logits(scores: Floats) -> Floats:
    kept = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.log(kept) - np.log1p(-kept)


def _isotonic(labels: Floats, scores: Floats, weights: Floats) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=_EDGE, y_max=1 - _EDGE, out_of_bounds="clip")
    curve.fit(scores, labels, sample_weight=weights)
    return Calibration(
        method="isotonic",
        scores=tuple(float(x) for x in curve.X_thresholds_),
        probabilities=tuple(float(y) for y in curve.y_thresholds_),
    )
