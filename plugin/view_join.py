"""One feature view joined to an entity frame: where each row's value lies, then the values.

Keys and times are joined first, for all rows; features are read late, once each, and handed out
batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.entity_frame import EntityFrame
from provender.plugin.errors import EntityFrameError, SourceError
from provender.plugin.feature_columns import FeatureColumn, load_columns
from provender.plugin.feature_rows import Window, open_rows
from provender.plugin.history import MISSING, History, Positions
from provender.plugin.instants import EARLIEST, NO_INSTANT, Instants, duration
from provender.plugin.key_index import KeyIndex, normalized
from provender.plugin.mapped_vectors import DIM, VECTOR_TYPE, list_array
from provender.plugin.snapshot_history import SnapshotHistory
from provender.plugin.snapshot_source import history_of, source_path
from provender.plugin.source_columns import SourceColumns, TimedRows
from provender.plugin.spec import VECTOR_COLUMN

#: Entity rows whose keys are looked up at once: 50 MB of them.
_LOOKUP = 1_000_000

#: A view's columns for some entity rows, and the event time of each row's value.
Joined = tuple[list[pa.Array], Instants]


@dataclass(frozen=True)
class JoinRequest:
    """What is wanted of one feature view.

    Attributes:
        features: each feature's name in the view, and its column in the result.
        strict: no value before it was created.
        dim: of vectors, the first so many floats; None is all.
    """

    view: FeatureView
    features: tuple[tuple[str, str], ...]
    strict: bool = False
    dim: int | None = None

    @property
    def thing(self) -> str:
        """What errors call it."""
        return f"feature view {self.view.name}"

    @property
    def source(self) -> DataSource:
        """Where its history is; raises SourceError of a view without."""
        if self.view.batch_source is None:
            raise SourceError(
                self.thing,
                found="no batch source",
                expected="a source to read its history from",
                remedy="Declare one, or leave the view out.",
            )
        return self.view.batch_source

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Each join key's name in the view, and its column in the entity frame."""
        names = [column.name for column in self.view.entity_columns]
        given = self.view.projection.join_key_map
        return [(name, given.get(name, name)) for name in names if name != DUMMY_ENTITY_ID]


class ViewJoin(Protocol):
    """A view's part in a historical retrieval.

    Attributes:
        fields: of its features in the result; once it is prepared, with the dims of vectors.
        width: floats of the longest vector, known once it is prepared.
    """

    fields: list[pa.Field]
    width: int

    def prepare(self, frame: EntityFrame, window: Window) -> None:
        """Look at the whole frame, whose times lie in the window, before the first batch."""

    def join(self, batch: pa.Table, times: Instants, start: int) -> Joined:
        """Return the features of the frame's rows from ``start`` on, one array a field."""


def view_join(config: RepoConfig, request: JoinRequest) -> ViewJoin:
    """Open a view's source in the way that reads it fastest.

    Raises SourceError, SnapshotError: it can't be read, or lacks a column.
    """
    wanted = [feature for feature, _ in request.features]
    if is_embedding_view(request.view) and wanted == [VECTOR_COLUMN]:
        history = history_of(spec_of(request.view), source_path(request.view.batch_source))
        if history is not None:
            return SnapshotJoin(request, history)
    return TableJoin(config, request)


class SnapshotJoin:
    """An embedding view over its snapshots: vectors go from the mapped files into the result."""

    def __init__(self, request: JoinRequest, history: SnapshotHistory) -> None:
        self._request, self._history = request, history
        self._ttl = duration(request.view.ttl)
        self._rows = 0
        self.width = request.dim or history.dim
        self.fields = [_vector_field(pa.field(request.features[0][1], VECTOR_TYPE), self.width)]

    def prepare(self, frame: EntityFrame, window: Window) -> None:
        """Check that the frame has the view's key."""
        frame.require(self._request.keys[0][1], self._request.view.name)
        self._rows = frame.rows

    def join(self, batch: pa.Table, times: Instants, start: int) -> Joined:
        """As :class:`ViewJoin`."""
        (_, column), *_ = self._request.keys
        keys = normalized(batch[column])
        _check_type(self._request, column, keys.type, self._history.key_type)
        positions = self._history.find(keys, times, self._ttl, strict=self._request.strict)
        present = positions != MISSING
        held = positions if present.all() else positions[present]
        event = np.full(len(positions), NO_INSTANT, np.int64)
        event[present] = self._history.event(held)
        again = batch.num_rows < self._rows
        vectors = self._history.vectors.take(held, self._request.dim, again=again)
        return [list_array(vectors, present, VECTOR_TYPE)], event


