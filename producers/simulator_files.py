"""The files of a simulated world: their schemas, written row group by row group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

DAY_US = 86_400_000_000

KINDS = {"user": 1, "pin": 2, "page": 3, "item": 4, "advertiser": 5}
"""Ids of a kind lie in a range of a billion: 1e9 times this, plus the position."""
ID_RANGE = 1_000_000_000

SURFACES = ("home", "related", "search")
ENGAGEMENTS = ("click", "long_click", "save", "hide")
CONVERSIONS = ("page_visit", "add_to_cart", "checkout", "sign_up")
_CODES = {"surface": SURFACES, "engagements.type": ENGAGEMENTS, "conversions.type": CONVERSIONS}

_TIME = pa.timestamp("us", tz="UTC")
_VECTOR = pa.list_(pa.float32())


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


_ID = pa.int64()
SCHEMAS: Mapping[str, pa.Schema] = {
    "impressions": _schema(
        impression_id=_ID,
        event_timestamp=_TIME,
        user_id=_ID,
        pin_id=_ID,
        position=pa.int8(),
        surface=pa.string(),
    ),
    "engagements": _schema(
        impression_id=_ID, event_timestamp=_TIME, user_id=_ID, pin_id=_ID, type=pa.string()
    ),
    "conversions": _schema(
        conversion_id=_ID,
        event_timestamp=_TIME,
        user_id=_ID,
        item_id=_ID,
        page_id=_ID,
        advertiser_id=_ID,
        type=pa.string(),
        impression_id=_ID,
    ),
    "users": _schema(user_id=_ID, created_timestamp=_TIME),
    "pins": _schema(
        pin_id=_ID,
        page_id=_ID,
        item_id=_ID,
        advertiser_id=_ID,
        created_timestamp=_TIME,
        image_vector=_VECTOR,
    ),
    "pages": _schema(
        page_id=_ID,
        url=pa.string(),
        advertiser_id=_ID,
        text_vector=_VECTOR,
        image_vector=_VECTOR,
        crawled_timestamp=_TIME,
    ),
    "items": _schema(item_id=_ID, advertiser_id=_ID, page_id=_ID, created_timestamp=_TIME),
    "advertisers": _schema(advertiser_id=_ID),
    "pin_topics": _schema(pin_id=_ID, topics=_VECTOR, quality=pa.float32()),
    "interests": _schema(user_id=_ID, interests=_VECTOR),
    "click_probability": _schema(
        impression_id=_ID, p_click=pa.float32(), p_conversion=pa.float32(), affinity=pa.float32()
    ),
}
DAILY_EVENTS = ("impressions", "engagements", "conversions")
DAILY_TRUTH = ("interests", "click_probability")
ENTITY_TABLES = ("advertisers", "users", "items", "pages", "pins")


def vectors(matrix: npt.NDArray[np.float32]) -> pa.ListArray:
    """A float32 matrix (n, d) as n lists of d values, without a copy of the values."""
    rows, width = matrix.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(matrix).ravel())


def table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    """Rows of the table `name`: positions become ids, codes their words, -1 in an id null."""
    schema = SCHEMAS[name]
    return pa.table([_column(name, field, columns[field.name]) for field in schema], schema=schema)


def _column(name: str, field: pa.Field, values: Any) -> pa.Array:
    if not isinstance(values, np.ndarray):
        return values if isinstance(values, pa.Array) else pa.array(values, field.type)
    words = _CODES.get(field.name) or _CODES.get(f"{name}.{field.name}")
    if words:
        return pa.DictionaryArray.from_arrays(values.astype(np.int8), words).cast(pa.string())
    kind = field.name.removesuffix("_id")
    if kind in KINDS:
        return pa.array(values.astype(np.int64) + KINDS[kind] * ID_RANGE)
    if kind == "impression":
        return pa.array(values, field.type, mask=values < 0)
    return pa.array(values).cast(field.type)


class RowGroupFile:
    """One Parquet file, written in row groups of exactly `chunk_rows` (the last one fewer).

    Holds what is added only until it fills a row group, so memory is one addition and one group.
    """

    def __init__(self, path: Path, schema: pa.Schema, chunk_rows: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows = path, 0
        # Dictionaries pay where values repeat: not for numbers with a fraction, not for own ids.
        repeating = [field.name for field in schema if field.type in (pa.string(), pa.int64())]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=repeating[1:],
        )
        self._chunk_rows = chunk_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Append rows of the file's schema."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self._chunk_rows:
            self._write(self._waiting_rows - self._waiting_rows % self._chunk_rows)

    def _write(self, count: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        for first in range(0, count, self._chunk_rows):
            size = min(self._chunk_rows, count - first)
            self._writer.write_table(waiting.slice(first, size), row_group_size=size)
        # A copy, because a slice would keep the whole of what was written alive.
        left = waiting.slice(count).combine_chunks()
        self.rows += count
        self._waiting, self._waiting_rows = [left] if len(left) else [], len(left)

    def close(self) -> None:
        """Write what waits, and the footer; without it the file is no Parquet file."""
        if self._waiting_rows:
            self._write(self._waiting_rows)
        self._writer.close()
