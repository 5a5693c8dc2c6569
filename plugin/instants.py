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
Missing = npt.NDArray[np.bool_]

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

    Raises TypeError, with the type, where the column holds no times.
    """
    counts, unit, missing = _counts(column)
    return _with_nulls(_scaled(counts, _PER_UNIT[unit]), missing)


def to_microseconds(column: pa.Array | pa.ChunkedArray) -> Instants:
    """Return the same in microseconds; finer times are rounded down."""
    counts, unit, missing = _counts(column)
    scaled = counts // 1000 if unit == "ns" else _scaled(counts, _PER_UNIT[unit] // 1000)
    return _with_nulls(scaled, missing)


def instant(time: datetime) -> int:
    """Return one time as nanoseconds; without a zone it is UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return min(max(_nanoseconds(aware - _EPOCH), EARLIEST), LATEST)


def duration(length: timedelta | None) -> int | None:
    """Return a ttl in nanoseconds; none and zero mean without limit, as in Feast."""
    return _nanoseconds(length) if length else None


def _counts(column: pa.Array | pa.ChunkedArray) -> tuple[Instants, str, Missing | None]:
    """Return how many of which unit each time is, and which are null, if any are."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if not pa.types.is_timestamp(column.type):
        raise TypeError(str(column.type))
    if not column.null_count:
        return column.cast(pa.int64()).to_numpy(), column.type.unit, None
    counts = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    missing = column.is_null()
    whole = missing.combine_chunks() if isinstance(missing, pa.ChunkedArray) else missing
    return counts, column.type.unit, whole.to_numpy(zero_copy_only=False)


def _with_nulls(instants: Instants, missing: Missing | None) -> Instants:
    return instants if missing is None else np.where(missing, NO_INSTANT, instants)


def _nanoseconds(length: timedelta) -> int:
    return (length // timedelta(microseconds=1)) * 1000


def _scaled(counts: Instants, factor: int) -> Instants:
    if factor == 1:
        return counts
    clipped = np.clip(counts, -(LATEST // factor), LATEST // factor)
    return np.asarray(clipped * factor, dtype=np.int64)
