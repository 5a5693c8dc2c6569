"""Point-in-time joins the slow and obvious way: for each entity row, a loop over all feature rows.

DESIGN.md, "Point in time", word for word; it shares nothing with the stores that it judges. Rows
are dicts of Python values, times are nanoseconds since 1970 as int.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Row = dict[str, Any]

PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
#: Stands for NaN, which equals not even itself.
NAN = "not a number"


@dataclass(frozen=True)
class Facts:
    """The rows of one feature view, and how they are joined.

    Attributes:
        keys: column of a key here -> column of the entity rows.
        features: column of a feature here -> column of the result.
        ttl: in nanoseconds; None and 0 are without limit.
    """

    rows: Sequence[Row]
    keys: Mapping[str, str]
    features: Mapping[str, str]
    ttl: int | None = None
    time: str = "event_timestamp"
    created: str | None = "created_timestamp"


def joined(
    entities: Sequence[Row],
    views: Sequence[Facts],
    *,
    time: str = "event_timestamp",
    strict: bool = False,
) -> list[Row]:
    """The entity rows as they are, each with the features that held at its time.

    With `strict` only values count that were created by then, as far as their view says when.
    """
    result = []
    for entity in entities:
        row = dict(entity)
        for view in views:
            held = newest(view, entity, entity[time], strict=strict)
            for feature, column in view.features.items():
                row[column] = None if held is None else held[feature]
        result.append(row)
    return result


def newest(view: Facts, entity: Row, t: int, *, strict: bool) -> Row | None:
    """The view's row that holds for an entity at a time."""
    best: Row | None = None
    for row in view.rows:
        if not all(equal(row[here], entity[there]) for here, there in view.keys.items()):
            continue
        if row[view.time] is None or row[view.time] > t:
            continue
        if view.ttl and t - row[view.time] > view.ttl:
            continue
        if strict and view.created and (row[view.created] is None or row[view.created] > t):
            continue
        if best is None or age(view, row) > age(view, best):
            best = row
    return best


def equal(ours: Any, theirs: Any) -> bool:
    """Whether two keys are the same; a missing one is nobody's."""
    return ours is not None and theirs is not None and ours == theirs and ours != NAN


def age(view: Facts, row: Row) -> tuple[int, bool, int]:
    """What makes a row newer than another: its event time, then its created time if it has one."""
    created = row[view.created] if view.created else None
    return row[view.time], created is not None, created or 0


def rows_of(table: pa.Table) -> list[Row]:
    """An Arrow table as rows: times of every unit and zone as nanoseconds, NaN as NAN."""
    columns = {name: plain(table[name]) for name in table.column_names}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def plain(column: pa.ChunkedArray) -> list[Any]:
    """A column's values as Python's."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        scale = PER_UNIT[column.type.unit]
        counts = column.cast(pa.int64()).to_pylist()
        return [None if count is None else count * scale for count in counts]
    return [without_nan(value) for value in column.to_pylist()]


def without_nan(value: Any) -> Any:
    """The value, in lists too, with NAN for NaN."""
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return NAN if isinstance(value, float) and math.isnan(value) else value
