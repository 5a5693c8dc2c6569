"""Exact nearest rows of a view, with filters on its features."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from feast.field import Field
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32

from provender.plugin.errors import FetchError
from provender.plugin.nearest import nearest
from provender.plugin.online_database import Cursor
from provender.plugin.online_rows import EPOCH, MICROSECOND, Bools, Column
from provender.plugin.online_view import OnlineView
from provender.plugin.stored_rows import FoundRows

Filter = ComparisonFilter | CompoundFilter
#: Rows that are scored at once.
SCAN_ROWS = 8_192

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, wanted: value in wanted,
    "nin": lambda value, wanted: value not in wanted,
}


@dataclass(frozen=True)
class Hit:
    """One of the nearest rows.

    Attributes:
        time: its event time.
        entity: its key.
        values: the requested features, the vector and the "distance".
        vector: the name of the vector feature.
    """

    time: datetime
    entity: EntityKey
    values: dict[str, Value]
    vector: str


def nearest_rows(
    online: OnlineView,
    names: Sequence[str],
    query: Sequence[float] | None,
    k: int,
    metric: str | None = None,
    text: str | None = None,
    filters: Filter | None = None,
) -> list[Hit]:
    """The k nearest of the rows that pass the filters, the nearest first.

    Raises FetchError: a request that can't be answered.
    """
    if text is not None:
        raise _refused(online, "a query_string", "an embedding: there is no text search")
    if query is None:
        raise _refused(online, "no embedding", "one")
    field = _vector_field(online)
    metric = metric or field.vector_search_metric or "cosine"
    wanted = list(dict.fromkeys([*(names or ()), field.name]))
    filtered = sorted(_features(filters))
    known = [slot.name for slot in online.layout.slots]
    strange = [name for name in [*wanted, *filtered] if name not in known]
    if strange:
        raise _refused(online, f"the features {', '.join(strange)}", f"of {', '.join(known)}")

    def search(cursor: Cursor) -> list[Hit]:
        with online.database.snapshot(cursor):
            scanned = _scanned(online, cursor, field.name, filters, filtered)
            best = nearest(np.asarray(query, dtype=np.float64), scanned, k, metric)
            if not best.keys:
                return []
            keys = np.array(best.keys, dtype=np.int64) if online.table.integer else best.keys
            _, found = online.find_by(cursor, keys)
            return _hits(online, keys, found, wanted, field.name, best.distances.tolist())

    return online.database.read(online.thing, search)


def _hits(
    online: OnlineView,
    keys: Any,
    found: FoundRows,
    wanted: Sequence[str],
    vector: str,
    distances: Sequence[float],
) -> list[Hit]:
    rows = zip(
        found.event_us.tolist(),
        online.keys.to_protos(keys),
        online.protos(found, wanted),
        distances,
        strict=True,
    )
    return [
        Hit(EPOCH + time * MICROSECOND, entity, values | {"distance": Value(float_val=far)}, vector)
        for time, entity, values, far in rows
    ]


def _scanned(
    online: OnlineView,
    cursor: Cursor,
    vector: str,
    filters: Filter | None,
    filtered: Sequence[str],
) -> Iterator[tuple[Any, Any]]:
    """Keys and vectors of the rows that have one and pass, a chunk at a time."""
    for keys, found in online.scan_by(cursor, SCAN_ROWS):
        columns = online.columns(found, [vector, *filtered])
        passed = columns[vector].valid
        if filters is not None:
            passed = passed & _passed(filters, columns)
        rows = np.flatnonzero(passed)
        if len(rows):
            vectors = columns[vector].values[rows]
            if vectors.dtype == object:
                vectors = _stacked(online, vectors)
            held = np.empty(len(keys), dtype=object)
            held[:] = keys
            yield (keys if isinstance(keys, np.ndarray) else held)[rows], vectors


def _stacked(online: OnlineView, vectors: Any) -> Any:
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise _refused(online, f"vectors of the lengths {sorted(lengths)}", "one length")
    return np.stack(vectors).astype(np.float32)


def _vector_field(online: OnlineView) -> Field:
    """The view's vector: the indexed one, else its only list of floats."""
    fields = list(online.feature_view.features)
    indexed = [each for each in fields if each.vector_index]
    vectors = indexed or [each for each in fields if each.dtype == Array(Float32)]
    if len(vectors) != 1:
        raise _refused(online, f"{len(vectors)} vector features", "one, with vector_index=True")
    return vectors[0]


def _features(filters: Filter | None) -> set[str]:
    if filters is None:
        return set()
    if isinstance(filters, ComparisonFilter):
        return {filters.key}
    return set().union(*(_features(each) for each in filters.filters))


def _passed(filters: Filter, columns: Mapping[str, Column]) -> Bools:
    """(n,) bool; a null passes no comparison, and neither does a value of another type."""
    if isinstance(filters, ComparisonFilter):
        column = columns[filters.key]
        compare = _COMPARED[filters.type]
        passed = [
            valid and _holds(compare, value, filters.value)
            for value, valid in zip(column.values.tolist(), column.valid.tolist(), strict=True)
        ]
        return np.array(passed, dtype=np.bool_)
    masks = [_passed(each, columns) for each in filters.filters]
    if not masks:
        return np.ones(len(next(iter(columns.values())).valid), dtype=np.bool_)
    both = np.logical_and if filters.type == "and" else np.logical_or
    return np.asarray(both.reduce(masks), dtype=np.bool_)


def _holds(compare: Callable[[Any, Any], Any], value: Any, wanted: Any) -> bool:
    try:
        return bool(compare(value, wanted))
    except (TypeError, ValueError):
        return False


def _refused(online: OnlineView, found: str, expected: str) -> FetchError:
    return FetchError(online.thing, found=found, expected=expected, remedy="Correct the request.")
