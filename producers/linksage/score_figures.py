"""How scores are distributed: histograms, quantiles, kurtosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from provender.producers.pin_ranking import Floats, Ints, Pairs
from provender.producers.vectors import unit

Scores = NDArray[np.floating[Any]]
#: The article's: nearly all negatives are below.
THRESHOLD = 0.25
#: Of the histograms of cosines.
EDGES = np.linspace(-1, 1, 81)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_ROWS = 2**16


@dataclass(frozen=True)
class Distribution:
    """Of `count` cosines; `counts` are those between two EDGES each, the last edge included."""

    count: int
    mean: float
    deviation: float
    kurtosis: float | None
    below: float
    quantiles: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, cosines: Scores) -> Distribution | None:
        """None of no scores. `below` is the share of scores less than THRESHOLD."""
        if not len(cosines):
            return None
        cosines = np.asarray(cosines, np.float64)
        return cls(
            len(cosines),
            float(cosines.mean()),
            float(cosines.std()),
            kurtosis(cosines),
            float((cosines < THRESHOLD).mean()),
            tuple(map(float, np.quantile(cosines, QUANTILES))),
            tuple(map(int, np.histogram(np.clip(cosines, -1, 1), EDGES)[0])),
        )

    def to_json(self) -> dict[str, Any]:
        """With the quantiles by name and the edges of the histogram."""
        return {
            "count": self.count,
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "kurtosis": self.kurtosis,
            f"below_{THRESHOLD}": self.below,
            "quantiles": dict(zip(map(str, QUANTILES), self.quantiles, strict=True)),
            "histogram": {"edges": EDGES.tolist(), "counts": list(self.counts)},
        }


def kurtosis(values: Scores) -> float | None:
    """Pearson's: the fourth central moment by the square of the second; 3 of a normal one.

    Excess (Fisher's) kurtosis is 3 less. None where all values are equal.
    """
    centred = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    squared = centred * centred
    variance = squared.mean()
    # What is left of equal values is rounding.
    if variance <= (1e-12 * max(1.0, float(np.abs(values).max()))) ** 2:
        return None
    return float((squared * squared).mean() / variance**2)


def paired_cosines(one: Floats, other: Floats, pairs: Pairs) -> Floats:
    """The cosine of one[pairs[0][i]] and other[pairs[1][i]], (p,) float32."""
    found = np.empty(len(pairs[0]), np.float32)
    for start in range(0, len(found), _ROWS):
        part = slice(start, start + _ROWS)
        rows = unit(one[pairs[0][part]]), unit(other[pairs[1][part]])
        found[part] = np.einsum("ij,ij->i", *rows)
    return found


def pairs_among(rows: int, most: int, seed: int) -> Pairs:
    """All pairs of different rows, each once, or `most` drawn ones where there are more."""
    if rows * (rows - 1) // 2 <= most:
        low, high = np.triu_indices(rows, 1)
        return Pairs(low.astype(np.int64), high.astype(np.int64))
    rng = np.random.default_rng(seed)
    low = rng.integers(0, rows, most)
    return Pairs(low, (low + rng.integers(1, rows, most)) % rows)


def drawn_negatives(pages: Ints, positives: csr_array, count: int, seed: int) -> Pairs:
    """Pairs of the given pages, each as often as it is given, and of any pin, but no positives.

    As many as were drawn less those that turned out to be `positives`, cells of (pages, pins).
    """
    rng = np.random.default_rng(seed)
    drawn = Pairs(rng.choice(pages, count), rng.integers(0, positives.shape[1], count))
    real = ~np.asarray(positives[drawn.rows, drawn.pins], bool).ravel()
    return Pairs(drawn.rows[real], drawn.pins[real])
