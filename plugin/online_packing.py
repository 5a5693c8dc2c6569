"""Arrow batches and pushed rows of a view, packed for its table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from provender.plugin.arrow_cells import NEVER, arrow_cells, microseconds
from provender.plugin.errors import OnlineValueError
from provender.plugin.online_keys import Keys
from provender.plugin.online_rows import microseconds_of
from provender.plugin.online_view import OnlineView
from provender.plugin.packing import Cells, Ints, RowLayout, pack
from provender.plugin.proto_cells import RefusedValueError, pushed_cells
from provender.plugin.stored_rows import PackedRows

#: A chunk of a load: rows, and about how many bytes, are held at once.
CHUNK_ROWS, CHUNK_BYTES = 8_192, 16 << 20

Pushed = tuple[EntityKey, Mapping[str, Value], datetime, datetime | None]


def packed_batches(
    view: OnlineView,
    batches: Iterable[pa.RecordBatch],
    timestamp_field: str,
    created_field: str | None,
    progress: Callable[[int], Any] | None,
) -> Iterator[tuple[RowLayout, PackedRows, int]]:
    """Layout, rows (newest of each key within the chunk) and rows read, a chunk at a time.

    Raises OnlineValueError: a column that is missing, a null key or event time, a vector that the
    embedding view does not declare.
    """
    for batch in batches:
        for chunk in _cut(batch):
            keys = view.keys.from_batch(chunk)
            event_us = _times(view, chunk, timestamp_field, required=True)
            created_us = np.full(chunk.num_rows, NEVER)
            if created_field is not None:
                created_us = _times(view, chunk, created_field, required=False)
            layout, cells = _checked(
                view, keys, partial(arrow_cells, view.feature_view, view.layout, chunk)
            )
            yield layout, _rows(layout, cells, keys, event_us, created_us), chunk.num_rows
            if progress is not None:
                progress(chunk.num_rows)


def packed_push(view: OnlineView, data: Sequence[Pushed]) -> list[tuple[RowLayout, PackedRows]]:
    """Layout and rows (newest of each key) of what was pushed, in chunks.

    Raises OnlineValueError: a key of another type, a vector that the embedding view does not
    declare.
    """
    chunks = []
    for start in range(0, len(data), CHUNK_ROWS):
        entities, values, events, created = zip(*data[start : start + CHUNK_ROWS], strict=True)
        keys = view.keys.from_protos(entities)
        layout, cells = _checked(view, keys, partial(pushed_cells, view.layout, values))
        rows = _rows(layout, cells, keys, _instants(events), _instants(created))
        chunks.append((layout, rows))
    return chunks


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = batch.num_rows
    most = max(1, min(CHUNK_ROWS, CHUNK_BYTES * rows // max(1, batch.nbytes)))
    for start in range(0, rows, most):
        yield batch.slice(start, most)


def _rows(
    layout: RowLayout,
    cells: Mapping[str, Cells],
    keys: Keys,
    event_us: Ints,
    created_us: Ints,
) -> PackedRows:
    payloads = pack(layout, cells, len(keys))
    return PackedRows(keys, event_us, created_us, layout.id, payloads).newest()


def _checked(
    view: OnlineView, keys: Keys, convert: Callable[[], tuple[RowLayout, dict[str, Cells]]]
) -> tuple[RowLayout, dict[str, Cells]]:
    try:
        return convert()
    except RefusedValueError as error:
        key = keys[error.row]
        raise OnlineValueError(
            f"{view.thing}, entity {view.keys.shown(key if isinstance(key, bytes) else int(key))}",
            found=error.found,
            expected=error.expected,
            remedy="Correct the rows; nothing of them was written.",
        ) from None
    except KeyError as error:
        raise _refused(view, f"no column {error}", "a column for each feature") from None


def _times(view: OnlineView, batch: pa.RecordBatch, name: str, *, required: bool) -> Ints:
    if name not in batch.schema.names:
        raise _refused(view, f"no column {name!r}", "the view's time columns")
    try:
        times = microseconds(batch.column(name))
    except TypeError as error:
        raise _refused(view, f"a column {name} of type {error}", "times") from None
    if required and (times == NEVER).any():
        raise _refused(view, f"null in {name}", "a time for each row")
    return times


def _refused(view: OnlineView, found: str, expected: str) -> OnlineValueError:
    return OnlineValueError(
        view.thing,
        found=found,
        expected=expected,
        remedy="Correct the view's source; nothing of it was written.",
    )


def _instants(times: Sequence[datetime | None]) -> Ints:
    return np.array([NEVER if time is None else microseconds_of(time) for time in times], np.int64)
