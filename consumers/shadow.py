"""Shadow reads: how a candidate's scores differ from those of what is live, on the same requests.

Nothing is kept of a request but its share in sums and histograms, so a log takes a fixed memory
however long it runs. Its quantiles are right to 1 %.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from provender.consumers.ranking_request import Scored

Floats = npt.NDArray[np.float64]

#: How many of the best are compared.
TOP = 10
#: Bins of a histogram, each wider by the same factor.
_BINS = 2400


class Side(BaseModel):
    """One side of the comparison.

    Attributes:
        versions: family -> version, as of the last request.
        mean_score: mean p(click) of all candidates.
        missing: view -> candidates without a vector.
        milliseconds: of fetching and scoring one request: "p50" and "p99".
    """

    model_config = ConfigDict(frozen=True)

    versions: dict[str, int]
    mean_score: float | None
    missing: dict[str, int]
    milliseconds: dict[str, float | None]


class ShadowReport(BaseModel):
    """What a log holds; a figure is None where nothing was compared that defines it.

    Attributes:
        requests: scored by both sides; candidates: of all of them.
        failures: requests that the candidate's side could not score; first_failure: why.
        difference: of p(click), absolute: "mean", "p95", "max".
        shift: mean p(click) of the candidate's side less that of the live one's.
        rank_correlation: mean of Spearman's within a request; ties share their ranks. Requests
            with one candidate, or equal scores throughout, have none.
        top: how many of the best are compared; top_overlap: mean share of them both sides name.
    """

    model_config = ConfigDict(frozen=True)

    requests: int
    candidates: int
    failures: int
    first_failure: str | None
    difference: dict[str, float | None]
    shift: float | None
    rank_correlation: float | None
    top: int
    top_overlap: float | None
    live: Side
    candidate: Side


class ShadowLog:
    """Adds requests up, from any number of threads."""

    def __init__(self, top: int = TOP) -> None:
        self._top, self._lock = top, threading.Lock()
        self._requests = self._failures = 0
        self._first_failure: str | None = None
        self._differences = Histogram(1e-9, 1.0)
        self._correlation, self._overlap = _Mean(), _Mean()
        self._live, self._candidate = _SideLog(), _SideLog()

    def add(self, live: Scored, candidate: Scored) -> None:
        """Add a request that both sides have scored, its candidates in the same order."""
        ours, theirs = (side.clicks.double().numpy() for side in (live, candidate))
        correlation, overlap = spearman(ours, theirs), top_overlap(ours, theirs, self._top)
        with self._lock:
            self._requests += 1
            self._live.add(live, ours)
            self._candidate.add(candidate, theirs)
            self._differences.add(np.abs(ours - theirs))
            self._correlation.add(correlation)
            self._overlap.add(overlap)

    def failed(self, error: Exception) -> None:
        """Count a request that the candidate's side could not score."""
        with self._lock:
            self._failures += 1
            told = " ".join(str(error).split())
            self._first_failure = self._first_failure or f"{type(error).__name__}: {told}"[:500]

    def report(self) -> ShadowReport:
        """Return what was added up so far."""
        with self._lock:
            shift = None
            live, candidate = self._live.scores.value, self._candidate.scores.value
            if live is not None and candidate is not None:
                shift = candidate - live
            return ShadowReport(
                requests=self._requests,
                candidates=self._differences.count,
                failures=self._failures,
                first_failure=self._first_failure,
                difference={
                    "mean": self._differences.mean,
                    "p95": self._differences.quantile(0.95),
                    "max": self._differences.max,
                },
                shift=shift,
                rank_correlation=self._correlation.value,
                top=self._top,
                top_overlap=self._overlap.value,
                live=self._live.side(),
                candidate=self._candidate.side(),
            )


class Histogram:
    """Counts of values in bins that widen by a constant factor; mean and maximum are exact.

    A quantile is within 1 % of a value between low and high, and exactly `low` below that.

    Args:
        low, high: what lies outside counts as lying on the edge.
    """

    def __init__(self, low: float, high: float) -> None:
        self._low, self._step = low, math.log(high / low) / _BINS
        self._counts = np.zeros(_BINS + 1, dtype=np.int64)
        self.count, self._sum, self._max = 0, 0.0, 0.0

    def add(self, values: Floats) -> None:
        """Count (n,) values, none below zero."""
        if not len(values):
            return
        places = np.log(np.maximum(values, self._low) / self._low) / self._step
        bins = np.minimum(np.rint(places), _BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_BINS + 1)
        self.count += len(values)
        self._sum += float(values.sum())
        self._max = max(self._max, float(values.max()))

    @property
    def mean(self) -> float | None:
        """The mean; None of nothing."""
        return self._sum / self.count if self.count else None

    @property
    def max(self) -> float | None:
        """The greatest; None of nothing."""
        return self._max if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the least value that at least this share of the values do not exceed."""
        if not self.count:
            return None
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.count - 1e-9))
        return min(self._low * math.exp(place * self._step), self._max)


class _Mean:
    """A mean of what is defined."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.add_all(value, 1)

    def add_all(self, total: float, count: int) -> None:
        self._sum += total
        self._count += count

    @property
    def value(self) -> float | None:
        return self._sum / self._count if self._count else None


class _SideLog:
    """What is added up of one side."""

    def __init__(self) -> None:
        self.scores, self._milliseconds = _Mean(), Histogram(1e-3, 1e6)
        self._versions: dict[str, int] = {}
        self._missing: dict[str, int] = {}

    def add(self, scored: Scored, clicks: Floats) -> None:
        self.scores.add_all(float(clicks.sum()), len(clicks))
        taken = 1000 * (scored.fetch_seconds + scored.score_seconds)
        self._milliseconds.add(np.array([taken]))
        self._versions = scored.versions
        for view, count in scored.missing.items():
            self._missing[view] = self._missing.get(view, 0) + count

    def side(self) -> Side:
        return Side(
            versions=dict(self._versions),
            mean_score=self.scores.value,
            missing=dict(self._missing),
            milliseconds={
                name: self._milliseconds.quantile(share)
                for name, share in (("p50", 0.5), ("p99", 0.99))
            },
        )


def spearman(ours: Floats, theirs: Floats) -> float | None:
    """Spearman's rank correlation of two (n,) scores, ties at their mean rank (Spearman 1904).

    None where one of them has no order: less than two values, or all equal.
    """
    one, other = (_ranks(each) for each in (ours, theirs))
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread else None


def _ranks(scores: Floats) -> Floats:
    """Ranks less their mean, (n,); equal scores share theirs."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - (counts + 1) / 2
    ranks: Any = middles[inverse]
    return np.asarray(ranks - (len(scores) - 1) / 2, dtype=np.float64)


def top_overlap(ours: Floats, theirs: Floats, top: int) -> float | None:
    """Return the share of the best `top` (or of all, if fewer) that both name; None of nothing."""
    top = min(top, len(ours))
    best, others = (set(np.argsort(-each, kind="stable")[:top].tolist()) for each in (ours, theirs))
    return len(best & others) / top if top else None
