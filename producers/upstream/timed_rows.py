"""What happened to whom and when, looked up as of a time: the one place where time is compared.

Entries lie by row, then by time. All lookups are for many rows at once, by binary search within
each row's entries, and see only what lies strictly before the time that asks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Behind the last entry stands one that is later than any, so that every position can be read.
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class TimedRows:
    """Times by row.

    Attributes:
        offsets: int64 (n + 1,); the entries of row r are those from offsets[r] to offsets[r + 1].
        times: int64 (e + 1,), ascending within each row, the last one NEVER; may be mapped.
    """

    offsets: Ints
    times: Ints

    @classmethod
    def of_sorted(cls, rows: NDArray[np.integer], times: Ints, count: int) -> TimedRows:
        """Entries sorted by row and time, of `count` rows; `times` ends with NEVER, as above."""
        return cls(np.searchsorted(rows, np.arange(count + 1)).astype(np.int64), times)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def before(self, rows: Ints, times: Ints) -> Ints:
        """The end of each row's entries that are strictly before its time: int64 (m,)."""
        return self.before_within(self.offsets[rows], self.offsets[rows + 1], times)

    def before_within(self, low: Ints, high: Ints, times: Ints) -> Ints:
        """The same among the entries from `low` to `high`, all of one row."""
        found, span = low.copy(), high - low
        step = 1 << int(span.max(initial=0)).bit_length() >> 1
        while step:
            # Few rows are long: the first steps are theirs alone.
            wide = (span >= step).nonzero()[0]
            probe = found[wide] + step
            inside = probe <= high[wide]
            inside &= self.times[np.minimum(probe, high[wide]) - 1] < times[wide]
            found[wide] += step * inside
            step >>= 1
        return found

    def newest(self, rows: Ints, times: Ints) -> tuple[Ints, Flags]:
        """The position of each row's newest entry strictly before its time, and if there is one."""
        ends = self.before(rows, times)
        return ends - 1, ends > self.offsets[rows]


@dataclass(frozen=True, eq=False)
class PairRows:
    """Times by pair of user and pin.

    Attributes:
        pairs: int64 (n,), user * pins + pin, ascending.
        rows: of n + 1 rows, the last of which has no entry: that of all other pairs.
        pins: how many there are.
    """

    pairs: Ints
    rows: TimedRows
    pins: int

    @classmethod
    def of_sorted(cls, pairs: Ints, times: Ints, pins: int) -> PairRows:
        """Entries sorted by pair and time; `times` ends with NEVER."""
        first = np.flatnonzero(np.diff(pairs, prepend=-1))
        offsets = np.append(first, [len(pairs)] * 2)
        return cls(pairs[first], TimedRows(offsets, times), pins)

    def of(self, users: Ints, pins: Ints) -> Ints:
        """The rows of pairs: int64 (m,)."""
        wanted = users * self.pins + pins
        if not len(self.pairs):
            return np.zeros(len(wanted), np.int64)
        places = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        return np.where(self.pairs[places] == wanted, places, len(self.pairs))
