"""Alias tables (Walker 1977): a weighted draw from a row of any length by two looks.

All rows are made at once by prefix sums (Hübschle-Schneider and Sanders 2022, section 4.2). Weights
become integers first, so that the sums are exact and no row's table depends on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A weight of a row's mean; a draw of so many values decides between a place and its alias.
UNIT = 1 << 24

Ints = NDArray[np.int64]


def alias_tables(offsets: Ints, weights: NDArray[np.float32]) -> tuple[NDArray[np.int32], Ints]:
    """The tables of rows (n + 1,) of weights (m,) above zero.

    Whoever draws place p of its row, all alike, and k of 0 to UNIT - 1 takes p if ``k < keep[p]``,
    ``alias[p]`` otherwise: `keep` int32 (m,), `alias` int64 (m,), a place of the same row. A
    weight is met to 1/UNIT of its row's mean.
    """
    shares = _shares(offsets, weights)
    light, heavy = np.flatnonzero(shares < UNIT), np.flatnonzero(shares > UNIT)
    lack, surplus = np.cumsum(UNIT - shares[light]), np.cumsum(shares[heavy] - UNIT)
    keep, alias = np.full(len(shares), UNIT, np.int64), np.arange(len(shares))
    # What light places lack comes from heavy ones, in order: the current one is the first whose
    # surplus, and that of those before it, isn't used up. Both sums are equal where a row ends.
    keep[light] = shares[light]
    before = lack - (UNIT - shares[light])
    alias[light] = heavy[np.searchsorted(surplus, before, side="right")] if len(light) else 0
    # The one that uses a heavy place up takes more than there is, and the next heavy place makes
    # up for that; a place that is used up without a rest stays whole.
    last = np.searchsorted(lack, surplus, side="right")
    used = np.flatnonzero(last < len(light))
    used = used[before[last[used]] < surplus[used]]
    keep[heavy[used]] = UNIT - (lack[last[used]] - surplus[used])
    alias[heavy[used]] = heavy[np.searchsorted(surplus, surplus[used], side="right")]
    return keep.astype(np.int32), alias


def _shares(offsets: Ints, weights: NDArray[np.float32]) -> Ints:
    """Weights as integers whose sum in each row is UNIT times its length."""
    lengths = np.diff(offsets)
    total = _row_sums(offsets, weights.astype(np.float64))
    scale = np.divide(lengths * float(UNIT), total, out=np.zeros_like(total), where=total > 0)
    shares: Ints = np.floor(weights * np.repeat(scale, lengths)).astype(np.int64)
    missing = lengths * UNIT - _row_sums(offsets, shares)
    places = np.arange(len(weights)) - np.repeat(offsets[:-1], lengths)
    shares += places < np.repeat(missing, lengths)
    return shares


def _row_sums(offsets: Ints, numbers: NDArray[Any]) -> NDArray[Any]:
    sums = np.zeros(len(offsets) - 1, numbers.dtype)
    full = offsets[1:] > offsets[:-1]
    if full.any():
        sums[full] = np.add.reduceat(numbers, offsets[:-1][full])
    return sums
