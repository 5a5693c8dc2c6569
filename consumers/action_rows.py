"""The rows of users' actions, read from the declared logs: what of them is bad is counted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from provender.consumers.log_columns import key_type, known_tables, micros, time_sql
from provender.consumers.ranking_task import PIN, TIME, USER, Actions, RankingTask
from provender.consumers.user_history import HistorySpec
from provender.plugin.errors import BadRowsError, ConfigError
from provender.plugin.tables import explained, open_tables, quoted
from provender.plugin.world import World

#: The column of an action's kind, its place in the spec's kinds.
KIND = "provender_kind"


def read_actions(
    world: World, data: Path, work: Path, before: datetime | None
) -> tuple[HistorySpec, pa.Table, dict[str, int]]:
    """Read what a world declares of users' actions.

    Returns:
        What rankers see of it; user_id, pin_id (int64 or string), event_timestamp (int64,
        microseconds) and KIND (int16), ascending by user and time, and of equals descending by
        kind and pin; and kind -> rows left out for want of a readable user, pin or time.

    Raises as :meth:`provender.consumers.action_log.ActionLog.load` does.
    """
    declared = RankingTask.of_world(world).history
    if declared is None:
        raise _no_history(world)
    if before is not None and before.tzinfo is None:
        raise ConfigError(
            "before", found=f"{before} without a zone", expected="UTC", remedy="Add tzinfo=UTC."
        )
    needed = known_tables(world, [each.table for each in declared.actions.values()])
    connection = open_tables(world.tables, data, work, only=needed)
    try:
        left_out = {}
        for place, (kind, source) in enumerate(declared.actions.items()):
            left_out[kind] = _select(connection, world, kind, source, before)
            _append(connection, place)
        table = _in_order(connection)
    finally:
        connection.close()
    return HistorySpec(length=declared.length, kinds=tuple(declared.actions)), table, left_out


def _no_history(world: World) -> ConfigError:
    return ConfigError(
        f"{world.path or 'world'}: ranking",
        found="no `history`",
        expected="history: {length: ..., actions: {kind: {table, user, pin, time}}}",
        remedy="Declare what users do, or train the ranker without a history.",
    )


def _select(
    connection: duckdb.DuckDBPyConnection,
    world: World,
    kind: str,
    source: Actions,
    before: datetime | None,
) -> int:
    """Make the table `provender_read` of one kind's rows; returns how many of them are bad."""
    what = f"actions {kind} of table {source.table}"
    with explained(f"ranking: {what}"):
        connection.execute(
            f"""create or replace temp table provender_read as select
                try_cast({quoted(source.user)} as {key_type(world, "user")}) as {USER},
                try_cast({quoted(source.pin)} as {key_type(world, "pin")}) as {PIN},
                {time_sql(connection, source)} as {TIME}
                from {quoted(source.table)} where ({source.where or "true"})"""
        )
    if before is not None:
        connection.execute(f"delete from provender_read where {TIME} >= {micros(before)}")
    good = " and ".join(f"{key} is not null" for key in (USER, PIN, TIME))
    query = f"select count(*), count(*) filter (not ({good})) from provender_read"
    rows, bad = connection.execute(query).fetchone() or (0, 0)
    if bad > world.max_bad_share * rows:
        raise BadRowsError(
            what,
            found=f"{bad} of {rows} rows without a readable user, pin or time",
            expected=f"at most a share of {world.max_bad_share}",
            remedy="Mend the rows, filter them by `where`, or raise max_bad_share.",
        )
    connection.execute(f"delete from provender_read where not ({good})")
    return int(bad)


def _append(connection: duckdb.DuckDBPyConnection, kind: int) -> None:
    select = f"select *, {kind}::smallint as {KIND} from provender_read"
    made = "create temp table provender_actions as" if not kind else "insert into provender_actions"
    connection.execute(f"{made} {select}")


def _in_order(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """All actions ascending by user and time; ties so that the latest is the first by kind."""
    table: pa.Table = connection.sql(
        f"select * from provender_actions order by {USER}, {TIME}, {KIND} desc, {PIN} desc"
    ).to_arrow_table()
    return table
