"""The event reader: declared tables in, typed triples before the as-of time out.

The as-of cut happens here, by `event_sql.normalised`, and nowhere else. DuckDB reads, joins and
sorts, spilling to disk what does not fit into its memory limit; no row becomes a Python object.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import ConfigError, MappingError, SourceError
from provender.plugin.files import STAGING, whole_folder
from provender.plugin.tables import columns_of, explained, literal, open_tables
from provender.producers.event_checks import (
    check_rows,
    refuse_repeated,
    refuse_time_zone_mix,
    write_rejected,
)
from provender.producers.event_mapping import EventDeclaration, EventMapping
from provender.producers.event_set import (
    EVENTS,
    IDS,
    REJECTED,
    TRIPLES,
    EventCount,
    EventSet,
    ReadReport,
    Relation,
    events_folder,
    write_batches,
)
from provender.producers.event_sql import Cut, normalised

__all__ = ["EventSet", "ReadReport", "Relation", "read_events", "read_window"]

#: Under this key of a window's schema metadata stands, as JSON, how many events were left out.
LEFT_OUT = b"provender.left_out"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEY_TYPES = {"int64": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class _Reading:
    """The state of one reading: the connection and the place of the normalised events."""

    mapping: EventMapping
    connection: duckdb.DuckDBPyConnection
    folder: Path
    cut: Cut

    def rows(self, name: str) -> str:
        """The normalised rows of an event, as SQL."""
        return literal(str(self.folder / f"{name}.parquet"))

    def good(self, name: str) -> str:
        """The rows of an event that are not bad, as SQL."""
        return f"(SELECT * FROM {self.rows(name)} WHERE reason IS NULL)"


def read_events(
    mapping: EventMapping,
    data: Path,
    as_of: datetime,
    work: Path,
    *,
    now: datetime | None = None,
    memory_limit: str = "2GB",
) -> EventSet:
    """Read all events before `as_of` and structure into `work`/events-<as-of>.

    The folder appears when it is complete and replaces what stood there. What lies at or after
    `as_of` changes no byte of the triples and keys, and does not count as bad.

    Args:
        mapping: what the tables and events are.
        data: the folder that the tables' paths start from.
        as_of: the cut, timezone-aware; an event at this very moment is not read.
        work: a folder for the result and, while reading, for temporary files.
        now: rows later than this are bad; the clock's time by default.
        memory_limit: what DuckDB may hold in memory.

    Raises:
        SourceError: a file or database that can't be read, or no event before `as_of`.
        MappingError: a declaration that does not fit the tables.
        BadRowsError: more bad rows than `max_bad_share`, a repeated id or head.
    """
    now = now or datetime.now(UTC)
    _check_zone("as_of", as_of)
    _check_zone("now", now)
    place = events_folder(work, as_of)
    with _reading(mapping, data, work, Cut(as_of, now), memory_limit) as reading:
        report = _normalise_all(reading, work / f"rejected-{place.name.removeprefix('events-')}")
        start = _first_time(reading, report)
        shutil.rmtree(place, ignore_errors=True)
        with whole_folder(work, place) as staged:
            counts = _write_ids(reading, staged / IDS)
            _write_triples(reading, staged)
            if any(count.bad for count in report.events.values()):
                _write_all_rejected(reading, report, staged / REJECTED)
            events = EventSet(place, as_of, (start, as_of), _relations(mapping), counts, report)
            events.write_report(staged)
    return events


def read_window(
    mapping: EventMapping,
    data: Path,
    events: EventSet,
    end: datetime,
    work: Path,
    *,
    memory_limit: str = "2GB",
) -> pa.Table:
    """Read the events with as-of <= time < end between entities that `events` knows.

    Returns:
        the columns of EventSet.triples, in the same order and with the same ids. The schema's
        metadata holds under LEFT_OUT, as JSON, {event: {"unknown": n, "bad": m}}: events with an
        entity not seen before the as-of time, and bad rows.
    """
    _check_zone("end", end)
    cut = Cut(end, now=max(end, datetime.now(UTC)), start=events.as_of)
    left_out: dict[str, dict[str, int]] = {}
    parts: list[pa.Table] = []
    with _reading(mapping, data, work, cut, memory_limit) as reading:
        for index, (name, event) in enumerate(mapping.events.items()):
            if event.time is None:
                continue
            _normalise(reading, name, event)
            count = _count(reading, name)
            encoded = _encoded(reading, index, name, event, events.folder / IDS)
            table = reading.connection.sql(encoded).to_arrow_table().cast(TRIPLES)
            parts.append(table)
            left_out[name] = {"unknown": count.kept - len(table), "bad": sum(count.bad.values())}
    whole = pa.concat_tables([TRIPLES.empty_table(), *parts])
    return whole.replace_schema_metadata({LEFT_OUT: json.dumps(left_out).encode()})


@contextmanager
def _reading(
    mapping: EventMapping, data: Path, work: Path, cut: Cut, memory_limit: str
) -> Iterator[_Reading]:
    """The opened tables and a temporary folder, which goes whatever happens."""
    # In the staging area, under the process's id: what a killed process leaves is swept there.
    folder = work / STAGING / f"reading.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        needed = {event.table for event in mapping.events.values()}
        connection = open_tables(
            mapping.tables, data, folder, memory_limit=memory_limit, only=needed
        )
        try:
            with explained("events"):  # out of memory, disk full
                yield _Reading(mapping, connection, folder, cut)
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _normalise_all(reading: _Reading, aside: Path) -> ReadReport:
    """Read each event once; stop at what the mapping does not allow."""
    counts: dict[str, EventCount] = {}
    for name, event in reading.mapping.events.items():
        _normalise(reading, name, event)
        counts[name] = _count(reading, name)
    report = ReadReport(counts)
    for name, count in counts.items():
        if count.bad_share > reading.mapping.max_bad_share:
            _write_all_rejected(reading, report, aside)
        check_rows(name, count, reading.mapping.max_bad_share, aside / f"{name}.parquet")
    for name, event in reading.mapping.events.items():
        refuse_repeated(reading.connection, name, event, reading.good(name))
    return report


def _normalise(reading: _Reading, name: str, event: EventDeclaration) -> None:
    columns = columns_of(reading.connection, event.table)
    select = normalised(name, event, columns, reading.mapping.entities, reading.cut)
    with explained(f"events.{name} (table {event.table})"):
        reading.connection.execute(f"COPY ({select}) TO {reading.rows(name)} (FORMAT parquet)")
    refuse_time_zone_mix(reading.connection, name, event, reading.rows(name))


def _count(reading: _Reading, name: str) -> EventCount:
    rows = reading.connection.execute(
        f"SELECT reason, count(*) FROM {reading.rows(name)} GROUP BY reason ORDER BY reason"
    ).fetchall()
    found = dict(rows)
    kept = found.pop(None, 0)
    return EventCount(kept, found)


def _write_all_rejected(reading: _Reading, report: ReadReport, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, count in report.events.items():
        if count.bad:
            table = reading.mapping.events[name].table
            path = folder / f"{name}.parquet"
            write_rejected(reading.connection, name, table, reading.rows(name), path)


def _first_time(reading: _Reading, report: ReadReport) -> datetime:
    """The earliest time of an event; the as-of time itself in a world of structure only."""
    timed = [name for name, event in reading.mapping.events.items() if event.time is not None]
    if not timed:
        return reading.cut.end
    if not any(report.events[name].kept for name in timed):
        raise SourceError(
            f"events {', '.join(timed)}",
            found=f"no event before {reading.cut.end:%Y-%m-%d %H:%M} UTC",
            expected="events before the as-of time",
            remedy="Choose a later as-of time, or correct `time`, `time_unit` and `where`.",
        )
    union = " UNION ALL ".join(f"SELECT time FROM {reading.good(name)}" for name in timed)
    first = reading.connection.execute(f"SELECT epoch_us(min(time)) FROM ({union})").fetchall()
    return EPOCH + timedelta(microseconds=first[0][0])


def _write_ids(reading: _Reading, folder: Path) -> dict[str, int]:
    """Number each entity's keys in their order: the one place where keys become ids."""
    folder.mkdir()
    counts = {}
    for entity, key_type in reading.mapping.entities.items():
        ends = [
            f"SELECT {end} AS key FROM {reading.good(name)}"
            for name, event in reading.mapping.events.items()
            for end, found in (("head", event.head_entity), ("tail", event.tail_entity))
            if found == entity
        ]
        if not ends:
            raise MappingError(
                f"entities.{entity}",
                found="no event with it",
                expected="each entity at an end of an event",
                remedy="Remove the entity or declare its event.",
            )
        keys = f"SELECT DISTINCT key FROM ({' UNION ALL '.join(ends)})"
        schema = pa.schema([("id", pa.int64()), ("key", KEY_TYPES[key_type])])
        query = f"SELECT row_number() OVER (ORDER BY key) - 1 AS id, key FROM ({keys}) ORDER BY key"
        counts[entity] = _write(reading, [query], schema, folder / f"{entity}.parquet")
    return counts


