"""Rows pulled from one source, the newest of each entity or all: what materialization reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from feast import RepoConfig
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from provender.plugin.feature_rows import FeatureRows, Window, open_rows
from provender.plugin.history import MISSING, Positions
from provender.plugin.instants import EARLIEST, LATEST, instant
from provender.plugin.mapped_vectors import VECTOR_TYPE, list_array
from provender.plugin.retrieval_job import Options, ProvenderRetrievalJob
from provender.plugin.snapshot_history import Located, SnapshotHistory
from provender.plugin.snapshot_source import history_of
from provender.plugin.source_columns import SourceColumns, TimedRows
from provender.plugin.spec import SPEC_TAG, VECTOR_COLUMN, EmbeddingSpec

_TIME_TYPE = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Pull:
    """The columns to pull, under the source's own names, in the order of the result.

    No feature at all stands for every other column of the source.
    """

    keys: list[str]
    features: list[str]
    time: str
    created: str | None

    @property
    def names(self) -> list[str]:
        """Every column of the result once."""
        created = [self.created] if self.created else []
        return list(dict.fromkeys([*self.keys, *self.features, self.time, *created]))


def pull(
    config: RepoConfig,
    source: DataSource,
    columns: Pull,
    start: datetime | None,
    end: datetime | None,
    *,
    latest: bool,
) -> ProvenderRetrievalJob:
    """Return a job over the rows between two times, both included; None is without a bound.

    Args:
        latest: only the newest row of each key: by event, then by created time.
    """
    window = (
        instant(start.astimezone(UTC)) if start else EARLIEST,
        instant(end.astimezone(UTC)) if end else LATEST,
    )

    def batches(rows: int, _: Options) -> Iterator[pa.RecordBatch]:
        history = _snapshots(source, columns)
        if history is not None:
            return _from_snapshots(history, columns, window, latest, rows)
        return _from_rows(open_rows(config, source, "source"), columns, window, latest, rows)

    return ProvenderRetrievalJob(batches, repo_path=str(config.repo_path))


def _snapshots(source: DataSource, columns: Pull) -> SnapshotHistory | None:
    if SPEC_TAG not in source.tags or columns.features != [VECTOR_COLUMN]:
        return None
    return history_of(EmbeddingSpec.from_tags(source.tags), str(getattr(source, "path", "")))


def _from_snapshots(
    history: SnapshotHistory, columns: Pull, window: Window, latest: bool, rows: int
) -> Iterator[pa.RecordBatch]:
    found = history.latest(*window) if latest else history.all(*window)
    yielded = False
    for keys, positions in found:
        for at in range(0, len(positions), rows):
            part = slice(at, at + rows)
            yield _vector_batch(history, columns, (keys[part], positions[part]))
            yielded = True
    if not yielded:
        none = pa.array([], history.key_type), np.empty(0, np.int64)
        yield _vector_batch(history, columns, none)


def _vector_batch(history: SnapshotHistory, columns: Pull, located: Located) -> pa.RecordBatch:
    keys, positions = located
    vectors = history.vectors.take(positions)
    by_name = {
        columns.keys[0]: keys,
        VECTOR_COLUMN: list_array(vectors, np.ones(len(positions), np.bool_), VECTOR_TYPE),
        columns.time: _micros(history.event(positions)),
    }
    if columns.created:
        by_name[columns.created] = _micros(history.created(positions))
    return pa.RecordBatch.from_pydict({name: by_name[name] for name in columns.names})


def _from_rows(
    source: FeatureRows, columns: Pull, window: Window, latest: bool, rows: int
) -> Iterator[pa.RecordBatch]:
    if not columns.features:
        columns = _with_all_features(source, columns)
    names = SourceColumns(columns.keys, columns.features, columns.time, columns.created)
    names.check(source)
    read = names.read_times(source, window)
    numbers = read.numbers[_newest(names, read)] if latest else read.numbers
    yielded = False
    for table in source.take(numbers, columns.names):
        for batch in _with_dummy(table, columns, latest).combine_chunks().to_batches(rows):
            yield batch
            yielded = True
    if not yielded:
        empty = pa.schema([source.schema.field(name) for name in columns.names]).empty_table()
        none = _with_dummy(empty, columns, latest)
        yield pa.RecordBatch.from_pylist([], schema=none.schema)


def _with_all_features(source: FeatureRows, columns: Pull) -> Pull:
    """Return the same with every other column: what Feast means where it names no feature."""
    named = {*columns.keys, columns.time, columns.created}
    others = [name for name in source.schema.names if name not in named]
    return replace(columns, features=others)


def _newest(columns: SourceColumns, read: TimedRows) -> Positions:
    """Return the newest row of each key, ascending."""
    if not columns.keys:
        made = (read.event,) if read.created is None else (read.created, read.event)
        return np.lexsort(made)[-1:]
    index, history = columns.history(read)
    newest = history.find(np.arange(index.size), np.full(index.size, LATEST))
    return np.sort(newest[newest != MISSING])


def _with_dummy(table: pa.Table, columns: Pull, latest: bool) -> pa.Table:
    """Add the key that Feast gives to views without entities, as its own stores do."""
    if columns.keys or not latest:
        return table
    return table.append_column(DUMMY_ENTITY_ID, pa.repeat(DUMMY_ENTITY_VAL, table.num_rows))


def _micros(instants: Positions) -> pa.Array:
    return pa.array(instants // 1000).cast(_TIME_TYPE)
