"""Rows with the reason why one is not taken, and how many there are of each reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import duckdb

from provender.plugin.tables import literal
from provender.plugin.time_sql import FLOATS, TimeUnit, instant, stamp


class Timed(Protocol):
    """A declaration of rows that may have a time."""

    @property
    def time(self) -> str | None:
        """Its column."""

    @property
    def time_unit(self) -> TimeUnit | None:
        """What its numbers count."""


Reasons = Sequence[tuple[str, str]]


def copy(connection: duckdb.DuckDBPyConnection, select: str, place: Path) -> Path:
    """Write the rows of a SELECT, in its order, to a Parquet file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    connection.execute(f"COPY ({select}) TO {literal(str(place))} (FORMAT parquet)")
    return place


def rows_of(place: Path) -> str:
    """SQL of a Parquet file's rows."""
    return f"read_parquet({literal(str(place))})"


def time_sql(thing: str, declared: Timed, column: str, found: str) -> str:
    """SQL of the time from which on a row is known; null where the declaration has none."""
    if declared.time is None:
        return "NULL::TIMESTAMPTZ"
    return instant(f"{thing}.time", column, found, unit=declared.time_unit)


def within(declared: Timed, as_of: datetime | None) -> str:
    """SQL: before the cut. A row without a time stays, to be counted as bad."""
    if declared.time is None or as_of is None:
        return "true"
    return f"(time IS NULL OR time < {stamp(as_of)})"


def key_reasons(column: str, key: str, raw: str, found: str, key_type: str) -> Reasons:
    """Why a key is none."""
    missing = f"{raw} IS NULL"
    if found == "VARCHAR":
        missing = f"({missing} OR trim({raw}) = '')"
    elif found in FLOATS:  # a missing number is NaN in files of pandas
        missing = f"({missing} OR NOT (isfinite({raw}) OR isinf({raw})))"
    return [(missing, f"{column} is missing"), (f"{key} IS NULL", f"{column} is no {key_type}")]


def time_reasons(declared: Timed) -> Reasons:
    """Why a time is none."""
    if declared.time is None:
        return []
    return [
        ("raw_time IS NULL", f"{declared.time} is missing"),
        ("time IS NULL", f"{declared.time} is no time"),
    ]


def case(reasons: Reasons) -> str:
    """SQL of the first reason that holds; null for a good row."""
    whens = " ".join(f"WHEN {sql} THEN {literal(reason)}" for sql, reason in reasons)
    return f"CASE {whens} END"


def counts_by_reason(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, int]:
    """Rows by their column `reason`, good ones left out, the most frequent first."""
    rows = connection.execute(
        f"SELECT reason, count(*) AS n FROM {source} WHERE reason IS NOT NULL "
        "GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()
    return dict(rows)


def count(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    """How many rows."""
    found = connection.execute(f"SELECT count(*) FROM {source}").fetchone()
    return int(found[0]) if found else 0
