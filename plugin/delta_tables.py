"""Delta tables as data sets, read and written by the deltalake library where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
from feast import FileSource

from provender.plugin.errors import SourceError

if TYPE_CHECKING:
    from deltalake import DeltaTable  # type: ignore[import-not-found]


def delta_dataset(source: FileSource, thing: str) -> ds.Dataset:
    """Return a Delta table's current rows; raises SourceError where it can't be read."""
    try:
        return _table(source, thing).to_pyarrow_dataset()
    except Exception as error:  # deltalake's errors are of several unrelated kinds.
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{thing}, Delta table {source.path}",
            found=str(error).splitlines()[0][:300],
            expected="a Delta table that deltalake can read",
            remedy="Correct the source's path, or write the table again.",
        ) from error


def write_delta(source: FileSource, table: pa.Table, *, append: bool) -> None:
    """Append rows to a Delta table, or make or replace it by them, in one commit of its log."""
    from deltalake import write_deltalake

    if append:
        table = table.cast(delta_dataset(source, f"rows for {source.name}").schema)
    write_deltalake(
        source.path,
        pa.table([_micros(column) for column in table.columns], names=table.column_names),
        mode="append" if append else "overwrite",
        storage_options=_options(source),
    )


def _table(source: FileSource, thing: str) -> DeltaTable:
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise SourceError(
            f"{thing}, Delta table {source.path}",
            found="no deltalake library",
            expected="the library that reads Delta tables",
            remedy="Install it with `pip install 'feast[delta]'`.",
        ) from None
    return DeltaTable(source.path, storage_options=_options(source))


def _options(source: FileSource) -> dict[str, str]:
    given = source.resolve_credentials() or {}
    if source.s3_endpoint_override:
        given = {**given, "AWS_ENDPOINT_URL": source.s3_endpoint_override}
    return dict(given)


def _micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as Delta can hold it: it has no nanoseconds."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column
