"""What stops the reading of events: too many bad rows, repeated ids, a mix of time zones."""

from __future__ import annotations

from pathlib import Path

import duckdb

from provender.plugin.errors import BadRowsError, SourceError
from provender.plugin.tables import literal
from provender.producers.event_mapping import EventDeclaration
from provender.producers.event_set import EventCount


def write_rejected(
    connection: duckdb.DuckDBPyConnection, name: str, table: str, rows: str, path: Path
) -> None:
    """Set an event's bad rows aside: table, event, reason and what was found, all as text."""
    connection.execute(
        f"COPY (SELECT {literal(table)} AS table_name, {literal(name)} AS event, reason, "
        f"head_found, tail_found, time_found FROM {rows} WHERE reason IS NOT NULL "
        f"ORDER BY ALL) TO {literal(str(path))} (FORMAT parquet)"
    )


def check_rows(name: str, count: EventCount, most: float, rejected: Path) -> None:
    """Raise BadRowsError where more than the share `most` of an event's rows is bad."""
    if count.bad_share <= most:
        return
    bad = sum(count.bad.values())
    reasons = ", ".join(f"{rows} x {reason}" for reason, rows in count.bad.items())
    raise BadRowsError(
        f"events.{name}",
        found=f"{bad} bad of {bad + count.kept} rows ({reasons})",
        expected=f"at most {most:.2%} bad (max_bad_share)",
        remedy=f"They lie in {rejected}: mend the source or the mapping, or raise max_bad_share.",
    )


def refuse_repeated(
    connection: duckdb.DuckDBPyConnection, name: str, event: EventDeclaration, good: str
) -> None:
    """Raise BadRowsError where an id, or the head of `unique: head`, stands more than once."""
    checks = {"id": event.id, "head": event.head_column if event.unique else None}
    for column, source_column in checks.items():
        if source_column is None:
            continue
        row = connection.execute(
            f"SELECT count(*), arg_min(key, key), arg_min(n, key) FROM ("
            f"SELECT {column} AS key, count(*) AS n FROM {good} WHERE {column} IS NOT NULL "
            "GROUP BY 1 HAVING count(*) > 1)"
        ).fetchall()[0]
        if row[0]:
            raise BadRowsError(
                f"events.{name} (table {event.table})",
                found=f"{row[0]} duplicate ids: {source_column} {row[1]!r} stands {row[2]} times",
                expected=f"each {source_column} once",
                remedy=f"Remove the duplicates, or {column if column == 'id' else 'unique'} "
                "from the event's declaration.",
            )


def refuse_time_zone_mix(
    connection: duckdb.DuckDBPyConnection, name: str, event: EventDeclaration, rows: str
) -> None:
    """Raise SourceError where a column's text times have a zone in some rows and none in others."""
    if event.time is None or event.time_zone is not None:
        return
    found = connection.execute(
        "SELECT count(*) FILTER (zoned), count(*) FILTER (NOT zoned), "
        f"min(head) FILTER (zoned), min(head) FILTER (NOT zoned) FROM {rows} WHERE time IS NOT NULL"
    ).fetchall()[0]
    if found[0] and found[1]:
        raise SourceError(
            f"events.{name}.time (table {event.table}, column {event.time})",
            found=f"a time zone mix: {found[0]} times have a zone (first {event.head_column} "
            f"{found[2]!r}) and {found[1]} have none (first {event.head_column} {found[3]!r})",
            expected="a zone in all times of a column or in none",
            remedy="Write the column in one way, or declare the time_zone of those without.",
        )
