"""Feast's metadata filters, on decoded columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from feast.filter_models import ComparisonFilter, CompoundFilter

from provender.plugin.online_rows import Bools, Column

Filter = ComparisonFilter | CompoundFilter

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


def filtered_features(filters: Filter | None) -> set[str]:
    """The names of all features that a filter looks at."""
    if filters is None:
        return set()
    if isinstance(filters, ComparisonFilter):
        return {filters.key}
    return set().union(*(filtered_features(each) for each in filters.filters))


def passed(filters: Filter, columns: Mapping[str, Column], rows: int) -> Bools:
    """(n,) bool; a null passes no comparison, and neither does a value of another type."""
    if isinstance(filters, ComparisonFilter):
        column, compare = columns[filters.key], _COMPARED[filters.type]
        held = zip(column.values.tolist(), column.valid.tolist(), strict=True)
        return np.array(
            [valid and _holds(compare, value, filters.value) for value, valid in held],
            dtype=np.bool_,
        )
    masks = [passed(each, columns, rows) for each in filters.filters]
    if not masks:
        return np.ones(rows, dtype=np.bool_)
    both = np.logical_and if filters.type == "and" else np.logical_or
    return np.asarray(both.reduce(masks), dtype=np.bool_)


def _holds(compare: Callable[[Any, Any], Any], value: Any, wanted: Any) -> bool:
    try:
        return bool(compare(value, wanted))
    except (TypeError, ValueError):
        return False
