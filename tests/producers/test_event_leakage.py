"""Nothing at or after the as-of time changes a byte of what is known before it."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.producers.counters import write_counters
from provender.producers.event_mapping import EventMapping
from provender.producers.events import EventSet, read_events

T = datetime(2026, 3, 10, tzinfo=UTC)
NOW = T + timedelta(days=2)
SCHEMA = pa.schema(
    [("u", pa.float64()), ("p", pa.string()), ("t", pa.timestamp("us", "UTC")), ("w", pa.float64())]
)
MAPPING = EventMapping.model_validate(
    {
        "max_bad_share": 0.5,
        "tables": {"log": {"path": "log"}, "again": {"sql": "SELECT * FROM log"}},
        "entities": {"user": "int64", "pin": "string"},
        "events": {
            name: {
                "table": table,
                "head": {"user": "u"},
                "tail": {"pin": "p"},
                "time": "t",
                "weight": "w",
            }
            for name, table in (("click", "log"), ("save", "again"))
        },
    }
)
USERS = st.sampled_from([1.0, 2.0, 3.0, 77.0, 1.5, math.nan]) | st.none()
PINS = st.sampled_from(["a", "b", "c", "new", ""]) | st.none()
WEIGHTS = st.sampled_from([1.0, 0.5, -1.0, math.nan]) | st.none()


def rows_between(first: datetime, last: datetime, least: int) -> Any:
    times = st.datetimes(first.replace(tzinfo=None), last.replace(tzinfo=None)).map(
        lambda t: t.replace(tzinfo=UTC)
    )
    return st.lists(st.tuples(USERS, PINS, times, WEIGHTS), min_size=least, max_size=30)


def read(folder: Path, *parts: list[Any]) -> EventSet:
    (folder / "log").mkdir(parents=True)
    for i, rows in enumerate(parts):
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * 4
        table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        pq.write_table(table, folder / "log" / f"{i}.parquet")
    return read_events(MAPPING, folder, T, folder / "work", now=NOW)


def digests(events: EventSet) -> dict[str, str]:
    return {
        p.relative_to(events.folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(events.folder.rglob("*"))
        if p.is_file()
    }


def counted(events: EventSet, out: Path) -> pa.Table:
    roles = {"clicks": ["click"], "conversions": ["save"]}
    path = write_counters(events, roles, "user", "user_id", out)
    return pq.read_table(path).drop_columns(["created_timestamp"])


FIRST = [(1.0, "a", T - timedelta(hours=1), 1.0), (2.0, "b", T - timedelta(days=30), 2.0)]


@settings(max_examples=15, deadline=None)
@given(
    before=rows_between(T - timedelta(days=40), T - timedelta(microseconds=1), 0),
    after=rows_between(T, datetime(9999, 1, 1, tzinfo=UTC), 1),
)
def test_what_comes_after_changes_no_byte(before: list[Any], after: list[Any]) -> None:
    good = FIRST * (len(before) + 1)  # enough good rows for any share of bad ones before T
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        alone = read(Path(one), good + before)
        # The garbage lies in the same file, in a file read first and in one read last.
        together = read(Path(two), after, good + before + after, after)

        assert digests(together) == digests(alone)
        assert together.report == alone.report
        assert counted(together, Path(two)).equals(counted(alone, Path(one)))


def test_the_same_rows_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [(float(i % 7), "abc"[i % 3], T - timedelta(minutes=i % 50), 1.0) for i in range(500)]

    forward = read(tmp_path / "forward", rows)
    backward = read(tmp_path / "backward", rows[250:][::-1], rows[:250][::-1])

    assert digests(forward) == digests(backward)
