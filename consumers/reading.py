"""What one read of an online store gives, and the batches that are made of it.

Legend of shapes: B candidates of a request, U distinct keys of all requests, L and P as in
history_shaping.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.consumers.fetch_request import Prepared
from provender.consumers.history_shaping import PastActions, first_seen, shape_history
from provender.consumers.ranking_task import PIN, USER
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.spec import VECTOR_COLUMN

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MergedKeys:
    """The keys of some requests, each once.

    Attributes:
        values: join key -> (U,) int64 or string.
        users: for each request the place of its user.
        pins: for each request, int64, the places of its own distinct pins.
    """

    values: dict[str, pa.Array]
    users: list[int]
    pins: list[Ints]


@dataclass(frozen=True)
class Reading:
    """Raw columns, by Feast's full names, a row a key; and the versions that they are of."""

    keys: MergedKeys
    columns: Mapping[str, Column]
    versions: Mapping[str, int]


def key_types(store: FeatureStore, layout: FeatureLayout) -> dict[str, pa.DataType]:
    """Join key -> int64 or string, as the registered views of a layout have it."""
    views = {spec.join_key: spec.view_name for spec in layout.embeddings}
    views |= {feature.join_key: feature.view for feature in layout.dense}
    types = {}
    for join_key, name in views.items():
        (column,) = store.get_feature_view(name).entity_columns
        kind = column.dtype.to_value_type().name
        if kind in ("INT32", "INT64", "STRING"):
            types[join_key] = pa.string() if kind == "STRING" else pa.int64()
    return types


def merged(asked: Sequence[Prepared]) -> MergedKeys:
    """Return the keys of all requests that have candidates, each once."""
    if len(asked) == 1:
        (only,) = asked
        places = np.arange(len(only.pins))
        return MergedKeys({USER: only.keys[USER][:1], PIN: only.pins}, [0], [places])
    users = pa.concat_arrays(_of_one_type([each.keys[USER][:1] for each in asked]))
    pins = pa.concat_arrays(_of_one_type([each.pins for each in asked]))
    of_users, of_pins = users.dictionary_encode(), pins.dictionary_encode()
    ends = np.cumsum([len(each.pins) for each in asked])[:-1]
    places = np.asarray(of_pins.indices.to_numpy(), np.int64)
    held = iter(of_users.indices.to_pylist())
    return MergedKeys(
        {USER: of_users.dictionary, PIN: of_pins.dictionary},
        [next(held) if len(each) else 0 for each in asked],
        np.split(places, ends),
    )


def nothing_read(layout: FeatureLayout, keys: MergedKeys) -> Reading:
    """Return a read in which every feature is missing, of no version."""
    columns = {}
    for spec in layout.embeddings:
        rows = len(keys.values[spec.join_key])
        vectors = np.zeros((rows, spec.dim), np.float32)
        columns[f"{spec.view_name}__{VECTOR_COLUMN}"] = Column(vectors, np.zeros(rows, np.bool_))
    for feature in layout.dense:
        rows = len(keys.values[feature.join_key])
        columns[feature.column] = Column(np.zeros(rows), np.zeros(rows, np.bool_))
    return Reading(keys, columns, {})


def shaped(
    layout: FeatureLayout,
    spec: HistorySpec | None,
    asked: Sequence[Prepared],
    reading: Reading,
) -> list[RankerBatch]:
    """Return a batch a request, in their order."""
    return [
        _batch(layout, spec, each, reading, user, pins)
        for each, user, pins in zip(asked, reading.keys.users, reading.keys.pins, strict=True)
    ]


def _batch(
    layout: FeatureLayout,
    spec: HistorySpec | None,
    asked: Prepared,
    reading: Reading,
    user: int,
    pins: Ints,
) -> RankerBatch:
    rows = {USER: np.full(len(asked), user), PIN: pins[asked.rows]}
    as_read = {
        join_key: _in_order(places, len(reading.keys.values[join_key]))
        for join_key, places in rows.items()
    }
    columns = {
        name: reading.columns[name]
        if as_read[join_key]
        else _spread(reading.columns[name], rows[join_key])
        for name, join_key in layout.columns().items()
    }
    return shape_batch(
        layout,
        columns,
        len(asked),
        context=asked.context,
        keys=asked.keys,
        history=None if spec is None else _history(layout, spec, asked, reading, pins),
        versions=reading.versions,
    )


def _history(
    layout: FeatureLayout, spec: HistorySpec, asked: Prepared, reading: Reading, pins: Ints
) -> History:
    """The past of the request's user, one row that stands for all."""
    items, firsts = first_seen(asked.past)
    held = asked.past[firsts]  # (U,) places in the request's pins
    columns = {
        each.view_name: _spread(reading.columns[f"{each.view_name}__{VECTOR_COLUMN}"], pins[held])
        for each in layout.embeddings
        if each.join_key == PIN
    }
    count = len(asked.past)
    actions = PastActions(
        rows=np.zeros(count, np.int64),
        places=np.arange(count),
        items=items,
        kinds=asked.kinds,
        ages_us=asked.ages_us,
    )
    one = shape_history(actions, (1, spec.length), asked.pins.take(pa.array(held)), columns)
    shape = len(asked), spec.length
    return replace(
        one,
        items=one.items.expand(shape),
        kinds=one.kinds.expand(shape),
        age_seconds=one.age_seconds.expand(shape),
    )


def _spread(column: Column, rows: Ints) -> Column:
    """The same for rows of keys."""
    ages = None if column.age_seconds is None else column.age_seconds[rows]
    return Column(column.values[rows], column.present[rows], ages)


def _in_order(rows: Ints, keys: int) -> bool:
    """Whether rows are the keys themselves, as they often are: then nothing need be copied."""
    return len(rows) == keys and bool((rows == np.arange(keys)).all())


def _of_one_type(arrays: Sequence[pa.Array]) -> list[pa.Array]:
    """Return the same keys as one type.

    No service reads keys that differ in theirs: of what it reads the type is checked before.
    """
    kept = [each for each in arrays if len(each)] or list(arrays[:1])
    alike = all(each.type == kept[0].type for each in kept)
    return kept if alike else [each.cast(pa.string()) for each in kept]
