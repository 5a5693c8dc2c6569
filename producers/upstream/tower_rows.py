"""Rows of declared tables before the cut: keys and times, and why a row is not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import BadRowsError, MappingError, SourceError
from provender.plugin.tables import columns_of, explained, literal, quoted
from provender.plugin.time_sql import TimeUnit, carries_zone, instant, microseconds, stamp
from provender.plugin.world import KeyType, World
from provender.producers.event_mapping import EventMapping
from provender.producers.event_sql import key_of
from provender.producers.linksage.judged_rows import (
    case,
    copy,
    counts_by_reason,
    key_reasons,
    rows_of,
)

Columns = Mapping[str, str]
Report = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY_TYPES = {"int64": pa.int64(), "string": pa.string()}
#: Rows of a row group of all files but that of examples.
_GROUP = 1 << 17


def numbered_rows(place: Path, number: str) -> str:
    """SQL of a file's rows with a column of their numbers from 0."""
    return (
        f"(SELECT * EXCLUDE (file_row_number), file_row_number AS {number} "
        f"FROM read_parquet({literal(str(place))}, file_row_number = true))"
    )


def in_microseconds(time: datetime) -> int:
    """A time, which has a zone, as files have it."""
    return (time - _EPOCH) // timedelta(microseconds=1)


class Timed(Protocol):
    """A declaration of a table's rows."""

    @property
    def table(self) -> str:
        """Its name."""

    @property
    def where(self) -> str | None:
        """Which of its rows."""

    @property
    def time(self) -> str | None:
        """The column of their time."""

    @property
    def time_unit(self) -> TimeUnit | None:
        """What its numbers count."""


@dataclass(frozen=True)
class Key:
    """A key in a column, and its type; a row without one is bad where it is `needed`."""

    name: str
    column: str
    type: KeyType
    needed: bool = True


@dataclass(frozen=True)
class Reading:
    """The state of one reading.

    Attributes:
        connection: with a view of each table that is needed.
        world: whose tables, entities and events they are.
        staged: the folder of the result.
        as_of: the cut; `since`, that of the last refresh; `start`, of the first row of a source
            that is learned from.
        seed: of all that is drawn.
    """

    connection: duckdb.DuckDBPyConnection
    world: World
    staged: Path
    as_of: datetime
    since: datetime | None
    start: datetime | None
    seed: int

    @property
    def cut(self) -> int:
        """`as_of` in microseconds."""
        return in_microseconds(self.as_of)

    @property
    def mapping(self) -> EventMapping:
        """The world's events, checked."""
        return EventMapping.from_world(self.world)

    def work(self, name: str) -> Path:
        """A temporary file."""
        return self.staged / "work" / f"{name}.parquet"

    def copy(self, select: str, name: str) -> str:
        """Write a SELECT's rows to a temporary file: SQL of its rows."""
        return rows_of(copy(self.connection, select, self.work(name)))

    def numbered_copy(self, select: str, name: str, number: str) -> str:
        """The same with a column of the rows' numbers, in the SELECT's order."""
        return numbered_rows(copy(self.connection, select, self.work(name)), number)

    def count(self, source: str) -> int:
        """How many rows."""
        # All rows are fetched: an unfinished result stands in the way of the next query.
        found = self.connection.execute(f"SELECT count(*) FROM {source}").fetchall()
        return int(found[0][0])

    def key_type(self, entity: str) -> pa.DataType:
        """What an entity's keys are in a file."""
        return _KEY_TYPES[self.world.entities[entity]]

    def no_key(self, entity: str) -> str:
        """SQL of no key at all, of the entity's type."""
        return f"CAST(NULL AS {'BIGINT' if self.world.entities[entity] == 'int64' else 'VARCHAR'})"

    def write(self, select: str, schema: pa.Schema, place: Path, group: int = _GROUP) -> int:
        """Write a SELECT's rows in row groups of a fixed size, so that equal rows are equal bytes.

        Returns how many they are.
        """
        place.parent.mkdir(parents=True, exist_ok=True)
        pending, rows = schema.empty_table(), 0
        with pq.ParquetWriter(place, schema, compression="zstd") as writer:
            for batch in self.connection.sql(select).to_arrow_reader(group):
                new = pa.Table.from_batches([batch]).cast(schema)
                pending, rows = pa.concat_tables([pending, new]), rows + len(new)
                while len(pending) >= group:
                    writer.write_table(pending.slice(0, group).combine_chunks())
                    pending = pending.slice(group)
            if len(pending):
                writer.write_table(pending.combine_chunks())
        return rows