class TableJoin:
    """Any view over any source: what is used of it is loaded once."""

    def __init__(self, config: RepoConfig, request: JoinRequest) -> None:
        self._request = request
        self._rows = open_rows(config, request.source, request.thing)
        features = [name for name, _ in request.features]
        keys = [key for key, _ in request.keys]
        self.width = 0
        self._columns = SourceColumns.of(self._rows, request.source, keys, features)
        self.fields = [
            self._rows.schema.field(column).with_name(output)
            for column, (_, output) in zip(self._columns.features, request.features, strict=True)
        ]

    def prepare(self, frame: EntityFrame, window: Window) -> None:
        """Find every row's value, and load those that are used."""
        for _, column in self._request.keys:
            frame.require(column, self._request.view.name)
        ttl = duration(self._request.view.ttl)
        first = max(window[0] - ttl, EARLIEST) if ttl is not None else EARLIEST
        read = self._columns.read_times(self._rows, (first, window[1]))
        index, history = self._history(read)
        found = np.empty(frame.rows, np.int64)
        start = 0
        columns = [column for _, column in self._request.keys]
        for batch in frame.batches(_LOOKUP, list(dict.fromkeys([*columns, frame.time_column]))):
            times = frame.instants(batch)
            ranks = self._ranks(index, batch, columns)
            found[start : start + len(times)] = history.find(ranks, times, ttl)
            start += len(times)
        self._load(found, read)

    def join(self, batch: pa.Table, times: Instants, start: int) -> Joined:
        """As :class:`ViewJoin`."""
        positions = self._positions[start : start + len(times)]
        event = np.full(len(positions), NO_INSTANT, np.int64)
        present = positions != MISSING
        event[present] = self._event[positions[present]]
        return [column.take(positions, self._request.dim) for column in self._loaded], event

    def _history(self, read: TimedRows) -> tuple[KeyIndex | None, History]:
        strict = self._request.strict
        if self._columns.keys:
            return self._columns.history(read, strict=strict)
        everyone = np.zeros(len(read.event), np.int64)
        return None, History(everyone, read.event, read.created, strict=strict)

    def _ranks(self, index: KeyIndex | None, batch: pa.Table, columns: Sequence[str]) -> Positions:
        if index is None:
            return np.zeros(batch.num_rows, np.int64)
        keys = [normalized(batch[column]) for column in columns]
        for column, key, kind in zip(columns, keys, index.types, strict=True):
            _check_type(self._request, column, key.type, kind)
        return index.find(keys)

    def _load(self, found: Positions, read: TimedRows) -> None:
        """Number the used values from 0 on in their order in the source, and load them so."""
        used = np.zeros(len(read.numbers), np.bool_)
        used[found[found != MISSING]] = True
        places = np.cumsum(used) - 1
        self._positions = np.where(found == MISSING, MISSING, _at(places, found))
        self._event = read.event[used]
        vector_dim = None
        if is_embedding_view(self._request.view):
            vector_dim = spec_of(self._request.view).dim
        self._loaded: list[FeatureColumn] = load_columns(
            self._rows, read.numbers[used], self._columns.features, vector_dim
        )
        self.width = max(column.width for column in self._loaded)
        dim = self._request.dim
        self.fields = [
            _vector_field(field, dim or column.width) if column.is_vector else field
            for field, column in zip(self.fields, self._loaded, strict=True)
        ]


def _vector_field(field: pa.Field, dim: int) -> pa.Field:
    return field.with_metadata({DIM: str(dim).encode()})


def _at(places: Positions, found: Positions) -> Positions:
    return places[np.maximum(found, 0)] if len(places) else found


def _check_type(request: JoinRequest, column: str, given: pa.DataType, held: pa.DataType) -> None:
    if given != held and not (pa.types.is_null(given) or pa.types.is_null(held)):
        raise EntityFrameError(
            f"entity frame, column {column}",
            found=f"keys of type {given}",
            expected=f"{held}, as in {request.thing}",
            remedy="Convert the column to the type of the view's key.",
        )