def _write_triples(reading: _Reading, staged: Path) -> None:
    """The triples of relation after relation, each sorted by itself: a smaller sort, same order."""
    queries = [
        _encoded(reading, index, name, event, staged / IDS)
        for index, (name, event) in enumerate(reading.mapping.events.items())
    ]
    _write(reading, queries, TRIPLES, staged / EVENTS)


def _write(reading: _Reading, queries: list[str], schema: pa.Schema, path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for query in queries:
            reader = reading.connection.sql(query).to_arrow_reader(1 << 17)
            rows += write_batches(reader, writer)
    return rows


def _encoded(reading: _Reading, index: int, name: str, event: EventDeclaration, ids: Path) -> str:
    """The SELECT of an event's triples: keys looked up in the ids; unknown keys fall out."""
    heads = literal(str(ids / f"{event.head_entity}.parquet"))
    tails = literal(str(ids / f"{event.tail_entity}.parquet"))
    return (
        f"SELECT {index}::SMALLINT AS relation, h.id AS head, t.id AS tail, e.time, e.weight "
        f"FROM {reading.good(name)} e "
        f"JOIN {heads} h ON e.head = h.key JOIN {tails} t ON e.tail = t.key "
        "ORDER BY e.time, h.id, t.id, e.weight"
    )


def _relations(mapping: EventMapping) -> tuple[Relation, ...]:
    return tuple(
        Relation(name, event.head_entity, event.tail_entity)
        for name, event in mapping.events.items()
    )


def _check_zone(name: str, time: datetime) -> None:
    if time.tzinfo is None:
        raise ConfigError(
            name,
            found=f"{time} without a time zone",
            expected="a time with its zone",
            remedy="Add tzinfo=UTC.",
        )
