"""Rows of any database that SQLAlchemy reaches, streamed into Parquet in bounded memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from provender.plugin.errors import ProvenderError, SourceError

Refusal = TypeVar("Refusal", bound=ProvenderError)

BATCH_ROWS = 20_000


def stream_query(thing: str, url: str, query: str, folder: Path) -> str:
    """Write the query's rows as Parquet parts into `folder`; return the SELECT that reads them.

    The database keeps the result and sends `BATCH_ROWS` at a time. Each part has the types that
    its own rows show and leaves out columns without a value, because a driver's rows carry no
    schema; DuckDB unites the parts.

    Raises SourceError: no such driver, no connection, a query that fails, no rows. Passwords are
    never shown.
    """
    engine = _engine(thing, url)
    try:
        return stream_engine(thing, engine, query, folder)
    finally:
        engine.dispose()


def stream_engine(
    thing: str, engine: sqlalchemy.Engine, query: str | sqlalchemy.Executable, folder: Path
) -> str:
    """As :func:`stream_query`, through an engine that is left open; also SQLAlchemy's selects."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    with _database_errors(thing, engine.url), engine.connect() as connection:
        # no_parameters: a % in the query is the user's own, not a placeholder
        plain = isinstance(query, str)
        streamed = connection.execution_options(yield_per=BATCH_ROWS, no_parameters=plain)
        result: sqlalchemy.CursorResult[Any] | sqlalchemy.Result[Any]
        if isinstance(query, str):
            result = streamed.exec_driver_sql(query)
        else:
            result = streamed.execute(query)
        names = _names(thing, list(result.keys()))
        for part, rows in enumerate(result.partitions(BATCH_ROWS)):
            table = _as_table(names, rows)
            pq.write_table(table, folder / f"part-{part:06d}.parquet")
            seen.update(table.column_names)
    return _select(thing, engine.url, folder, names, seen)


def _engine(thing: str, url: str) -> sqlalchemy.Engine:
    address = _address(thing, url)
    with _database_errors(thing, address):
        return sqlalchemy.create_engine(address)


def _select(thing: str, address: URL, folder: Path, names: list[str], seen: set[str]) -> str:
    if not seen:
        raise SourceError(
            f"{thing} at {shown(address)}",
            found="no rows with a value",
            expected="a query with rows",
            remedy="Correct the query.",
        )
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    columns = [
        q if n in seen else f"NULL::VARCHAR AS {q}" for n, q in zip(names, quoted, strict=True)
    ]
    files = str(folder / "*.parquet").replace("'", "''")
    return f"SELECT {', '.join(columns)} FROM read_parquet('{files}', union_by_name = true)"


def shown(address: URL) -> str:
    """The URL as it may be printed: the password masked."""
    return address.render_as_string(hide_password=True)


def _address(thing: str, url: str) -> URL:
    def from_environment(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise SourceError(
                thing,
                found=f"no environment variable {match[1]}",
                expected="a value for each ${NAME} of the url",
                remedy=f"Set {match[1]}.",
            )
        return value

    try:
        return make_url(re.sub(r"\$\{(\w+)\}", from_environment, url))
    except (ArgumentError, ValueError):
        raise SourceError(
            thing,
            found="a url that is none (not shown: it may hold a password)",
            expected="driver://user:password@host:port/database",
            remedy="Correct it; special characters of a password are written as %40 and so on.",
        ) from None


@contextmanager
def _database_errors(thing: str, address: URL) -> Iterator[None]:
    try:
        yield
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise no_driver(SourceError, thing, address, error) from None
    except SQLAlchemyError as error:
        raise SourceError(
            f"{thing} at {shown(address)}",
            found=driver_message(getattr(error, "orig", None) or error, address),
            expected="a database that answers the query",
            remedy="Start the database, or correct the url or query.",
        ) from None


def no_driver(kind: type[Refusal], thing: str, address: URL, error: Exception) -> Refusal:
    """The error, of the given kind, for a database whose driver is not installed."""
    return kind(
        f"{thing} at {shown(address)}",
        found=str(error),
        expected="an installed driver for this kind of database",
        remedy="Install it, for example `pip install 'provender[postgres]'` or "
        "`'provender[mysql]'`.",
    )


def driver_message(error: BaseException, address: URL) -> str:
    """The driver's own words in one line without the password."""
    text = " ".join(str(error).split()) or type(error).__name__
    if address.password:
        text = text.replace(str(address.password), "***")
    return text if len(text) <= 300 else text[:297] + "..."


def _names(thing: str, names: list[str]) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(
            thing,
            found=f"the column {repeated[0]} twice in the query's result",
            expected="each column once",
            remedy="Name the columns with AS.",
        )
    return names


def _as_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    columns = {n: _as_array(v) for n, v in zip(names, zip(*rows, strict=True), strict=True)}
    return pa.table({n: a for n, a in columns.items() if a.null_count < len(a)})


def _as_array(values: Sequence[Any]) -> pa.Array:
    """The values as Arrow infers them; text where they are of several kinds or of none it knows."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        return array.cast(pa.timestamp("us", "UTC"))
    return array
