"""What an online store answers to the tensor path: arrays in request order, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Column:
    """One feature of n rows.

    Attributes:
        values: (n,) numbers, bools, or `datetime64[s]`; (n, dim) float32 for vectors of a declared
            length; (n,) objects for anything of variable length. Zero, or None, where not valid.
        valid: (n,) bool: the row is there and the feature is not null.
    """

    values: npt.NDArray[Any]
    valid: Bools


@dataclass(frozen=True)
class OnlineRows:
    """The rows of one view in the order asked for, duplicates included.

    Attributes:
        present: (n,) bool: the key is in the store.
        event_us: (n,) int64: event time in microseconds since 1970 in UTC, 0 where missing.
        columns: feature -> its values.
        keys: join key -> (n,) values, int64 or objects, where the rows come from a scan.
    """

    present: Bools
    event_us: Ints
    columns: dict[str, Column]
    keys: dict[str, npt.NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.present)

    def spread(self, present: Bools) -> OnlineRows:
        """These rows as the present ones of (n,) `present`, and nothing for the others."""

        def filled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            empty = None if values.dtype == object else np.zeros((), dtype=values.dtype)
            made = np.full((len(present), *values.shape[1:]), empty, dtype=values.dtype)
            made[present] = values
            return made

        columns = {
            name: Column(filled(column.values), filled(column.valid))
            for name, column in self.columns.items()
        }
        return OnlineRows(present, filled(self.event_us), columns)

    def ages(self, now: datetime | None = None) -> Floats:
        """(n,) float64 seconds from each event time to now; NaN where the key is missing."""
        seconds: Floats = self._ages_us(now) / 1e6
        seconds[~self.present] = np.nan
        return seconds

    def fresh(self, ttl: timedelta | None, now: datetime | None = None) -> Bools:
        """(n,) bool: what a point-in-time join at `now` would use.

        That is: present, and :func:`usable` then.
        """
        return self.present & usable(self._ages_us(now), ttl)

    def _ages_us(self, now: datetime | None) -> Ints:
        ages: Ints = microseconds_of(datetime.now(UTC) if now is None else now) - self.event_us
        return ages


def microseconds_of(time: datetime) -> int:
    """A time as microseconds since 1970; without a zone it is UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - EPOCH) // MICROSECOND


def usable(ages_us: Ints, ttl: timedelta | None) -> Bools:
    """(n,) bool: not from the future and not older than `ttl`, both edges included.

    A ttl of None or zero means for ever, as in Feast.
    """
    return (ages_us >= 0) & (ages_us <= ttl // MICROSECOND) if ttl else ages_us >= 0
