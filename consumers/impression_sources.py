"""Impressions from wherever they are: files, queries, databases, tables in memory, world logs.

Each needs event_timestamp and the keys that a feature service wants; impression_id, labels (click,
conversion; null where not known) and weights (click_weight, conversion_weight) where there are any.
What else there is is the context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import duckdb
import pandas as pd
import pyarrow as pa
import sqlalchemy

from provender.consumers.ranking_task import ID, LABELS, TIME, WEIGHTS
from provender.plugin.databases import stream_engine, stream_query
from provender.plugin.errors import FetchError
from provender.plugin.tables import explained, literal, open_tables, quoted
from provender.plugin.time_sql import instant

#: Rows read at once.
_BATCH = 65_536
_THING = "impressions"


@dataclass(frozen=True)
class DatabaseQuery:
    """A query for SQLAlchemy.

    Attributes:
        database: an engine, or a URL in which ${NAME} is taken from the environment.
        query: SQL of that database, or one of SQLAlchemy's own selects with an engine.
    """

    database: sqlalchemy.Engine | str
    query: str | sqlalchemy.Executable


#: A Parquet file or a folder of them; SQL for DuckDB; a query of a database; rows in memory; or
#: tables one after the other, as `impressions.labelled_log` gives them.
Source: TypeAlias = "str | Path | DatabaseQuery | pa.Table | pd.DataFrame | Iterable[pa.Table]"


def read_by_time(source: Source, work: Path) -> Iterator[pa.Table]:
    """The rows in the order of their times, some at a time, at least one table.

    Rows of one time are ordered by their ids, or without these by all that they have: every
    source gives the same rows in the same order. Times without a zone are UTC; labels become int8
    and weights float32. DuckDB sorts, in bounded memory.

    Args:
        work: a folder for streamed rows and spill files; the caller removes it.

    Raises:
        SourceError, MappingError: it can't be read.
        FetchError: it has no event_timestamp.
    """
    connection = open_tables({}, Path(), work)
    try:
        with explained(_THING):
            select = _select(connection, source, work)
            types = {
                name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {select}").fetchall()
            }
            rows = connection.sql(_sorted(select, types)).to_arrow_reader(_BATCH)
        yield pa.Table.from_batches([], rows.schema)
        while True:
            with explained(_THING):
                batch = next(rows, None)
            if batch is None:
                return
            yield pa.Table.from_batches([batch])
    finally:
        connection.close()


def _select(connection: duckdb.DuckDBPyConnection, source: Source, work: Path) -> str:
    """SQL that gives the source's rows."""
    if isinstance(source, DatabaseQuery):
        folder = work / "impressions"
        if isinstance(source.database, str) and isinstance(source.query, str):
            return stream_query(_THING, source.database, source.query, folder)
        engine = source.database
        opened = sqlalchemy.create_engine(engine) if isinstance(engine, str) else engine
        return stream_engine(_THING, opened, source.query, folder)
    path = as_path(source)
    if path is not None:
        files = path / "**" / "*.parquet" if path.is_dir() else path
        return f"SELECT * FROM read_parquet({literal(str(files))}, hive_partitioning = false)"
    if isinstance(source, str):
        return f"SELECT * FROM ({source.strip().rstrip(';')})"
    connection.register("provender_given", _arrow(source))
    return "SELECT * FROM provender_given"


def as_path(source: Source) -> Path | None:
    """The file or folder that a source is, if it is one; raises FetchError where nothing is."""
    named = isinstance(source, str) and source.strip().endswith((".parquet", ".pq"))
    if not isinstance(source, Path) and not named:
        return None
    path = Path(str(source).strip())
    if not path.exists():
        raise FetchError(
            _THING,
            found=f"nothing at {path}",
            expected="a Parquet file or a folder of them",
            remedy="Correct the path.",
        )
    return path


def _arrow(source: object) -> pa.Table | pa.RecordBatchReader:
    if isinstance(source, pd.DataFrame):
        return pa.Table.from_pandas(source, preserve_index=False)
    if isinstance(source, pa.Table):
        return source
    if not isinstance(source, Iterable):
        raise FetchError(
            _THING,
            found=f"a {type(source).__name__}",
            expected="a path, SQL, a DatabaseQuery, an Arrow table or a DataFrame",
            remedy="Convert it to one of these.",
        )
    tables = iter(source)
    first = next(tables)
    batches = chain.from_iterable(table.to_batches() for table in chain([first], tables))
    return pa.RecordBatchReader.from_batches(first.schema, batches)


def _sorted(select: str, types: dict[str, str]) -> str:
    if TIME not in types:
        raise FetchError(
            _THING,
            found=f"the columns {', '.join(types)}",
            expected=f"{TIME} among them",
            remedy=f"Name the column of the time {TIME}, in SQL with AS.",
        )
    columns = [f"{_read(name, kind)} as {quoted(name)}" for name, kind in types.items()]
    order = [TIME, ID] if ID in types else [TIME, *sorted(set(types) - {TIME})]
    inner = f"SELECT {', '.join(columns)} FROM ({select})"
    return f"SELECT * FROM ({inner}) ORDER BY {', '.join(map(quoted, order))}"


def _read(name: str, kind: str) -> str:
    """SQL of a column as it is wanted."""
    column = quoted(name)
    if name == TIME:
        return instant(f"{_THING}, column {name}", column, kind)
    if name in LABELS:
        return f"cast({column} as tinyint)"
    if name in WEIGHTS:
        return f"cast({column} as float)"
    return column
