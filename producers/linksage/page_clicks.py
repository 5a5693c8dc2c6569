"""Which of the pins that were shown for one page is clicked more? A ridge regression says it ahead.

What fared how is given by pin and page: how often it was shown and clicked, and when. The first
part of the time is learned from, the last fifth is judged by: of two pins of one page whose click
rates differ significantly, is the better one ranked first? Rates are compared within their page
alone, by which all that moves a page as a whole falls out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from provender.plugin.errors import TrainingError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
#: Columns of features by row: an array or a sparse matrix (n, f).
Seen = Any
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: Of a difference of two rates, in standard errors: 5 % of equal pairs pass it.
SIGNIFICANT = 1.96
#: Impressions at the mean rate that are added to each pin's, so that few say little.
_PRIOR = 20.0
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Outcomes:
    """How n pins fared.

    Attributes:
        page: int64 (n,), for which page.
        pin: int64 (n,), which pin.
        looks: int64 (n,), equal where two pins show the same: nothing can tell them apart.
        shown, clicked: float64 (n,), how often.
        time: float64 (n,), in any unit.
    """

    page: Rows
    pin: Rows
    looks: Rows
    shown: Floats
    clicked: Floats
    time: Floats

    def __len__(self) -> int:
        return len(self.page)

    def targets(self) -> Floats:
        """Log odds of a click with a little prior, less their mean in the page by impressions."""
        mean = self.clicked.sum() / self.shown.sum()
        rate = (self.clicked + _PRIOR * mean) / (self.shown + _PRIOR)
        odds = np.log(rate / (1 - rate))
        return np.asarray(odds - (self._means() @ odds)[self.page])

    def centred(self, seen: Seen) -> Seen:
        """Features less their means in the page by impressions."""
        members = sp.csr_array(
            (np.ones(len(self)), (np.arange(len(self)), self.page)),
            shape=(len(self), int(self.page.max()) + 1),
        )
        return seen - members @ (self._means() @ seen)

    def _means(self) -> sp.csr_array:
        pages = int(self.page.max()) + 1
        total = np.bincount(self.page, self.shown, minlength=pages)
        weight = self.shown / total[self.page]
        return sp.csr_array((weight, (self.page, np.arange(len(self)))), shape=(pages, len(self)))

    def significant(self, rows: NDArray[np.bool_]) -> Rows:
        """Pairs (m, 2) of rows of one page that look different and whose rates differ clearly.

        The better one comes first.
        """
        found = [pair for group in self._groups(rows) for pair in self._pairs(group)]
        return np.array(found, np.int64).reshape(-1, 2)

    def _groups(self, rows: NDArray[np.bool_]) -> Iterator[Rows]:
        chosen = np.flatnonzero(rows)
        chosen = chosen[np.argsort(self.page[chosen], kind="stable")]
        ends = np.flatnonzero(np.diff(self.page[chosen])) + 1
        yield from np.split(chosen, ends)

    def _pairs(self, group: Rows) -> Iterator[tuple[int, int]]:
        for one, other in combinations(group.tolist(), 2):
            if self.looks[one] == self.looks[other]:
                continue
            rates = [self.clicked[i] / self.shown[i] for i in (one, other)]
            both = self.shown[one] + self.shown[other]
            pooled = (self.clicked[one] + self.clicked[other]) / both
            error = np.sqrt(pooled * (1 - pooled) * (1 / self.shown[one] + 1 / self.shown[other]))
            if error > 0 and abs(rates[0] - rates[1]) > SIGNIFICANT * error:
                yield (one, other) if rates[0] > rates[1] else (other, one)


@dataclass(frozen=True)
class Verdict:
    """Of `pairs` that differ significantly, the share that was ranked right; ties count half.

    `margin` is what it is more than the first set of features has. `interval` and
    `margin_interval` hold these with 95 %, by resampling pages.
    """

    accuracy: float
    interval: tuple[float, float]
    margin: float
    margin_interval: tuple[float, float]
    pairs: int
    penalty: float


@dataclass(frozen=True, eq=False)
class _Times:
    """Masks of outcomes: to learn from while penalties are tried, to try them by, to judge by."""

    early: NDArray[np.bool_]
    tried: NDArray[np.bool_]
    late: NDArray[np.bool_]


def judge_clicks(outcomes: Outcomes, seen: Mapping[str, Seen], seed: int = 0) -> dict[str, Verdict]:
    """Rank the pins of each page by each set of features, and judge that by the last fifth.

    Args:
        outcomes: of n pins.
        seen: name -> features (n, f), dense or sparse; margins are over the first.
        seed: of the resampling.

    Raises TrainingError where no two pins of a page differ significantly.
    """
    times = _times(outcomes.time)
    tried, late = differing(outcomes)
    ranked = {name: _ranked(outcomes, each, times, tried, late) for name, each in seen.items()}
    (first, _), *_ = ranked.values()
    pages = outcomes.page[late[:, 0]]
    return {
        name: Verdict(
            accuracy=float(right.mean()),
            interval=_interval(right, pages, seed),
            margin=float((right - first).mean()),
            margin_interval=_interval(right - first, pages, seed),
            pairs=len(late),
            penalty=penalty,
        )
        for name, (right, penalty) in ranked.items()
    }


def differing(outcomes: Outcomes) -> tuple[Rows, Rows]:
    """Pairs (m, 2) of rows to choose a penalty by, and to judge by; the better one comes first.

    Raises TrainingError where there are none.
    """
    times = _times(outcomes.time)
    tried, late = (outcomes.significant(mask) for mask in (times.tried, times.late))
    for when, pairs in (("to choose a penalty by", tried), ("to judge by", late)):
        if not len(pairs):
            raise TrainingError(
                "outcomes",
                found=f"no two pins of a page that differ significantly {when}",
                expected="some in the last fifth of the time, and some in the one before",
                remedy="Give outcomes of more pages, or of more impressions each.",
            )
    return tried, late


def _times(time: Floats) -> _Times:
    """Cut where four fifths, and four fifths of these, of the distinct times lie before."""
    known = np.unique(time)
    late = known[int(len(known) * 0.8)]
    tried = known[int(len(known) * 0.64)]
    return _Times(time < tried, (time >= tried) & (time < late), time >= late)


def _ranked(
    outcomes: Outcomes, seen: Seen, times: _Times, tried: Rows, late: Rows
) -> tuple[Floats, float]:
    """Whether each late pair is ranked right, by the penalty that ranks those tried best."""
    from sklearn.linear_model import Ridge  # Late: it takes most of a second to import.

    centred, targets = outcomes.centred(seen), outcomes.targets()

    def scores(rows: NDArray[np.bool_], penalty: float) -> Floats:
        weight = outcomes.shown[rows] / outcomes.shown.mean()
        solver = "sparse_cg" if sp.issparse(centred) else "auto"
        ridge = Ridge(alpha=penalty, fit_intercept=False, solver=solver)
        ridge.fit(centred[rows], targets[rows], sample_weight=weight)
        return np.asarray(centred @ ridge.coef_)

    by_penalty = {each: _right(scores(times.early, each), tried).mean() for each in PENALTIES}
    best = max(by_penalty, key=lambda each: by_penalty[each])
    return _right(scores(times.early | times.tried, best), late), best


def _right(scores: Floats, pairs: Rows) -> Floats:
    better, worse = scores[pairs[:, 0]], scores[pairs[:, 1]]
    return np.where(better == worse, 0.5, better > worse)


def _interval(right: Floats, page: Rows, seed: int) -> tuple[float, float]:
    """Pairs of one page are no independent draws: whole pages are drawn."""
    _, group = np.unique(page, return_inverse=True)
    sums, counts = np.bincount(group, right), np.bincount(group)
    draws = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    shares = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)
