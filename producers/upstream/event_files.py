"""A file of events, one row each, as a world: who did what to which item, when.

    ts,user,item,behavior
    1431360171,12,804,view

Each kind of behaviour becomes an event and a source of its own, whose rows are positives of a task
with drawn negatives beside them. What columns are called otherwise, or else is to be declared, a
configuration says: `columns: {user: visitor, pin: sku, time: at, kind: action, time_unit: ms}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
from pydantic import BaseModel, ConfigDict

from provender.plugin.checked_yaml import check
from provender.plugin.errors import MappingError
from provender.plugin.tables import TableSource, columns_of, explained, literal, open_tables, quoted
from provender.plugin.time_sql import FLOATS, INTEGERS, TimeUnit, instant
from provender.plugin.world import World

#: What is asked for -> what its column may be called, the first one there counts.
_KNOWN = {
    "user": ("user", "user_id", "userid", "visitorid", "visitor_id", "customer_id", "household_id"),
    "pin": ("pin", "pin_id", "item", "item_id", "itemid", "product_id", "ad_id"),
    "time": ("ts", "time", "timestamp", "event_timestamp", "event_time", "datetime", "date"),
    "kind": ("behavior", "behaviour", "behavior_type", "event", "event_type", "type", "action"),
}
#: The largest number of a unit that is a time of this century or the next.
_LIMITS: tuple[tuple[TimeUnit, float], ...] = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
_MOST_KINDS = 20
TABLE = "events"


class EventColumns(BaseModel):
    """Which column is what; what is not said is found by the names that people use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    pin: str
    time: str
    kind: str
    time_unit: TimeUnit | None = None


@dataclass(frozen=True)
class EventFile:
    """A file as a world, and the time before which a share of its events lies."""

    world: World
    cut: datetime
    end: datetime


def declare_events(
    path: Path, given: Mapping[str, Any], where: str, *, negatives: int, learned_share: float
) -> EventFile:
    """Find out what a file's columns are, and declare a world of its events.

    Args:
        path: a CSV, Parquet or JSON lines file, or a folder or glob of them.
        given: `columns`, what is called otherwise; other sections are those of a world's section
            `upstream`, and go before what is found.
        where: what messages call the configuration.
        negatives: drawn beside each event.
        learned_share: so much of the events lies before the cut.

    Raises MappingError where a column that is needed has none of the known names or too many kinds
    of events, SourceError where the file can't be read.
    """
    table = TableSource(path=str(path.absolute()))
    with TemporaryDirectory() as work, open_tables({TABLE: table}, Path.cwd(), Path(work)) as rows:
        there = columns_of(rows, TABLE)
        columns = _columns(path, there, given.get("columns", {}), where)
        with explained(f"{path}"):
            kinds = _kinds(rows, path, columns)
            unit = columns.time_unit or _unit(rows, columns, there)
            keys = {
                each: _key_type(rows, there, getattr(columns, each)) for each in ("user", "pin")
            }
            cut, end = _span(rows, path, columns, there, unit, learned_share)
    events: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for name, kind in kinds.items():
        shared: dict[str, Any] = {
            "table": TABLE,
            "where": f"{quoted(columns.kind)} = {literal(kind)}",
        }
        shared |= {"time": columns.time, "time_unit": unit}
        ends = {"user": columns.user, "pin": columns.pin}
        events[name] = {**shared, "head": {"user": ends["user"]}, "tail": {"pin": ends["pin"]}}
        sources[name] = {
            **shared,
            **ends,
            "labels": {name: "always"},
            "negatives": negatives,
            "negatives_by": "uniform",
        }
    declared = {k: v for k, v in given.items() if k != "columns"}
    content = {
        "tables": {TABLE: table.model_dump()},
        "entities": keys,
        "events": events,
        "upstream": {"sources": sources, **declared},
        "dates": {"first_as_of": cut.date(), "refreshes": 1},
    }
    return EventFile(check(World, content, str(path)), cut, end)


def _columns(path: Path, there: Mapping[str, str], given: Any, where: str) -> EventColumns:
    if not isinstance(given, Mapping):
        raise MappingError(
            f"{where}: columns",
            found=repr(given),
            expected="names of columns, such as {user: visitor}",
            remedy="Correct it.",
        )
    names = {n: next((one for one in known if one in there), n) for n, known in _KNOWN.items()}
    columns = check(EventColumns, {**names, **given}, f"{where}: columns")
    for name, known in _KNOWN.items():
        if getattr(columns, name) not in there:
            raise MappingError(
                f"{path}",
                found=f"the columns {', '.join(there)}",
                expected=f"a column of the {name}: {given.get(name) or ' or '.join(known)}",
                remedy=f"Rename it, or say `columns: {{{name}: COLUMN}}` in --config.",
            )
    return columns


