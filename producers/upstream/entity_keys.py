"""Users and pins by number, the one place where keys become numbers, and since when they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from provender.plugin.tables import columns_of, quoted
from provender.plugin.time_sql import instant, microseconds
from provender.producers.upstream.declarations import PinTable
from provender.producers.upstream.tower_rows import (
    Key,
    Reading,
    Report,
    check_columns,
    judged,
    numbered_rows,
)
from provender.producers.upstream.tower_set import ALWAYS

#: SQL of a time before any other.
ALWAYS_SQL = f"CAST('{ALWAYS}' AS BIGINT)"


def numbered(reading: Reading, entity: str) -> str:
    """SQL of `key` and `number` of all users or pins, once they are written."""
    return numbered_rows(_place(reading, entity), "number")


def write_users(reading: Reading, deeds: Iterable[str]) -> int:
    """Write keys/user.parquet (tower_set.TowerSet).

    Args:
        deeds: SQL of rows with `user` and `time`, of events and sources.

    Returns how many users there are.
    """
    schema = _schema(reading, "user", [])
    rows = " UNION ALL ".join(f"SELECT user, time FROM {one}" for one in deeds)
    select = (
        "SELECT user AS key, min(time) AS first, max(time) AS last "
        f"FROM ({rows}) GROUP BY user ORDER BY user"
    )
    return reading.write(select, schema, _place(reading, "user"))


def write_pins(reading: Reading, deeds: Iterable[str], listings: str | None) -> int:
    """Write keys/pin.parquet (tower_set.TowerSet).

    Args:
        deeds: SQL of rows with `pin` and `time`, of events and sources; without a pin they don't
            count.
        listings: of `read_listings`.

    Returns how many pins there are.
    """
    schema = _schema(
        reading, "pin", [("since", pa.int64()), ("until", pa.int64()), ("listed", pa.bool_())]
    )
    rows = " UNION ALL ".join(f"SELECT pin, time FROM {one}" for one in deeds)
    met = (
        "SELECT pin AS key, min(time) AS first, max(time) AS last "
        f"FROM ({rows}) WHERE pin IS NOT NULL GROUP BY pin"
    )
    none = f"(SELECT {reading.no_key('pin')} AS key, 0 AS since, 0 AS until WHERE false)"
    listed = (
        f"SELECT key, nullif(min(since), {ALWAYS_SQL}) AS since, max(until) FILTER (newest) AS "
        "until FROM (SELECT *, since = max(since) OVER (PARTITION BY key) AS newest "
        f"FROM {listings or none}) GROUP BY key"
    )
    select = (
        "SELECT coalesce(m.key, l.key) AS key, first, last, since, until, l.key IS NOT NULL AS "
        f"listed FROM ({met}) m FULL JOIN ({listed}) l ON m.key = l.key ORDER BY 1"
    )
    return reading.write(select, schema, _place(reading, "pin"))


def read_listings(reading: Reading, pins: PinTable) -> tuple[str, Report]:
    """When pins were there, by the table of pins.

    Returns SQL of rows with `key`, `since` (ALWAYS without a time) and `until` (null for not, or
    not before the cut, which nobody can have known), one a key and time, and how many there are
    and were dropped.

    Raises MappingError, SourceError or BadRowsError.
    """
    thing = "upstream.pins"
    types = columns_of(reading.connection, pins.table)
    check_columns(thing, pins.table, {"until": pins.until}, types)
    further, reasons = {"until": "NULL::BIGINT"}, []
    if pins.until is not None:
        raw = quoted(pins.until)
        end = instant(f"{thing}.until", raw, types[pins.until], unit=pins.time_unit)
        further = {"until": f"CASE WHEN ({end}) IS NOT NULL THEN {microseconds(f'({end})')} END"}
        there = f"{raw} IS NOT NULL AND trim(CAST({raw} AS VARCHAR)) NOT IN ('', 'nan')"
        further["misfit"] = f"{there} AND ({end}) IS NULL"
        reasons.append(("misfit", f"{pins.until} is no time"))
    key = Key("key", pins.key, reading.world.entities["pin"])
    good, dropped = judged(reading, thing, pins, [key], further, reasons)
    # Of two rows of one time the one that stays longer counts.
    over = f"bool_and(coalesce(until < {reading.cut}, false))"
    rows = reading.copy(
        f"SELECT key, coalesce(time, {ALWAYS_SQL}) AS since, CASE WHEN {over} THEN max(until) END "
        f"AS until FROM {good} GROUP BY ALL",
        "listings",
    )
    return rows, {"rows": reading.count(good), "dropped": dropped}


def _place(reading: Reading, entity: str) -> Path:
    return reading.staged / "keys" / f"{entity}.parquet"


def _schema(reading: Reading, entity: str, further: list[tuple[str, pa.DataType]]) -> pa.Schema:
    times = [("first", pa.int64()), ("last", pa.int64())]
    return pa.schema([("key", reading.key_type(entity)), *times, *further])
