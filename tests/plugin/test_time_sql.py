"""Times as SQL against Python's own arithmetic on instants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provender.plugin.errors import MappingError
from provender.plugin.time_sql import carries_zone, instant, microseconds, stamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
NOON_US = (NOON - EPOCH) // timedelta(microseconds=1)
UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
TICK = timedelta(microseconds=1)

same_connection = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


def read(
    connection: duckdb.DuckDBPyConnection, values: pa.Array, **declared: Any
) -> list[int | None]:
    """The column's times in microseconds since 1970."""
    connection.register("given", pa.table({"time": values}))
    connection.execute("CREATE OR REPLACE TEMP TABLE t AS FROM given")
    found = connection.execute("DESCRIBE t").fetchall()[0][1]
    time = microseconds(instant("thing", '"time"', found, **declared))
    return [row[0] for row in connection.execute(f"SELECT {time} FROM t").fetchall()]


@pytest.mark.parametrize("unit", list(UNIT_NS))
@same_connection
@given(numbers=st.lists(st.integers(-(10**9), 4 * 10**9), min_size=1), data=st.data())
def test_numbers_and_stamps_of_every_unit_are_floored_to_microseconds(
    connection: duckdb.DuckDBPyConnection, unit: Any, numbers: list[int], data: st.DataObject
) -> None:
    per_second = 10**9 // UNIT_NS[unit]
    numbers = [n * per_second + data.draw(st.integers(0, per_second - 1)) for n in numbers]
    expected = [n * UNIT_NS[unit] // 1000 for n in numbers]
    integers = pa.array(numbers, pa.int64())

    assert read(connection, integers, unit=unit) == expected
    assert read(connection, pa.array(map(str, numbers)), unit=unit) == expected
    assert read(connection, integers.cast(pa.timestamp(unit))) == expected
    assert read(connection, integers.cast(pa.timestamp(unit, "Asia/Tokyo"))) == expected


@same_connection
@given(
    moment=st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"]),
)
def test_times_without_a_zone_are_those_of_the_declared_one(
    connection: duckdb.DuckDBPyConnection, moment: datetime, zone: str
) -> None:
    home = ZoneInfo(zone)
    there = moment.replace(tzinfo=home)
    if there.astimezone(UTC).astimezone(home) != there or there.utcoffset() != (
        there.replace(fold=1).utcoffset()
    ):
        return  # skipped or repeated by daylight saving: no one instant is right
    expected = [(there.astimezone(UTC) - EPOCH) // TICK]

    assert read(connection, pa.array([moment], pa.timestamp("us")), zone=zone) == expected
    assert read(connection, pa.array([moment.isoformat(sep=" ")]), zone=zone) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-09T12:00:00Z",
        "2026-03-09 12:00:00 UTC",
        "2026-03-09 12:00:00 GMT",
        "2026-03-09 12:00Z",
        "2026-03-09t12:00:00 z",
        "2026-03-09 14:00:00.000+02:00",
        "2026-03-09 14:00:00+0200",
        "2026-03-09 14:00:00 +02",
        "2026-03-09T05:00-07",
        "2026/03/09 21:00:00",  # of the declared zone, as are those below
        "2026-03-09 21:00",
        " 2026-03-09T21:00:00.000000 ",
    ],
)
def test_every_way_to_write_noon(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    found = read(connection, pa.array([text]), zone="Asia/Tokyo")

    assert found == [NOON_US]
    zoned = connection.execute(f"SELECT {carries_zone('time', 'VARCHAR')} FROM t").fetchall()
    assert zoned == [("21:00" not in text,)]


@pytest.mark.parametrize(
    "text",
    ["", "soon", "12:00", "now", "infinity", "epoch", "2026-02-30 00:00:00", "-5", "09-03-2026"],
)
def test_text_that_is_no_time_is_null(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    assert read(connection, pa.array([text, None, "2026-03-09 12:00:00"])) == [None, None, NOON_US]


def test_broken_numbers_are_rounded_to_the_microsecond(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    seconds = NOON_US // 10**6
    expected = [NOON_US + 250_000]

    assert read(connection, pa.array([seconds + 0.25]), unit="s") == expected
    assert read(connection, pa.array([f"{seconds}.25"]), unit="s") == expected
    assert read(connection, pa.array([f"{seconds}.250 "]), unit="s") == expected
    assert read(connection, pa.array([Decimal(f"{seconds}.25")]), unit="s") == expected
    assert read(connection, pa.array(["1.7730576e9"]), unit="s") == [NOON_US]
    assert read(connection, pa.array(["nan", "inf", "1,5", "x", "1_0"]), unit="s") == [None] * 5
    assert read(connection, pa.array([float("nan"), None]), unit="s") == [None, None]


def test_numbers_past_every_timestamp_are_later_than_all_and_those_before_year_1_null(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    last = 2**63 - 1

    assert read(connection, pa.array([last, -last]), unit="s") == [last, None]
    assert read(connection, pa.array([1e300, -1e300]), unit="s") == [None, None]
    assert read(connection, pa.array([-62_135_596_800, -62_135_596_801]), unit="s") == [
        -62_135_596_800_000_000,
        None,
    ]


def test_dates_are_midnights_of_their_zone(connection: duckdb.DuckDBPyConnection) -> None:
    days = pa.array([date(1969, 12, 31), date(1970, 1, 1)])

    assert read(connection, days) == [-86_400_000_000, 0]
    assert read(connection, days, zone="Europe/Berlin") == [-90_000_000_000, -3_600_000_000]
    assert read(connection, pa.array(["1970-01-01"])) == [0]


def test_a_column_without_a_value_is_null(connection: duckdb.DuckDBPyConnection) -> None:
    assert read(connection, pa.array([None]), unit="s") == [None]
    assert read(connection, pa.array([None])) == [None]
    assert connection.execute(f"SELECT {instant('thing', 'NULL', chr(34) + 'NULL' + chr(34))}")


@pytest.mark.parametrize(
    ("values", "declared", "found"),
    [
        (pa.array([1]), {}, "BIGINT without a time_unit"),
        (pa.array([[1]]), {}, r"BIGINT\[\] without a time_unit"),
        (pa.array([[1]]), {"unit": "s"}, r"BIGINT\[\] with a time_unit"),
        (pa.array([True]), {"unit": "s"}, "BOOLEAN with a time_unit"),
        (pa.array([NOON]), {"unit": "s"}, "TIMESTAMP WITH TIME ZONE with a time_unit"),
    ],
)
def test_what_is_no_time_is_refused(
    connection: duckdb.DuckDBPyConnection, values: pa.Array, declared: Any, found: str
) -> None:
    with pytest.raises(MappingError, match=f"thing: found a column of type {found}"):
        read(connection, values, **declared)


def test_a_stamp_is_the_same_instant(connection: duckdb.DuckDBPyConnection) -> None:
    time = datetime(2026, 3, 9, 13, 0, 0, 7, tzinfo=ZoneInfo("Europe/Berlin"))

    assert connection.execute(f"SELECT epoch_us({stamp(time)})").fetchall() == [(NOON_US + 7,)]
