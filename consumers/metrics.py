"""How good predicted probabilities are: ranking (AUC), log loss, calibration, paired intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from provender.plugin.errors import TrainingError

Floats = npt.NDArray[np.float64]

#: Probabilities are kept this far from 0 and 1 in the log loss, as float32 sigmoids can reach both.
EPSILON = 1e-7


class TaskMetrics(BaseModel):
    """One task's figures; what is undefined is None, with the reason.

    Attributes:
        calibration: predicted positives a real one.
        calibration_before: the same of scores before their curve; None where it is not told.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    positives: int
    auc: float | None
    log_loss: float | None
    calibration: float | None
    reason: str | None = None
    calibration_before: float | None = None


def _checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, dtype=np.float64)
    if not y.shape == p.shape == w.shape or y.ndim != 1:
        raise TrainingError(
            "metrics",
            found=f"labels of shape {y.shape} and scores of shape {p.shape}, weights {w.shape}",
            expected="vectors of one length",
            remedy="Score the rows that the labels belong to.",
        )
    if not np.isfinite(p).all() or not np.isin(y, (0.0, 1.0)).all():
        raise TrainingError(
            "metrics",
            found="a label other than 0 and 1, or a score that is no finite number",
            expected="labels 0 or 1 and finite scores",
            remedy="Lower the learning rate if the training diverged.",
        )
    if not np.isfinite(w).all() or (w < 0).any():
        raise TrainingError(
            "metrics",
            found="a weight below 0, or one that is no finite number",
            expected="weights of rows: 0 where the label is not known",
            remedy="Correct the weights.",
        )
    return y, p, w


def auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative) + P(equal) / 2.

    By the rank sum (Mann and Whitney 1947) with midranks for ties; NaN when a class is absent.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), higher is more likely; only their order matters.
        weights: (n,), how many rows each counts for; 1 by default.
    """
    y, p, w = _checked(labels, scores, weights)
    positives = float(w[y == 1].sum())
    negatives = float(w[y == 0].sum())
    if positives == 0 or negatives == 0:
        return math.nan
    _, inverse = np.unique(p, return_inverse=True)
    counts = np.bincount(inverse, weights=w)
    midranks = np.cumsum(counts) - counts / 2
    rank_sum = float((w * midranks[inverse])[y == 1].sum())
    return (rank_sum - positives**2 / 2) / (positives * negatives)


def log_loss(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Mean negative log likelihood in nats; NaN for no rows."""
    y, p, w = _checked(labels, probabilities, weights)
    if not w.sum():
        return math.nan
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return float(-np.average(y * np.log(p) + (1 - y) * np.log1p(-p), weights=w))


def calibration(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Predicted positives a real one: 1 is calibrated, above is too high; NaN without positives."""
    y, p, w = _checked(labels, probabilities, weights)
    return float((w * p).sum() / (w * y).sum()) if (w * y).any() else math.nan


def task_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> TaskMetrics:
    """All figures of one task, never raising for a class that is absent.

    Args:
        labels: (n,) of 0 and 1.
        probabilities: (n,).
        weights: (n,), how many rows each counts for; rows of 0 are not counted at all.
    """
    y, p, w = _checked(labels, probabilities, weights)
    y, p, w = y[w > 0], p[w > 0], w[w > 0]
    positives = int(y.sum())
    reason = None
    if positives in (0, len(y)):
        kind = "no rows" if not len(y) else "no positives" if not positives else "no negatives"
        reason = f"AUC is undefined with {kind}"
    return TaskMetrics(
        rows=len(y),
        positives=positives,
        auc=_number(auc(y, p, w)),
        log_loss=_number(log_loss(y, p, w)),
        calibration=_number(calibration(y, p, w)),
        reason=reason,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Interval(BaseModel):
    """A mean with its two-sided 95% t-interval; no bounds when there are fewer than two values."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_interval(differences: Sequence[float]) -> Interval:
    """The 95% t-interval of the mean of paired differences (Student 1908)."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    half = t_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def t_quantile(degrees: int, central: float = 0.95) -> float:
    """The t whose interval [-t, t] holds `central` of Student's distribution.

    Found by bisection on Simpson's rule, which spares a dependency on SciPy; right to 1e-6.
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_mass(middle, degrees) < central else (low, middle)
    return (low + high) / 2


def _t_mass(t: float, degrees: int, steps: int = 4000) -> float:
    """P(-t < T < t), integrated over the angle arctan(x / sqrt(degrees)), where it is smooth."""
    angle = np.linspace(0.0, math.atan(t / math.sqrt(degrees)), steps + 1)
    density = np.cos(angle) ** (degrees - 1)
    weights = np.ones(steps + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = float((weights * density).sum()) * float(angle[1]) / 3
    log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    return 2 * integral * math.exp(log_constant) / math.sqrt(math.pi)