def _kinds(rows: duckdb.DuckDBPyConnection, path: Path, columns: EventColumns) -> dict[str, str]:
    """Name -> the text that stands in the file, the most frequent kind first."""
    kind = f"{quoted(columns.kind)}::VARCHAR"
    found = rows.sql(
        f"SELECT {kind} FROM {quoted(TABLE)} WHERE {kind} IS NOT NULL "
        f"GROUP BY ALL ORDER BY count(*) DESC, {kind} LIMIT {_MOST_KINDS + 1}"
    ).fetchall()
    if not 0 < len(found) <= _MOST_KINDS:
        some = f"more than {_MOST_KINDS} kinds: {', '.join(one for (one,) in found[:3])}, ..."
        raise MappingError(
            f"{path}: {columns.kind}",
            found=some if found else "no kind",
            expected="a few, such as view, cart and buy",
            remedy="Name the right column with `columns: {kind: COLUMN}` in --config.",
        )
    names = {_name(one): one for (one,) in found}
    if len({name.lower() for name in names}) < len(found):  # SQL's columns know no case.
        raise MappingError(
            f"{path}: {columns.kind}",
            found=", ".join(repr(one) for (one,) in found),
            expected="kinds that differ in letters or digits",
            remedy="Rename them.",
        )
    return names


def _name(kind: str) -> str:
    plain = re.sub(r"\W", "_", kind.strip(), flags=re.ASCII)
    return plain if re.match(r"[A-Za-z]", plain) else f"kind_{plain}"


def _key_type(rows: duckdb.DuckDBPyConnection, there: Mapping[str, str], column: str) -> str:
    """int64 where every key is a whole number."""
    if there[column] in INTEGERS:
        return "int64"
    text = f"trim({quoted(column)}::VARCHAR)"
    odd = rows.sql(
        f"SELECT 1 FROM {quoted(TABLE)} WHERE {text} <> '' AND (TRY_CAST({text} AS BIGINT) IS NULL "
        f"OR TRY_CAST({text} AS BIGINT)::VARCHAR <> {text}) LIMIT 1"
    ).fetchall()
    return "string" if odd else "int64"


def _unit(
    rows: duckdb.DuckDBPyConnection, columns: EventColumns, there: Mapping[str, str]
) -> TimeUnit | None:
    """The unit of times that are numbers, by how large they are."""
    found = there[columns.time]
    if found not in INTEGERS | FLOATS | {"VARCHAR"}:
        return None
    number = f"TRY_CAST({quoted(columns.time)} AS DOUBLE)"
    (given, numbers, largest), *_ = rows.sql(
        f"SELECT count({quoted(columns.time)}), count({number}), max(abs({number})) "
        f"FROM {quoted(TABLE)}"
    ).fetchall()
    if not numbers or 2 * numbers < given:
        return None
    return next((unit for unit, limit in _LIMITS if largest < limit), "ns")


def _span(
    rows: duckdb.DuckDBPyConnection,
    path: Path,
    columns: EventColumns,
    there: Mapping[str, str],
    unit: TimeUnit | None,
    share: float,
) -> tuple[datetime, datetime]:
    """The cut, and a time after all events."""
    time = instant(f"{path}: {columns.time}", quoted(columns.time), there[columns.time], unit=unit)
    (cut, last), *_ = rows.sql(
        f"SELECT quantile_disc(time, {share!r}), max(time) FROM (SELECT epoch_us({time}) AS time "
        f"FROM {quoted(TABLE)}) WHERE time IS NOT NULL"
    ).fetchall()
    if cut is None or cut == last:
        raise MappingError(
            f"{path}: {columns.time}",
            found="no time at all"
            if cut is None
            else f"no event after the first {share:.0%}, which are learned from",
            expected="events at several times, some of them to be judged",
            remedy="Name the right column, and its unit, with `columns: {time: COLUMN, time_unit: "
            "ms}` in --config.",
        )
    return _time(int(cut)), _time(int(last) + 1)


def _time(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
