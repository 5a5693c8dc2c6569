"""How a declared event is read: the SQL for keys, times and the reason why a row is bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from provender.plugin.errors import MappingError
from provender.plugin.tables import literal, quoted
from provender.plugin.time_sql import (
    FLOATS,
    INTEGERS,
    NOTHING,
    WHOLE_NUMBER,
    carries_zone,
    instant,
    stamp,
)
from provender.producers.event_mapping import EventDeclaration


@dataclass(frozen=True)
class Cut:
    """The span of time that is read: [start, end). Rows later than `now` are bad."""

    end: datetime
    now: datetime
    start: datetime | None = None


def normalised(
    name: str,
    event: EventDeclaration,
    columns: Mapping[str, str],
    key_types: Mapping[str, str],
    cut: Cut,
) -> str:
    """The SELECT of an event's rows inside the cut.

    Its columns: head and tail (keys of the declared type), time, weight (float), zoned (of text
    times: does it carry a zone), id, reason (null for a good row) and, of bad rows only,
    head_found, tail_found and time_found as text. The cut comes first: a row at or after its end
    is not there, whatever else is wrong with it.

    Raises MappingError for columns that are not there or of a type that can't be a key or a time.
    """
    types = _types(name, event, columns)
    head_type, tail_type = key_types[event.head_entity], key_types[event.tail_entity]
    thing = f"events.{name}"
    found, unit = types.get("time", NOTHING), event.time_unit
    time = instant(f"{thing}.time", "raw_time", found, unit=unit, zone=event.time_zone)
    zoned = carries_zone("raw_time", found, unit=unit)
    raw = {
        "head": quoted(event.head_column),
        "tail": quoted(event.tail_column),
        "time": quoted(event.time) if event.time else "NULL",
        "id": quoted(event.id) if event.id else "NULL",
        "weight": f"TRY(({event.weight}\n))",
    }
    selected = ", ".join(f"{sql} AS raw_{key}" for key, sql in raw.items())
    condition = f"WHERE ({event.where}\n)" if event.where else ""
    head = key_of(f"{thing}.head", "raw_head", types["head"], head_type)
    tail = key_of(f"{thing}.tail", "raw_tail", types["tail"], tail_type)
    missing_head, missing_tail = (_missing(f"raw_{end}", types[end]) for end in ("head", "tail"))
    missing_time = _missing("raw_time", types["time"]) if event.time else "false"
    reasons = [
        (missing_head, f"{event.head_column} is missing"),
        (missing_tail, f"{event.tail_column} is missing"),
        ("head IS NULL", f"{event.head_column} is no {head_type}"),
        ("tail IS NULL", f"{event.tail_column} is no {tail_type}"),
        (missing_time, f"{event.time} is missing"),
        ("time IS NULL" if event.time else "false", f"{event.time} is no time"),
        (f"time > {stamp(cut.now)}", f"{event.time} is later than now"),
        ("weight IS NULL OR NOT isfinite(weight) OR weight < 0", "the weight is no number >= 0"),
    ]
    cases = " ".join(f"WHEN {sql} THEN {literal(reason)}" for sql, reason in reasons)
    return (
        f"WITH raw AS (SELECT {selected} FROM {quoted(event.table)} {condition}),\n"
        f"typed AS (SELECT *, {head} AS head, {tail} AS tail, {time} AS time, {zoned} AS zoned, "
        "TRY_CAST(raw_weight AS FLOAT) AS weight FROM raw),\n"
        f"within AS (SELECT * FROM typed WHERE {_within(event, cut)}),\n"
        f"judged AS (SELECT *, CASE {cases} END AS reason FROM within)\n"
        "SELECT head, tail, time, weight, zoned, CAST(raw_id AS VARCHAR) AS id, reason, "
        + ", ".join(
            f"CASE WHEN reason IS NOT NULL THEN CAST(raw_{c} AS VARCHAR) END AS {c}_found"
            for c in ("head", "tail", "time")
        )
        + " FROM judged"
    )


def _within(event: EventDeclaration, cut: Cut) -> str:
    """Inside the cut; of a row without a time nobody knows, so it stays, to be counted as bad."""
    if event.time is None:
        return "true"
    within = f"time < {stamp(cut.end)}"
    if cut.start is not None:
        return f"{within} AND time >= {stamp(cut.start)}"
    return f"time IS NULL OR {within}"


def _types(name: str, event: EventDeclaration, columns: Mapping[str, str]) -> dict[str, str]:
    """Types of the columns that the declaration names, by head, tail, time and id."""
    for key, column in event.columns().items():
        if column not in columns:
            raise MappingError(
                f"events.{name}.{key}",
                found=f"no column {column} in table {event.table}",
                expected=f"one of its columns {', '.join(columns)}",
                remedy="Correct the mapping, or the file if it has lost the column.",
            )
    return {key.split(".")[0]: columns[column] for key, column in event.columns().items()}


def _missing(column: str, found: str) -> str:
    if found == "VARCHAR":
        return f"({column} IS NULL OR trim({column}) = '')"
    if found in FLOATS:
        # pandas writes a missing id as NaN, and DuckDB 2.0's isnan trusts Parquet's statistics,
        # which leave NaN out.
        return f"({column} IS NULL OR NOT (isfinite({column}) OR isinf({column})))"
    return f"{column} IS NULL"


def key_of(thing: str, column: str, found: str, wanted: str) -> str:
    """The column as an int64 or string key; null where it can't be one. Nothing is rounded."""
    if found == NOTHING:
        number = text = "NULL"
    elif found in INTEGERS:
        number = text = column
    elif found in FLOATS:  # beyond 2**53 two ids would become one
        number = text = (
            f"CASE WHEN {column} = floor({column}) AND abs({column}) <= 9007199254740992 "
            f"THEN TRY_CAST({column} AS BIGINT) END"
        )
    elif found.startswith("DECIMAL"):
        number = text = f"CASE WHEN {column} = floor({column}) THEN CAST({column} AS HUGEINT) END"
    elif found == "VARCHAR":
        trimmed = f"trim({column})"
        number = (
            f"CASE WHEN regexp_full_match({trimmed}, {WHOLE_NUMBER}) "
            f"THEN split_part({trimmed}, '.', 1) END"
        )
        text = f"nullif({trimmed}, '')"
    elif wanted == "string" and (found == "UUID" or found.startswith("ENUM")):
        number, text = "NULL", column
    else:
        raise MappingError(
            thing,
            found=f"a column of type {found}",
            expected=f"numbers or text that can be a key of type {wanted}",
            remedy="Name the right column, or write it with the right type.",
        )
    return f"TRY_CAST({number} AS BIGINT)" if wanted == "int64" else f"CAST({text} AS VARCHAR)"
