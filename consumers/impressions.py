"""Impressions read from the declared logs and labelled by what followed them in time."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from provender.consumers.log_columns import key_type, known_tables, micros, time_sql
from provender.consumers.ranking_task import (
    ID,
    KEYS,
    LABELS,
    PIN,
    TIME,
    USER,
    Impressions,
    Label,
    RankingTask,
)
from provender.plugin.errors import BadRowsError, ConfigError
from provender.plugin.tables import explained, open_tables, quoted
from provender.plugin.world import World

#: Under this key of the table's schema metadata stands how many bad rows were left out.
LEFT_OUT = b"provender.left_out"


def load_impressions(
    world: World,
    data: Path,
    start: datetime,
    end: datetime,
    observed_until: datetime,
    work: Path,
) -> pa.Table:
    """Read the impressions with start <= time < end, and label them.

    A label is 1 iff a matching row has impression time <= time <= impression time + within and
    time < observed_until: what was not known yet, when `observed_until` was now, is no positive.

    Returns:
        impression_id, user_id, pin_id (int64 or string), event_timestamp (timestamp[us, UTC]), the
        context columns, then click and conversion (int8), ordered by time and id. The number of
        rows left out for want of an id, key or time is in the schema's metadata (LEFT_OUT).

    Raises:
        MappingError: a table, column or condition that is not there.
        BadRowsError: an impression id that stands twice, or more bad rows than the world allows.
    """
    for name, time in (("start", start), ("end", end), ("observed_until", observed_until)):
        if time.tzinfo is None:
            raise ConfigError(
                name, found=f"{time} without a zone", expected="UTC", remedy="Add tzinfo=UTC."
            )
    task = RankingTask.of_world(world)
    needed = [task.impressions.table, *(label.table for label in task.labels.declared().values())]
    connection = open_tables(world.tables, data, work, only=known_tables(world, needed))
    try:
        left_out = _select_impressions(connection, world, task.impressions, start, end)
        _refuse_duplicates(connection, task.impressions.table)
        labels = task.labels.declared()
        for name, label in labels.items():
            _match_label(connection, name, label, observed_until)
        table = _labelled(connection, task.impressions.context, tuple(labels))
    finally:
        connection.close()
    return table.replace_schema_metadata({LEFT_OUT: str(left_out)})


def _select_impressions(
    connection: duckdb.DuckDBPyConnection,
    world: World,
    source: Impressions,
    start: datetime,
    end: datetime,
) -> int:
    """Make the table `provender_shown` of the good rows; returns how many bad ones there were."""
    what = f"impressions of table {source.table}"
    casts = [key_type(world, entity) for entity in ("user", "pin")]
    context = "".join(f", {quoted(name)}" for name in source.context)
    with explained(f"ranking: {what}"):
        connection.execute(
            f"""create temp table provender_read as select
                {quoted(source.id)} as {ID},
                try_cast({quoted(source.user)} as {casts[0]}) as {USER},
                try_cast({quoted(source.pin)} as {casts[1]}) as {PIN},
                {time_sql(connection, source)} as {TIME}{context}
                from {quoted(source.table)} where ({source.where or "true"})"""
        )
    good = " and ".join(f"{key} is not null" for key in KEYS)
    window = f"{TIME} >= {micros(start)} and {TIME} < {micros(end)}"
    connection.execute(
        f"""create temp table provender_shown as
            select * from provender_read where {good} and {window}"""
    )
    query = f"select count(*), count(*) filter (not ({good})) from provender_read"
    rows, bad = connection.execute(f"{query} where {TIME} is null or ({window})").fetchone() or (
        0,
        0,
    )
    if bad > world.max_bad_share * rows:
        raise BadRowsError(
            what,
            found=f"{bad} of {rows} rows without a readable id, user, pin or time",
            expected=f"at most a share of {world.max_bad_share}",
            remedy="Mend the rows, filter them by `where`, or raise max_bad_share.",
        )
    return int(bad)


def _refuse_duplicates(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    row = connection.execute(
        f"""select {ID}, count(*) from provender_shown
            group by 1 having count(*) > 1 order by 1 limit 1"""
    ).fetchone()
    if row is not None:
        raise BadRowsError(
            f"impressions of table {table}",
            found=f"the id {row[0]!r} {row[1]} times",
            expected="each impression once",
            remedy="Deduplicate the log, or declare another column as the id.",
        )


def _match_label(
    connection: duckdb.DuckDBPyConnection, name: str, label: Label, observed_until: datetime
) -> None:
    """Make the table `provender_<label>` of the impressions' ids that the label holds for."""
    what = f"label {name} of table {label.table}"
    keys = "".join(
        f", {quoted(theirs)} as k{place}" for place, theirs in enumerate(label.match.values())
    )
    with explained(f"ranking: {what}"):
        connection.execute(
            f"""create temp table provender_{name}_rows as
                select {time_sql(connection, label)} as t{keys}
                from {quoted(label.table)} where ({label.where or "true"})"""
        )
    same = " and ".join(
        f"try_cast(l.k{place} as {_type_of(connection, ours)}) = s.{ours}"
        for place, ours in enumerate(label.match)
    )
    within = label.within // timedelta(microseconds=1)
    connection.execute(
        f"""create temp table provender_{name} as select distinct s.{ID} as id
            from provender_shown s join provender_{name}_rows l on {same}
            where l.t >= s.{TIME} and l.t <= s.{TIME} + {within}
            and l.t < {micros(observed_until)}"""
    )


def _type_of(connection: duckdb.DuckDBPyConnection, column: str) -> str:
    described = connection.execute(f"select {column} from provender_shown limit 0").description
    return str(described[0][1]) if described else "VARCHAR"


def _labelled(
    connection: duckdb.DuckDBPyConnection, context: tuple[str, ...], labels: tuple[str, ...]
) -> pa.Table:
    extra = "".join(f", s.{quoted(name)}" for name in context)
    flags = "".join(
        f", cast(s.{ID} in (select id from provender_{name}) as tinyint) as {name}"
        if name in labels
        else f", cast(0 as tinyint) as {name}"
        for name in LABELS
    )
    table: pa.Table = connection.sql(
        f"""select s.{ID}, s.{USER}, s.{PIN}, s.{TIME}{extra}{flags}
            from provender_shown s order by s.{TIME}, s.{ID}"""
    ).to_arrow_table()
    place = table.schema.get_field_index(TIME)
    times = table[TIME].cast(pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(place, TIME, times).combine_chunks()