def judged(
    reading: Reading,
    thing: str,
    declared: Timed,
    keys: Sequence[Key],
    further: Columns | None = None,
    reasons: Sequence[tuple[str, str]] = (),
) -> tuple[str, dict[str, int]]:
    """Read a declaration's rows before the cut into a temporary file.

    Args:
        thing: what messages call it.
        keys: its columns of keys.
        further: SQL of further columns, by name, over the table's columns.
        reasons: further ones why a row is bad, over all of these columns.

    Returns SQL of the good rows, with the keys, `time` (int64 microseconds; null where no time is
    declared) and further columns, and the count of others by reason.

    Raises MappingError for columns that are not there or of a wrong type, SourceError where some
    times have a zone and others have none, BadRowsError where more rows are bad than the world
    allows.
    """
    types = columns_of(reading.connection, declared.table)
    check_columns(thing, declared.table, {key.name: key.column for key in keys}, types)
    check_columns(thing, declared.table, {"time": declared.time}, types)
    with explained(f"{thing} (table {declared.table})"):
        select = _select(reading, thing, declared, keys, further or {}, reasons, types)
        rows = reading.copy(select, f"judged_{thing}")
        _refuse_time_zone_mix(reading, thing, declared, rows)
        bad = counts_by_reason(reading.connection, rows)
        good = f"(SELECT * EXCLUDE (reason, zoned) FROM {rows} WHERE reason IS NULL)"
        check_share(reading, thing, bad, reading.count(good))
    return good, bad


def check_columns(
    thing: str, table: str, named: Mapping[str, str | None], columns: Columns
) -> None:
    """Raise MappingError for the first field that names a column the table does not have."""
    for field, column in named.items():
        if column is not None and column not in columns:
            raise MappingError(
                f"{thing}.{field}",
                found=f"no column {column} in table {table}",
                expected=f"one of its columns {', '.join(columns)}",
                remedy="Correct the declaration, or the file if it has lost the column.",
            )


def check_share(reading: Reading, thing: str, bad: Mapping[str, int], good: int) -> None:
    """Raise BadRowsError where more of the rows are bad than the world allows."""
    number, most = sum(bad.values()), reading.world.max_bad_share
    if number > most * (number + good):
        told = ", ".join(f"{rows} x {reason}" for reason, rows in bad.items())
        raise BadRowsError(
            thing,
            found=f"{number} bad of {number + good} rows ({told})",
            expected=f"at most {most:.2%} bad (max_bad_share)",
            remedy="Mend the table, leave such rows out with `where`, or raise max_bad_share.",
        )


def _select(
    reading: Reading,
    thing: str,
    declared: Timed,
    keys: Sequence[Key],
    further: Columns,
    reasons: Sequence[tuple[str, str]],
    types: Columns,
) -> str:
    raw = [f"{quoted(key.column)} AS raw_{key.name}" for key in keys]
    raw += [f"{sql} AS {quoted(name)}" for name, sql in further.items()]
    names = [f"{_key(thing, key, types)} AS {key.name}" for key in keys]
    whys = [reason for key in keys for reason in _key_reasons(key, types)]
    time, zoned = "NULL::TIMESTAMPTZ", "NULL::BOOLEAN"
    within = "true"
    if declared.time is not None:
        found, unit = types[declared.time], declared.time_unit
        raw.append(f"{quoted(declared.time)} AS raw_time")
        zone = getattr(declared, "time_zone", None)
        time = instant(f"{thing}.time", "raw_time", found, unit=unit, zone=zone)
        zoned = carries_zone("raw_time", found, unit=unit)
        missing = key_reasons(declared.time, "instant", "raw_time", found, "time")[0]
        whys += [missing, ("instant IS NULL", f"{declared.time} is no time")]
        # Of a row without a time nobody knows, so it stays, to be counted as bad.
        within = f"(instant IS NULL OR instant < {stamp(reading.as_of)})"
    columns = [key.name for key in keys] + [quoted(name) for name in further]
    condition = f"WHERE ({declared.where}\n)" if declared.where else ""
    return (
        f"WITH raw AS (SELECT {', '.join(raw)} FROM {quoted(declared.table)} {condition}),\n"
        f"typed AS (SELECT *, {', '.join(names)}, {time} AS instant, {zoned} AS zoned FROM raw)\n"
        f"SELECT {', '.join(columns)}, {microseconds('instant')} AS time, zoned, "
        f"{case([*whys, *reasons])} AS reason FROM typed WHERE {within}"
    )


def _key(thing: str, key: Key, types: Columns) -> str:
    return key_of(f"{thing}.{key.name}", f"raw_{key.name}", types[key.column], key.type)


def _key_reasons(key: Key, types: Columns) -> Sequence[tuple[str, str]]:
    raw, found = f"raw_{key.name}", types[key.column]
    missing, misfit = key_reasons(key.column, key.name, raw, found, key.type)
    return [missing, misfit] if key.needed else [(f"NOT {missing[0]} AND {misfit[0]}", misfit[1])]


def _refuse_time_zone_mix(reading: Reading, thing: str, declared: Timed, rows: str) -> None:
    if declared.time is None or getattr(declared, "time_zone", None) is not None:
        return
    with_zone = reading.count(f"{rows} WHERE zoned")
    without = reading.count(f"{rows} WHERE NOT zoned")
    if with_zone and without:
        raise SourceError(
            f"{thing}.time (table {declared.table}, column {declared.time})",
            found=f"a time zone mix: {with_zone} times have a zone and {without} have none",
            expected="a zone in all times of a column or in none",
            remedy="Write the column in one way, or declare the time_zone of those without.",
        )
