"""The rows of a data source: keys and times are read at once, the rest late and by number.

Parquet is read by row group, of which nothing is held longer than it is used. Whatever else Feast
can read comes through Feast's own reader as one Arrow table.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from feast import FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import _read_data_source

from provender.plugin.errors import SourceError
from provender.plugin.history import Positions
from provender.plugin.instants import is_time, to_nanoseconds

#: From the first to the last nanosecond that is wanted, both included.
Window = tuple[int, int]


class FeatureRows(Protocol):
    """A source's rows in an order that stays the same, numbered from 0 on."""

    thing: str
    schema: pa.Schema

    def scan(self, columns: Sequence[str], time: str, window: Window) -> tuple[pa.Table, Positions]:
        """Return columns of at least every row within the window, and those rows' numbers."""

    def take(self, rows: Positions, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the given rows, which ascend without repetition, in their order."""


class TableRows:
    """The rows of an Arrow table in memory."""

    def __init__(self, thing: str, table: pa.Table) -> None:
        self.thing, self.schema = thing, table.schema
        self._table = table

    def scan(self, columns: Sequence[str], time: str, window: Window) -> tuple[pa.Table, Positions]:
        """Return columns of every row."""
        return self._table.select(columns), np.arange(self._table.num_rows)

    def take(self, rows: Positions, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the given rows at once."""
        yield self._table.select(columns).take(pa.array(rows))


class ParquetRows:
    """The rows of Parquet files: one file, a glob, or a folder, partitioned or not."""

    def __init__(self, thing: str, dataset: ds.Dataset) -> None:
        self.thing, self.schema = thing, dataset.schema
        self._groups = [group for file in dataset.get_fragments() for group in _row_groups(file)]
        counts = [group.row_groups[0].num_rows for group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def scan(self, columns: Sequence[str], time: str, window: Window) -> tuple[pa.Table, Positions]:
        """Return columns of the row groups that may reach into the window."""
        kept = [i for i, group in enumerate(self._groups) if _reaches(group, time, window)]
        tables = [self._read(i, columns) for i in kept]
        numbers = [np.arange(self._starts[i], self._starts[i + 1]) for i in kept]
        empty = self._schema_of(columns).empty_table()
        return pa.concat_tables([empty, *tables]), np.concatenate([np.empty(0, np.int64), *numbers])

    def take(self, rows: Positions, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the wanted rows of one row group after the other."""
        bounds = np.searchsorted(rows, self._starts)
        for i, (low, high) in enumerate(pairwise(bounds)):
            if low < high:
                table = self._read(i, columns)
                wanted = rows[low:high] - self._starts[i]
                yield table if len(wanted) == table.num_rows else table.take(pa.array(wanted))

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        fragment = self._groups[group]
        try:
            return fragment.to_table(schema=self._schema_of(columns), columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise unreadable(f"{self.thing}, file {fragment.path}", error) from error

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])


def open_rows(config: RepoConfig, source: DataSource, thing: str) -> FeatureRows:
    """Open a data source; ``thing`` names it in errors.

    Raises SourceError: no file there, none that is readable, or another kind of source than files.
    """
    if not isinstance(source, FileSource):
        return _from_feast(config, source, thing)
    if not isinstance(source.file_format or ParquetFormat(), ParquetFormat):
        return _from_feast(config, source, thing)
    uri = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    try:
        return ParquetRows(f"{thing} in {uri}", _dataset(source, uri))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(f"{thing} in {uri}", error) from error


def unreadable(thing: str, error: Exception) -> SourceError:
    """Return the error for a source that does not open or breaks off."""
    return SourceError(
        thing,
        found=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
        expected="readable Parquet files",
        remedy="Correct the source's path, or write the file again.",
    )


def _dataset(source: FileSource, uri: str) -> ds.Dataset:
    filesystem, path = FileSource.create_filesystem_and_path(
        uri, source.s3_endpoint_override or "", source.resolve_credentials()
    )
    paths: str | list[str] = path
    if filesystem is None and "://" not in path and not Path(path).exists():
        paths = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not paths:
            raise FileNotFoundError("no such file")
    dataset = ds.dataset(paths, filesystem=filesystem, format="parquet", partitioning="hive")
    if not dataset.files:
        raise FileNotFoundError("no Parquet file in this folder")
    return dataset.replace_schema(_united(dataset))


def _united(dataset: ds.Dataset) -> pa.Schema:
    """Return the schema that all files fit into: the finest unit of time, the widest number."""
    files = [fragment.physical_schema for fragment in dataset.get_fragments()]
    united = pa.unify_schemas([dataset.schema, *files], promote_options="permissive")
    return united.remove_metadata()


def _row_groups(file: ds.ParquetFileFragment) -> list[ds.ParquetFileFragment]:
    return list(file.split_by_row_group()) if file.num_row_groups else []


def _reaches(group: ds.ParquetFileFragment, time: str, window: Window) -> bool:
    """Return whether rows of this group may lie in the window, by the file's own statistics."""
    bounds = (group.row_groups[0].statistics or {}).get(time)
    if not bounds or bounds.get("min") is None or bounds.get("max") is None:
        return True
    low, high = (_edge(bounds[edge], group, time) for edge in ("min", "max"))
    return low <= window[1] and high >= window[0]


def _edge(value: object, group: ds.ParquetFileFragment, time: str) -> int:
    kind = group.physical_schema.field(time).type
    return int(to_nanoseconds(pa.array([value], kind))[0]) if is_time(kind) else 0


def _from_feast(config: RepoConfig, source: DataSource, thing: str) -> TableRows:
    try:
        table = _read_data_source(source, str(config.repo_path)).to_pyarrow()
    except AssertionError:
        raise SourceError(
            f"{thing}, source {source.name}",
            found=f"a {type(source).__name__}",
            expected="a source of files: FileSource, or a table that Feast's DuckDB reads",
            remedy="Use the offline store that goes with this source.",
        ) from None
    except Exception as error:  # Every reader has errors of its own; the user gets one line.
        raise unreadable(f"{thing}, source {source.name}", error) from error
    return TableRows(f"{thing}, source {source.name}", table)
