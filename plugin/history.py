"""The history of every key: which of its values was the newest at a time.

The join of DESIGN.md's "Point in time": the newest event time not after t, the newest created
time among equals, nothing older than the ttl; with ``strict``, nothing created after t.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from provender.plugin.instants import LATEST, NO_INSTANT, Instants
from provender.plugin.key_index import NO_RANK, Ranks

Positions = npt.NDArray[np.int64]

#: The position of a value that is not there.
MISSING = -1


class History:
    """Values by key and time, found by binary search for all rows at once.

    Args:
        ranks: int64 (n,), each value's key; values of NO_RANK are never found.
        event: int64 (n,), nanoseconds; values without a time are never found.
        created: int64 (n,) or None; a value without one is older than its equals with one.
        strict: a value is not known before it was created (and never, if that is not known).

    Takes 24 bytes a value, and twice that while it is built.
    """

    def __init__(
        self, ranks: Ranks, event: Instants, created: Instants | None, *, strict: bool = False
    ) -> None:
        known = np.maximum(event, created) if strict and created is not None else event
        usable = (ranks != NO_RANK) & (event != NO_INSTANT)
        if strict and created is not None:
            usable &= created != NO_INSTANT
        rows = np.flatnonzero(usable)
        ranks, event, known = ranks[rows], event[rows], known[rows]
        age = (ranks, event) if created is None else (ranks, event, created[rows])
        order = _sorted(*age)
        self._rows = rows[order]
        self._event = event[order]
        ranks, known = ranks[order], known[order]
        # In order of what becomes known, the best so far is the one that is last by age: a
        # running maximum, which never reaches back to another key because ranks ascend.
        by_known = _sorted(ranks, known)
        self._best = np.maximum.accumulate(by_known) if len(by_known) else by_known
        self._known = known[by_known]
        self._starts = np.searchsorted(ranks, np.arange(int(ranks.max(initial=-1)) + 2))

    def find(self, ranks: Ranks, times: Instants, ttl: int | None = None) -> Positions:
        """Return which value holds for each key at its time, or MISSING: int64 (m,).

        A position counts the values as they were given to the constructor.

        Args:
            ranks: int64 (m,), NO_RANK for a key without values.
            times: int64 (m,), nanoseconds.
            ttl: for how many nanoseconds after its event time a value holds, both ends included.
        """
        if not len(self._rows):
            return np.full(len(ranks), MISSING, np.int64)
        within = np.minimum(ranks, len(self._starts) - 2)
        first, end = self._starts[within], self._starts[within + 1]
        last = self._count_known(first, end, times) - 1
        best = self._best[np.maximum(last, 0)]
        found = (last >= first) & (ranks == within) & (ranks != NO_RANK)
        found &= ~expired(self._event[best], times, ttl)
        return np.where(found, self._rows[best], MISSING)

    def _count_known(self, low: Positions, high: Positions, times: Instants) -> Positions:
        """Return the first place in low..high at which something later than the time stands."""
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) // 2
            known = (self._known[np.minimum(middle, len(self._known) - 1)] <= times) & (low < high)
            low = np.where(known, middle + 1, low)
            high = np.where(known, high, np.maximum(middle, low))
        return low


def expired(event: Instants, times: Instants, ttl: int | None) -> npt.NDArray[np.bool_]:
    """Return which values are older than the ttl at their times: bool (m,)."""
    if ttl is None:
        return np.zeros(len(times), np.bool_)
    horizon = np.where(event > LATEST - ttl, LATEST, event + np.int64(min(ttl, LATEST)))
    return np.asarray(horizon < times)


def _sorted(*columns: npt.NDArray[np.int64]) -> Positions:
    """Return the order by the first column, then the second, and so on; stable."""
    if _ascending(columns):
        return np.arange(len(columns[0]))
    return np.lexsort(columns[::-1])


def _ascending(columns: tuple[npt.NDArray[np.int64], ...]) -> bool:
    tied = np.ones(max(len(columns[0]) - 1, 0), np.bool_)
    for column in columns:
        step = column[1:] >= column[:-1]
        if not step[tied].all():
            return False
        tied &= column[1:] == column[:-1]
    return True
