"""Impressions read from the declared logs and labelled by what followed them in time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from provender.consumers.label_windows import LabelWindow, match_label
from provender.consumers.log_columns import key_type, known_tables, micros, time_sql
from provender.consumers.ranking_task import (
    ID,
    KEYS,
    LABELS,
    PIN,
    TIME,
    USER,
    WEIGHTS,
    Impressions,
    RankingTask,
)
from provender.plugin.errors import BadRowsError, ConfigError
from provender.plugin.online_rows import EPOCH, MICROSECOND
from provender.plugin.tables import explained, open_tables, quoted
from provender.plugin.world import World

#: Under this key of the table's schema metadata stands how many bad rows were left out.
LEFT_OUT = b"provender.left_out"
#: Rows that are labelled at once.
_BATCH = 131_072


@dataclass(frozen=True)
class LabelledLog:
    """Labelled impressions, read once as they come.

    Attributes:
        left_out: rows that were left out for want of an id, key or time.
        tables: the rows by time and id, some at a time, at least one table.
    """

    left_out: int
    tables: Iterator[pa.Table]


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
    Nor is it a negative: a row is known only when its window has closed, which is when impression
    time + within < observed_until. Rows younger than that have no label whether the event has come
    or not, as those with an early event would be learned from without those with a late one; or,
    where the label says `immature: weigh`, the label seen so far and a weight (delayed_feedback.py)
    that makes up for what is still to come.

    Returns:
        impression_id, user_id, pin_id (int64 or string), event_timestamp (timestamp[us, UTC]), the
        context columns, click and conversion (int8, null where not known), click_weight and
        conversion_weight (float32, 0 there), ordered by time and id. A label that the world does
        not declare is not known. The number of rows left out for want of an id, key or time is in
        the schema's metadata (LEFT_OUT).

    Raises:
        MappingError: a table, column or condition that is not there.
        BadRowsError: an impression id that stands twice, or more bad rows than the world allows.
    """
    with labelled_log(world, data, (start, end), observed_until, work) as log:
        table = pa.concat_tables(log.tables).combine_chunks()
        return table.replace_schema_metadata({LEFT_OUT: str(log.left_out)})


@contextmanager
def labelled_log(
    world: World,
    data: Path,
    span: tuple[datetime, datetime],
    observed_until: datetime,
    work: Path,
) -> Iterator[LabelledLog]:
    """What :func:`load_impressions` returns, some rows at a time; DuckDB's memory is bounded.

    Raises as it does.
    """
    start, end = span
    for name, time in (("start", start), ("end", end), ("observed_until", observed_until)):
        if time.tzinfo is None:
            raise ConfigError(
                name, found=f"{time} without a zone", expected="UTC", remedy="Add tzinfo=UTC."
            )
    task = RankingTask.of_world(world)
    labels = task.labels.declared()
    needed = [task.impressions.table, *(label.table for label in labels.values())]
    connection = open_tables(world.tables, data, work, only=known_tables(world, needed))
    try:
        left_out = _select_impressions(connection, world, task.impressions, start, end)
        _refuse_duplicates(connection, task.impressions.table)
        windows = {
            name: match_label(connection, name, label, observed_until)
            for name, label in labels.items()
        }
        rows = _labelled(connection, task.impressions.context, windows)
        yield LabelledLog(left_out, (_finished(part, windows) for part in _tables(rows)))
    finally:
        connection.close()


def log_end(world: World, data: Path, work: Path) -> datetime:
    """The first microsecond that the log of impressions and of their labels says nothing of.

    Who labels what lies at the end of a log gives it as `observed_until`: windows that reach beyond
    are still open, whatever the calendar says.
    """
    task = RankingTask.of_world(world)
    sources = [task.impressions, *task.labels.declared().values()]
    needed = known_tables(world, [source.table for source in sources])
    connection = open_tables(world.tables, data, work, only=needed)
    try:
        last = 0
        for source in sources:
            with explained(f"ranking: table {source.table}"):
                found = connection.execute(
                    f"select max({time_sql(connection, source)}) from {quoted(source.table)}"
                ).fetchall()
            last = max(last, found[0][0] or 0)
    finally:
        connection.close()
    return EPOCH + (last + 1) * MICROSECOND


def with_known_labels(table: pa.Table) -> pa.Table:
    """The rows that have a label of some task; the others teach nothing."""
    known = [pc.greater(table[name], 0) for name in WEIGHTS if name in table.column_names]
    return table.filter(reduce(pc.or_, known)) if known else table


def _tables(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    yield pa.Table.from_batches([], rows.schema)
    for batch in rows:
        yield pa.Table.from_batches([batch])


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


def _labelled(
    connection: duckdb.DuckDBPyConnection, context: tuple[str, ...], labels: Iterable[str]
) -> pa.RecordBatchReader:
    """The impressions by time and id, beside each declared label 1 where its event followed."""
    extra = "".join(f", s.{quoted(name)}" for name in context)
    flags = "".join(
        f", cast({name}.id is not null as tinyint) as {name}"
        if name in labels
        else f", cast(0 as tinyint) as {name}"
        for name in LABELS
    )
    joins = "".join(f" left join provender_{name} {name} on {name}.id = s.{ID}" for name in labels)
    return connection.sql(
        f"""select s.{ID}, s.{USER}, s.{PIN}, s.{TIME}{extra}{flags}
            from provender_shown s{joins} order by s.{TIME}, s.{ID}"""
    ).to_arrow_reader(_BATCH)


def _finished(rows: pa.Table, windows: Mapping[str, LabelWindow]) -> pa.Table:
    """Times as timestamps, and labels with their weights; what is not declared is not known."""
    times = rows[TIME].to_numpy()
    place = rows.schema.get_field_index(TIME)
    rows = rows.set_column(place, TIME, pa.array(times, pa.timestamp("us", tz="UTC")))
    weights = []
    for name in LABELS:
        followed = rows[name].combine_chunks()
        if name in windows:
            label, weight = windows[name].columns(followed, times)
        else:
            label = pa.nulls(len(rows), pa.int8())
            weight = pa.array(np.zeros(len(rows), np.float32))
        rows = rows.set_column(rows.schema.get_field_index(name), name, label)
        weights.append(weight)
    for name, weight in zip(WEIGHTS, weights, strict=True):
        rows = rows.append_column(name, weight)
    return rows
