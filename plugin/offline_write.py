"""Rows appended to the file of a feature view, which readers see as it was or with all of them."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import TypeGuard

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, RepoConfig
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.feature_logging import LoggingDestination
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.file_source import FileLoggingDestination

from provender.plugin.delta_tables import write_delta
from provender.plugin.embedding_view import is_embedding_view
from provender.plugin.errors import SnapshotError, SourceError
from provender.plugin.feature_rows import source_uri, unreadable
from provender.plugin.files import whole_file


def append_rows(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Append rows, whose columns are the source's own in its order.

    A folder gets another file; a single file is written anew, the new rows last, under a lock.

    Raises:
        SnapshotError: the view's source are snapshots, which do not change.
        SourceError: other columns than the source's, or a glob, which names no file to write to.
    """
    source = view.batch_source
    # What Feast's own engine adds when it has sent the rows through pandas.
    left = [name for name in table.column_names if name.startswith("__index_level_")]
    table = table.drop_columns(left)
    if isinstance(source, FileSource) and isinstance(source.file_format, DeltaFormat):
        write_delta(source, table, append=True)
        return
    if not _is_local_parquet(source):
        DuckDBOfflineStore.offline_write_batch(config, view, table, None)
        return
    path = Path(source_uri(source, config.repo_path))
    if has_magic(str(path)):
        raise _no_place(view, str(path))
    if path.is_dir():
        _write(path / f"{uuid.uuid4().hex}.parquet", _as(_schema(view, path), table, view))
        return
    with _locked(path):
        _append(path, view, table)


def _is_local_parquet(source: DataSource | None) -> TypeGuard[FileSource]:
    if not isinstance(source, FileSource) or "://" in source.path.removeprefix("file://"):
        return False
    return isinstance(source.file_format or ParquetFormat(), ParquetFormat)


def write_logs(config: RepoConfig, logs: pa.Table | Path, destination: LoggingDestination) -> None:
    """Add a feature service's logs to their folder, partitioned as it says, in files of their own.

    Raises SourceError: another destination than a local folder.
    """
    if not isinstance(destination, FileLoggingDestination) or "://" in destination.path:
        raise SourceError(
            "feature logging",
            found=f"a {type(destination).__name__}",
            expected="a FileLoggingDestination with a local path",
            remedy="Log to a folder, and copy it from there.",
        )
    table = ds.dataset(logs).to_table() if isinstance(logs, Path) else logs
    folder = Path(config.repo_path or Path()) / destination.path
    names = destination.partition_by or []
    parts = pa.schema([table.schema.field(name) for name in names])
    staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        ds.write_dataset(
            table,
            staged,
            format="parquet",
            partitioning=ds.partitioning(parts, flavor="hive") if names else None,
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        )
        for file in staged.rglob("*.parquet"):
            place = folder / file.relative_to(staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _append(path: Path, view: FeatureView, table: pa.Table) -> None:
    if not path.exists():
        _write(path, table)
        return
    try:
        with pq.ParquetFile(path) as old:
            schema = old.schema_arrow
            new = _as(schema, table, view)
            with whole_file(path) as staged, pq.ParquetWriter(staged, schema) as writer:
                for group in range(old.num_row_groups):
                    writer.write_table(old.read_row_group(group))
                writer.write_table(new)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(f"file {path} of {view.name}", error) from error


def _write(path: Path, table: pa.Table) -> None:
    with whole_file(path) as staged:
        pq.write_table(table, staged)


def _schema(view: FeatureView, folder: Path) -> pa.Schema | None:
    first = next(iter(sorted(folder.glob("*.parquet"))), None)
    if first is None and any(folder.rglob("*.parquet")):
        raise SourceError(
            f"folder {folder} of {view.name}",
            found="a partitioned folder",
            expected="a file, or a folder of files",
            remedy="Write its partitions with the tool that made them.",
        )
    return pq.read_schema(first) if first else None


def _as(schema: pa.Schema | None, table: pa.Table, view: FeatureView) -> pa.Table:
    """Return the rows in the types that the source has."""
    if schema is None:
        return table
    if table.column_names != schema.names:
        raise SourceError(
            f"rows for {view.name}",
            found=f"the columns {', '.join(table.column_names)}",
            expected=f"{', '.join(schema.names)}, in this order, as in its source",
            remedy="Give exactly these.",
        )
    try:
        return table.cast(schema)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"rows for {view.name}",
            found=str(error).splitlines()[0],
            expected=f"values of the types {', '.join(map(str, schema.types))}",
            remedy="Convert the columns.",
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other writers of this file; a killed one gives the lock up by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _no_place(view: FeatureView, path: str) -> SnapshotError | SourceError:
    if is_embedding_view(view):
        return SnapshotError(
            f"embedding view {view.name}",
            found="rows to append to its snapshots",
            expected="none: a snapshot never changes",
            remedy="Write a new snapshot with the producer, or push to the online store only.",
        )
    return SourceError(
        f"feature view {view.name}",
        found=f"the glob {path} as its source",
        expected="one file or folder to append to",
        remedy="Name the folder as the source's path.",
    )
