"""Times as SQL: a column of timestamps, dates, text or numbers as instants in UTC.

Every reader of logs takes its times from here, so that a click and the impression it followed are
never read by two rules. The connection's TimeZone has to be UTC, as `open_tables` sets it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from provender.plugin.errors import MappingError
from provender.plugin.tables import literal

#: What a time written as a number may count since 1970.
TimeUnit = Literal["s", "ms", "us", "ns"]

INTEGERS = frozenset(
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "", "BIG", "HUGE")
) | {"INTEGER", "UINTEGER"}
FLOATS = frozenset({"FLOAT", "DOUBLE"})
NAIVE = frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})
AWARE = frozenset({"TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"})
#: What DuckDB calls a column without a single value.
NOTHING = '"NULL"'

#: A number of seconds and so on in microseconds: (factor, divisor).
UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
#: The last microsecond that DuckDB can hold; what lies beyond is later than any time asked for.
LAST_MICROSECOND = 9_223_372_036_854_775_806

WHOLE_NUMBER = r"'[+-]?\d+(\.0*)?'"
NUMBER = r"'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?'"
DATE_FIRST = r"'\d{4,6}[-/]\d{1,2}[-/]\d{1,2}.*'"
ZONED = r"'.*:\d{2}.*?\s?(Z|z|UTC|GMT|[+-]\d{2}(:?\d{2})?)'"
SPACED_ZONE, KEPT = r"'\s+([Z+-][\d:]*)$'", r"'\1'"


def stamp(time: datetime) -> str:
    """The time, which has a zone, as a SQL literal."""
    return f"TIMESTAMPTZ '{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"


def instant(
    thing: str, column: str, found: str, *, unit: TimeUnit | None = None, zone: str | None = None
) -> str:
    """SQL of the column's times as TIMESTAMPTZ: null where one can't be read, never an error.

    Nanoseconds are cut off, never rounded up, and a number past what a timestamp can hold is
    'infinity'. A zone that a text carries goes before `zone`.

    Args:
        thing: what an error names.
        column: SQL of the column, quoted.
        found: its DuckDB type.
        unit: of numbers and of text with numbers, since 1970-01-01 UTC.
        zone: of times that carry none themselves; UTC when not given.

    Raises:
        MappingError: a type that is no time, or a unit where there is none to give.
    """
    home = literal(zone or "UTC")
    if found == NOTHING:
        return "NULL::TIMESTAMPTZ"
    if unit is not None and _is_number(found):
        time = _from_number(_microseconds(column, unit, found))
    elif unit is not None or found not in AWARE | NAIVE | {"DATE", "VARCHAR"}:
        raise MappingError(
            thing,
            found=f"a column of type {found} {'with' if unit else 'without'} a time_unit",
            expected="a timestamp, a date, text, or a number with its time_unit (s, ms, us, ns)",
            remedy="Correct time or time_unit.",
        )
    elif found == "VARCHAR":
        time = _from_text(column, home)
    else:
        time = _from_timestamp(column, found, home)
    # Before the year 1 neither Python nor Arrow's readers have a date.
    return f"CASE WHEN {time} >= {stamp(datetime(1, 1, 1, tzinfo=UTC))} THEN {time} END"


def microseconds(time: str) -> str:
    """SQL of a TIMESTAMPTZ as microseconds since 1970; 'infinity' is later than every other."""
    return f"CASE WHEN isinf({time}) THEN {LAST_MICROSECOND + 1} ELSE epoch_us({time}) END"


def carries_zone(column: str, found: str, *, unit: TimeUnit | None = None) -> str:
    """SQL that says of a text time whether a zone is written in it; null where it is no text."""
    if found != "VARCHAR" or unit is not None:
        return "NULL::BOOLEAN"
    return f"regexp_full_match(trim({column}), {ZONED})"


def _is_number(found: str) -> bool:
    return found in INTEGERS | FLOATS | {"VARCHAR"} or found.startswith("DECIMAL")


def _from_timestamp(column: str, found: str, home: str) -> str:
    if found.endswith("_NS"):  # DuckDB's own cast rounds up, and up may be after the cut
        whole = f"make_timestamp({_floored(f'epoch_ns({column})', 1000)})"
        return f"timezone({home if found in NAIVE else literal('UTC')}, {whole})"
    return column if found in AWARE else f"timezone({home}, CAST({column} AS TIMESTAMP))"


def _from_text(column: str, home: str) -> str:
    text = f"trim({column})"
    # DuckDB reads "Z" and "+03" only in capitals and without a space before them.
    zoned = f"regexp_replace(upper({text}), {SPACED_ZONE}, {KEPT})"
    return (
        f"CASE WHEN NOT regexp_full_match({text}, {DATE_FIRST}) THEN NULL "
        f"WHEN {carries_zone(column, 'VARCHAR')} THEN TRY_CAST({zoned} AS TIMESTAMPTZ) "
        f"ELSE timezone({home}, TRY_CAST({text} AS TIMESTAMP)) END"
    )


def _from_number(scaled: str) -> str:
    return (
        f"CASE WHEN {scaled} > {LAST_MICROSECOND} THEN TIMESTAMPTZ 'infinity' "
        f"ELSE timezone('UTC', TRY(make_timestamp(TRY_CAST({scaled} AS BIGINT)))) END"
    )


def _microseconds(column: str, unit: TimeUnit, found: str) -> str:
    """The column's numbers as microseconds, HUGEINT, so that none overflows."""
    factor, divisor = UNITS[unit]
    if found == "VARCHAR":
        text = f"trim({column})"
        whole = _microseconds(f"split_part({text}, '.', 1)", unit, "BIGINT")
        broken = _microseconds(f"TRY_CAST({text} AS DOUBLE)", unit, "DOUBLE")
        return (
            f"CASE WHEN regexp_full_match({text}, {WHOLE_NUMBER}) THEN {whole} "
            f"WHEN regexp_full_match({text}, {NUMBER}) THEN {broken} END"
        )
    if found in INTEGERS:
        number = f"CAST(TRY_CAST({column} AS BIGINT) AS HUGEINT) * {factor}"
        return _floored(f"({number})", divisor)
    return f"TRY_CAST(round(CAST({column} AS DOUBLE) * {factor} / {divisor}) AS HUGEINT)"


def _floored(number: str, divisor: int) -> str:
    """The division that cuts off: DuckDB's goes towards zero, and up before 1970."""
    if divisor == 1:
        return number
    return f"({number} // {divisor} - CAST({number} % {divisor} < 0 AS INTEGER))"
