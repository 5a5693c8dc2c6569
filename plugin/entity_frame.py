"""Entity frames: the rows that ask for features, however the user gives them.

A data frame, an Arrow table, the path of a Parquet file or SQL for DuckDB; read in batches, and
as often as the join needs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import EntityFrameError
from provender.plugin.instants import NO_INSTANT, Instants, is_time, to_nanoseconds

#: What Feast calls the time of an entity row.
TIME_COLUMN = "event_timestamp"
_PARQUET = (".parquet", ".pq")

Frame: TypeAlias = pd.DataFrame | pa.Table | str | Path


class EntityFrame:
    """Entity rows in a fixed order.

    Attributes:
        schema: of all columns, as they come out again.
        time_column: the column with each row's time.
        rows: how many there are.
    """

    def __init__(self, source: pa.Table | Path) -> None:
        self._source = source
        if isinstance(source, pa.Table):
            self.schema, self.rows = source.schema.remove_metadata(), source.num_rows
        else:
            file = _open(source)
            self.schema, self.rows = file.schema_arrow.remove_metadata(), file.metadata.num_rows
        _refuse_twice(self.schema.names)
        self.time_column = _time_column(self.schema)

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the frame in order, in tables of exactly ``rows`` rows but for the last."""
        if isinstance(self._source, pa.Table):
            table = self._source.select(columns) if columns else self._source
            for start in range(0, table.num_rows, rows):
                yield table.slice(start, rows).replace_schema_metadata(None)
        else:
            yield from _read(_open(self._source), rows, columns)

    def instants(self, batch: pa.Table) -> Instants:
        """Return each row's time, int64 (n,), nanoseconds.

        Raises EntityFrameError: a row without a time.
        """
        times = to_nanoseconds(batch[self.time_column])
        if len(times) and times.min() == NO_INSTANT:
            raise EntityFrameError(
                f"entity frame, column {self.time_column}",
                found=f"a null in row {int(np.argmin(times))}",
                expected="a time in every row",
                remedy="Drop the rows without a time.",
            )
        return times

    def require(self, column: str, view: str) -> None:
        """Raise EntityFrameError unless the frame has a view's join key."""
        if column not in self.schema.names:
            raise EntityFrameError(
                "entity frame",
                found=f"the columns {', '.join(self.schema.names)}",
                expected=f"{column}, the join key of {view}",
                remedy="Add the column, or leave the view out.",
            )


class FrameReader:
    """Opens what a user gives as an entity frame; a context, for SQL is run into a file once."""

    def __init__(self, given: Frame) -> None:
        self._given = given
        self._folder: Path | None = None

    def __enter__(self) -> EntityFrame:
        given = held(self._given)
        if isinstance(given, pa.Table):
            return EntityFrame(given)
        if isinstance(given, Path) or (isinstance(given, str) and _is_path(given)):
            return EntityFrame(Path(given))
        if isinstance(given, str):
            self._folder = Path(tempfile.mkdtemp(prefix="provender-"))
            return EntityFrame(_run(given, self._folder / "entities.parquet"))
        raise EntityFrameError(
            "entity frame",
            found=f"a {type(given).__name__}",
            expected="a DataFrame, an Arrow table, the path of a Parquet file, or SQL",
            remedy="Convert it to one of these.",
        )

    def __exit__(self, *_: object) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def held(given: Frame) -> Frame:
    """Return a data frame as the Arrow table it becomes, checked; other frames as they are."""
    if isinstance(given, pd.DataFrame):
        given = _from_pandas(given)
    if isinstance(given, pa.Table):
        EntityFrame(given)
    return given


def _is_path(text: str) -> bool:
    return text.strip().endswith(_PARQUET)


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    _refuse_twice(list(map(str, frame.columns)))
    times = frame.get(TIME_COLUMN)
    if times is not None and (
        pd.api.types.is_object_dtype(times) or pd.api.types.is_string_dtype(times)
    ):
        try:
            parsed = pd.to_datetime(times, utc=True, format="mixed")
        except (ValueError, TypeError) as error:
            raise _no_times(str(error)) from None
        frame = frame.assign(**{TIME_COLUMN: parsed})
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, OverflowError) as error:
        raise EntityFrameError(
            "entity frame",
            found=" ".join(map(str, error.args))[:300],
            expected="columns of one type each",
            remedy="Convert the column, or leave it out.",
        ) from None


def _run(query: str, path: Path) -> Path:
    """Run SQL once, into a file: its rows must not change between two looks at them."""
    try:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            reader = connection.sql(query).to_arrow_reader(65_536)
            with pq.ParquetWriter(path, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
    except (duckdb.Error, AttributeError) as error:
        raise EntityFrameError(
            "entity frame",
            found=str(error).splitlines()[0],
            expected="a SELECT that DuckDB can run, for example over read_parquet('...')",
            remedy="Correct the SQL.",
        ) from None
    return path


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise EntityFrameError(
            f"entity frame {path}",
            found=str(error).splitlines()[0],
            expected="a Parquet file",
            remedy="Correct the path, or write the file again.",
        ) from None


def _read(file: pq.ParquetFile, rows: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """Yield a file in batches; one may end with its row group, so they are filled up."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in file.iter_batches(rows, columns=list(columns) if columns else None):
        held.append(batch.replace_schema_metadata(None))
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            count -= rows
            held = table.slice(rows).to_batches()
    if count:
        yield pa.Table.from_batches(held)


def _refuse_twice(names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise EntityFrameError(
            f"entity frame, column {twice[0]}",
            found=f"{names.count(twice[0])} columns of this name",
            expected="each name once",
            remedy="Rename or drop one.",
        )


def _time_column(schema: pa.Schema) -> str:
    if TIME_COLUMN in schema.names:
        if not is_time(schema.field(TIME_COLUMN).type):
            raise _no_times(f"the type {schema.field(TIME_COLUMN).type}")
        return TIME_COLUMN
    times = [field.name for field in schema if is_time(field.type)]
    if len(times) == 1:
        return str(times[0])
    raise EntityFrameError(
        "entity frame",
        found=f"no {TIME_COLUMN} and {len(times)} other columns of times",
        expected=f"a column {TIME_COLUMN} that says when each row asks",
        remedy="Name the column so.",
    )


def _no_times(found: str) -> EntityFrameError:
    return EntityFrameError(
        f"entity frame, column {TIME_COLUMN}",
        found=found,
        expected="timestamps",
        remedy="Convert the column with pandas.to_datetime(..., utc=True), or as your SQL does.",
    )
