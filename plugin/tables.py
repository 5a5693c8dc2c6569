"""Declared tables as views of one DuckDB connection: Parquet, CSV, JSON lines, a database, SQL."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import duckdb
from pydantic import BaseModel, ConfigDict, Field, model_validator

from provender.plugin.csv_files import csv_scan
from provender.plugin.databases import stream_query
from provender.plugin.errors import ConfigError, MappingError, SourceError

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
JSON = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


class TableSource(BaseModel):
    """Where the rows of one table are: exactly one of `path`, `url` with `query`, or `sql`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(
        default=None,
        description="a Parquet, CSV(.gz) or JSONL(.gz) file, a glob or a folder, relative to the "
        "data folder",
    )
    url: str | None = Field(
        default=None,
        description="a SQLAlchemy URL; ${NAME} is taken from the environment",
    )
    query: str | None = Field(default=None, description="what to select at `url`")
    sql: str | None = Field(
        default=None, description="DuckDB SQL over tables with a path or url, or declared above"
    )
    types: dict[str, str] = Field(
        default_factory=dict,
        description="DuckDB types of columns of CSV, otherwise text, or of JSON lines; misfits "
        "become null",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("path", "url", "sql") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of path, url (with query) and sql")
        if (self.url is None) != (self.query is None):
            raise ValueError("url and query together")
        if self.types and self.path is None:
            raise ValueError("types only beside a path; cast in the query or sql instead")
        return self


def quoted(name: str) -> str:
    """The name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def open_tables(
    tables: Mapping[str, TableSource],
    data: Path,
    work: Path,
    *,
    memory_limit: str = "2GB",
    only: Collection[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection with one view a table; nothing is read yet but what databases send.

    CSV columns are text unless `types` says otherwise, those of JSON lines what their values are.
    A database's rows are streamed into Parquet under `work`, where DuckDB also spills what does not
    fit into `memory_limit`.

    Args:
        tables: what the world declares.
        data: the folder that relative paths start from.
        work: a folder for streamed rows and spill files; the caller removes it.
        memory_limit: what DuckDB may hold in memory, such as "2GB".
        only: the tables that are needed; those that their SQL reads are added. None means all.

    Raises:
        SourceError: a file or database can't be read; the message names the table and the file.
        MappingError: a table's SQL does not fit the other tables.
    """
    work.mkdir(parents=True, exist_ok=True)
    connection = _connect(work, memory_limit)
    wanted = _closure(tables, tables if only is None else only)
    try:
        for name in (n for n in tables if n in wanted and tables[n].sql is None):
            _create_source_view(connection, name, tables[name], data, work)
        for name in (n for n in tables if n in wanted and tables[n].sql is not None):
            with explained(f"tables.{name}.sql"):
                connection.execute(f"CREATE VIEW {quoted(name)} AS\n{tables[name].sql}\n")
    except BaseException:
        connection.close()
        raise
    return connection


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column name -> DuckDB type of one of the opened tables."""
    with explained(f"table {table}"):
        rows = connection.execute(f"DESCRIBE {quoted(table)}").fetchall()
    return {row[0]: row[1] for row in rows}


@contextmanager
def explained(thing: str) -> Iterator[None]:
    """Turn what DuckDB raises while it reads `thing` into one line with a remedy.

    SQL that does not fit the tables gives MappingError, all else SourceError.
    """
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
        raise MappingError(
            thing,
            found=_first_lines(error),
            expected="SQL that fits the columns of the declared tables",
            remedy="Correct the names; CSV columns are text: give them `types` or CAST them.",
        ) from None
    except duckdb.Error as error:
        message = _first_lines(error)
        expected, remedy = _remedy(str(error))
        raise SourceError(thing, found=message, expected=expected, remedy=remedy) from None


def _connect(work: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"SET memory_limit = {literal(memory_limit)}")
    except duckdb.Error as error:
        raise ConfigError(
            "memory_limit",
            found=repr(memory_limit),
            expected="a size such as 2GB or 500MB",
            remedy=f"DuckDB says: {_first_lines(error)}",
        ) from None
    connection.execute(f"SET temp_directory = {literal(str(work / 'spill'))}")
    connection.execute("SET TimeZone = 'UTC'")  # naive stamps never mean this machine's zone
    # Without this an Arrow result of DuckDB 2.0 loses even the order that ORDER BY asks for.
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET autoload_known_extensions = false")
    return connection


def _closure(tables: Mapping[str, TableSource], names: Collection[str]) -> set[str]:
    """The named tables and all that their SQL mentions: one too many rather than one too few."""
    wanted: set[str] = set()
    pending = [name for name in names if name in tables]
    while pending:
        name = pending.pop()
        wanted.add(name)
        words = set(re.findall(r"\w+", tables[name].sql or ""))
        pending.extend(other for other in tables if other in words and other not in wanted)
    return wanted


def _create_source_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    source: TableSource,
    data: Path,
    work: Path,
) -> None:
    if source.url is not None and source.query is not None:
        thing = f"table {name}"
        select = stream_query(thing, source.url, source.query, work / "tables" / name)
    else:
        files = _files(name, source.path or "", data)
        shown = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        thing = f"table {name} ({shown})"
        select = _scan(connection, thing, files, source.types)
    with explained(thing):
        connection.execute(f"CREATE VIEW {quoted(name)} AS {select}")
        if not connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchall():
            raise SourceError(
                thing,
                found="no rows",
                expected="a table with rows",
                remedy="Correct the path or query, or write the data again.",
            )


def _files(name: str, declared: str, data: Path) -> list[Path]:
    """The files of a declared path, sorted: itself, a glob's matches or a folder's files."""
    path = data / declared
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) and _shown(p, path))
    else:
        files = [path] if path.exists() else sorted(_matches(path))
    if not files:
        raise SourceError(
            f"table {name}",
            found=f"nothing at {path}",
            expected="a file, a glob or a folder with .parquet, .csv or .jsonl files",
            remedy="Correct the table's path or the data folder.",
        )
    kinds = {_kind(p) for p in files}
    if len(kinds) != 1 or "" in kinds:
        raise SourceError(
            f"table {name} ({path})",
            found="files named " + ", ".join(sorted({p.name for p in files})[:3]),
            expected=f"files of one kind, ending in one of {', '.join(PARQUET + CSV + JSON)}",
            remedy="Give a glob that picks the table's files.",
        )
    for file in files:
        if file.stat().st_size == 0:
            raise SourceError(
                f"table {name} ({file})",
                found="an empty file of 0 bytes",
                expected="a file with rows",
                remedy="Fetch or write the file again, or remove it.",
            )
    return files


def _shown(file: Path, folder: Path) -> bool:
    """Not hidden, nor in a hidden folder, and no marker such as _SUCCESS."""
    return not any(part[0] in "._" for part in file.relative_to(folder).parts)


def _matches(pattern: Path) -> Iterator[Path]:
    whole = pattern.absolute()
    return Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))


def _kind(path: Path) -> str:
    if path.name.endswith(PARQUET):
        return "parquet"
    if path.name.endswith(JSON):
        return "json"
    return "csv" if path.name.endswith(CSV) else ""


def _scan(
    connection: duckdb.DuckDBPyConnection,
    thing: str,
    files: list[Path],
    types: Mapping[str, str],
) -> str:
    """The SELECT over the files."""
    names = "[" + ", ".join(literal(str(file)) for file in files) + "]"
    if _kind(files[0]) == "parquet":
        if types:
            raise MappingError(
                thing,
                found="`types` on Parquet files",
                expected="`types` only for CSV and JSON lines",
                remedy="Remove it: Parquet files carry their types.",
            )
        _check_time_zones(connection, thing, names)
        return f"SELECT * FROM read_parquet({names}, hive_partitioning = false)"
    if _kind(files[0]) == "json":
        # All rows are looked at for their types: what a sample has not shown would be an error.
        scan = (
            f"read_json({names}, format = 'newline_delimited', sample_size = -1, "
            "union_by_name = true, hive_partitioning = false)"
        )
    else:
        scan = csv_scan(thing, files)
    # The trim is needed: a bare TRY_CAST goes down into DuckDB's CSV reader, which then raises.
    casts = ", ".join(
        f"TRY_CAST(trim({quoted(c)}::VARCHAR) AS {t}) AS {quoted(c)}" for c, t in types.items()
    )
    return f"SELECT * {f'REPLACE ({casts}) ' if casts else ''}FROM {scan}"


def _check_time_zones(connection: duckdb.DuckDBPyConnection, thing: str, names: str) -> None:
    """Refuse files of one table that disagree whether a column's times carry a zone."""
    with explained(thing):
        rows = connection.execute(
            "SELECT name, min(file_name) FILTER (aware), min(file_name) FILTER (NOT aware) FROM ("
            " SELECT name, file_name, logical_type LIKE '%isAdjustedToUTC=1%' AS aware"
            f" FROM parquet_schema({names}) WHERE logical_type LIKE 'TimestampType%')"
            " GROUP BY name HAVING bool_or(aware) AND NOT bool_and(aware) ORDER BY name"
        ).fetchall()
    if rows:
        column, aware, naive = rows[0]
        raise SourceError(
            thing,
            found=f"a time zone mix: {column} has a zone in {aware} and none in {naive}",
            expected="all files of a table alike",
            remedy="Write the column as UTC timestamps in all files.",
        )


def _first_lines(error: Exception) -> str:
    """What DuckDB says, without its advice and its dump of the reader's settings."""
    kept: list[str] = []
    for line in str(error).splitlines():
        if line.startswith(("Possible ", "Potential ", "LINE ", "* ", "  file = ")):
            break
        if line.strip():
            kept.append(line.strip())
    text = " ".join(kept)
    return text if len(text) <= 300 else text[:297] + "..."


def _remedy(message: str) -> tuple[str, str]:
    """What was expected, and what to do, from the words of DuckDB's message."""
    lowered = message.lower()
    if "utf-8" in lowered or "unicode" in lowered:
        return "UTF-8 text", "Convert the file, for example with `iconv -f latin1 -t utf-8`."
    if "csv error" in lowered:
        return "rows with as many cells as the header", "Mend the line that is named."
    if "memory" in lowered:
        return "rows that fit the memory limit", "Raise memory_limit or free disk space to spill."
    if "schema mismatch" in lowered or "cast column" in lowered:
        return "all files of a table alike", "Write the file that differs again, or leave it out."
    return "a whole, readable file", "It is damaged or cut off: fetch or write it again."
