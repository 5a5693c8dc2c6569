"""Tables and times of the declared logs, as every reader of the `ranking` section takes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import duckdb

from provender.consumers.ranking_task import TimeColumn
from provender.plugin.errors import MappingError
from provender.plugin.tables import columns_of, quoted
from provender.plugin.time_sql import instant, microseconds
from provender.plugin.world import World

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def known_tables(world: World, needed: Sequence[str]) -> Sequence[str]:
    """Return the tables' names; raises MappingError for one that the world does not declare."""
    for table in needed:
        if table not in world.tables:
            raise MappingError(
                f"{world.path or 'world'}: ranking",
                found=f"the table {table!r}",
                expected=f"one of {', '.join(world.tables)}",
                remedy="Correct the name or declare the table.",
            )
    return needed


def micros(time: datetime) -> int:
    """Return a time with its zone as microseconds since 1970-01-01 UTC."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def key_type(world: World, entity: str) -> str:
    """Return the DuckDB type of an entity's key."""
    return "bigint" if world.entities.get(entity, "string") == "int64" else "varchar"


def time_sql(connection: duckdb.DuckDBPyConnection, source: TimeColumn) -> str:
    """SQL that gives the source's time as microseconds since 1970-01-01 UTC, null if unreadable.

    Raises MappingError for a column that is not there or is no time.
    """
    column, columns = quoted(source.time), columns_of(connection, source.table)
    if source.time not in columns:
        raise MappingError(
            f"ranking: table {source.table}",
            found=f"no column {source.time!r}",
            expected=f"one of {', '.join(columns)}",
            remedy="Correct `time` in the ranking section.",
        )
    time = instant(
        f"ranking: table {source.table}, column {source.time}",
        column,
        columns[source.time],
        unit=source.time_unit,
        zone=source.time_zone,
    )
    return microseconds(time)
