"""Instants as integers: Arrow's times of every unit and zone as nanoseconds since 1970 in UTC.

Nanoseconds are the finest unit that sources have, so no comparison rounds. Times beyond their
range (the years 1677 to 2262) are held at its edges, which keeps their order to all others.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Instants = npt.NDArray[np.int64]

#: Stands for a null time; no real instant has it.
NO_INSTANT = int(np.iinfo(np.int64).min)
EARLIEST = NO_INSTANT + 1
LATEST = int(np.iinfo(np.int64).max)

_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_time(kind: pa.DataType) -> bool:
    """Return whether a column of this type can be read as instants."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def to_nanoseconds(column: pa.Array | pa.ChunkedArray) -> Instants:
    """Return a column's instants, int64 (n,); times without a zone are UTC, nulls NO_INSTANT.

    Raises TypeError where the column holds no times.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if not pa.types.is_timestamp(column.type):
        raise TypeError(f"a column of {column.type}, not of times")
    missing = column.null_count > 0
    counts = pc.fill_null(column.cast(pa.int64()), 0) if missing else column.cast(pa.int64())
    instants = _scaled(counts.to_numpy(), _PER_UNIT[column.type.unit])
    if missing:
        instants = np.where(pc.is_null(column).to_numpy(zero_copy_only=False), NO_INSTANT, instants)
    return instants


def instant(time: datetime) -> int:
    """Return one time as nanoseconds; without a zone it is UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return min(max(_nanoseconds(aware - _EPOCH), EARLIEST), LATEST)


def duration(length: timedelta | None) -> int | None:
    """Return a ttl in nanoseconds; none and zero mean without limit, as in Feast."""
    return _nanoseconds(length) if length else None


def _nanoseconds(length: timedelta) -> int:
    return (length // timedelta(microseconds=1)) * 1000


def _scaled(counts: Instants, factor: int) -> Instants:
    if factor == 1:
        return counts
    clipped = np.clip(counts, -(LATEST // factor), LATEST // factor)
    return np.asarray(clipped * factor, dtype=np.int64)
