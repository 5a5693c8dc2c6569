"""The event reader against a slow reader in plain Python, and each kind of bad input."""

from __future__ import annotations

import csv
import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import (
    BadRowsError,
    ConfigError,
    MappingError,
    ProvenderError,
    SourceError,
)
from provender.producers.event_mapping import EventMapping
from provender.producers.events import LEFT_OUT, EventSet, read_events, read_window

T = datetime(2026, 3, 10, tzinfo=UTC)
NOW = T + timedelta(days=400)
CLICK = {"table": "log", "head": {"user": "u"}, "tail": {"pin": "p"}, "time": "t"}


def mapping(share: float = 0.5, path: str = "log.parquet", **click: Any) -> EventMapping:
    return EventMapping.model_validate(
        {
            "max_bad_share": share,
            "tables": {"log": {"path": path}},
            "entities": {"user": "int64", "pin": "string"},
            "events": {"click": CLICK | click},
        }
    )


def read(folder: Path, declared: EventMapping, as_of: datetime = T) -> EventSet:
    return read_events(declared, folder, as_of, folder / "work", now=NOW)


def read_column(folder: Path, times: pa.Array, **click: Any) -> list[datetime]:
    """The times that are read of a column; the users are 0, 1, 2, ..."""
    table = pa.table({"u": range(len(times)), "p": ["a"] * len(times), "t": times})
    pq.write_table(table, folder / "log.parquet")
    events = read(folder, mapping(**click))
    triples = events.triples().sort_by("head")
    assert events.keys("user").to_pylist() == sorted(events.keys("user").to_pylist())
    found: list[datetime] = triples["time"].to_pylist()
    return found


def slow_reader(path: Path, as_of: datetime) -> tuple[list[Any], int]:
    """The same as the reader for a CSV log, row by row: (good rows, number of bad ones)."""
    good, bad = [], 0
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                time = datetime.fromisoformat(row["t"]).replace(tzinfo=UTC)
            except ValueError:
                time = None
            if row["kind"] != "click" or (time is not None and time >= as_of):
                continue
            if time is None or not row["u"].isdigit() or row["p"] == "":
                bad += 1
            else:
                good.append((time, int(row["u"]), row["p"], math.log(1 + float(row["n"]))))
    return good, bad


def test_the_triples_are_those_of_a_slow_reader(tmp_path: Path) -> None:
    dice = random.Random(7)
    with (tmp_path / "log.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "u", "p", "t", "n"])
        for _ in range(2_000):
            time = T + timedelta(minutes=dice.randrange(-3_000, 600))
            writer.writerow(
                [
                    dice.choice(["click", "view"]),
                    dice.choice([*range(50), "", "x"]),
                    dice.choice(["a", "b", "ä", "B", "10", "9", ""]),
                    dice.choice([time.strftime("%Y-%m-%d %H:%M:%S")] * 20 + ["", "soon"]),
                    dice.choice([0, 1, 2.5]),
                ]
            )
    expected, bad = slow_reader(tmp_path / "log.csv", T)

    declared = mapping(
        path="log.csv", where="kind = 'click'", weight="ln(1 + n::double) -- a comment"
    )
    events = read(tmp_path, declared)

    user_keys, pin_keys = events.keys("user").to_pylist(), events.keys("pin").to_pylist()
    assert user_keys == sorted({user for _, user, _, _ in expected})
    assert pin_keys == sorted({pin for _, _, pin, _ in expected}, key=str.encode)
    assert events.counts == {"user": len(user_keys), "pin": len(pin_keys)}
    triples = events.triples().to_pylist()
    found = [
        (row["time"], user_keys[row["head"]], pin_keys[row["tail"]], row["weight"])
        for row in triples
    ]
    assert [f[:3] for f in found] == [e[:3] for e in sorted(expected)]
    assert [f[3] for f in found] == pytest.approx([e[3] for e in sorted(expected)])
    assert events.window == (min(expected)[0], T)
    assert (events.report.kept, events.report.bad) == (len(expected), bad)


def test_the_folder_says_what_is_in_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    read_column(tmp_path, pa.array([T - timedelta(days=1)]))
    events = read(tmp_path, mapping())

    told = json.loads((events.folder / "report.json").read_text())
    assert told["counts"] == events.counts
    assert told["events"] == {"click": {"kept": events.report.kept, "bad": {}}}
    assert [r.name for r in events.relations] == ["click"]
    left = sorted(p.relative_to(tmp_path / "work").as_posix() for p in events.folder.rglob("*"))
    folder = "events-20260310T000000Z"
    names = ["events.parquet", "ids", "ids/pin.parquet", "ids/user.parquet", "report.json"]
    assert left == [f"{folder}/{name}" for name in names]
    assert list((tmp_path / "work" / ".staging").iterdir()) == []


def test_the_cut_is_strict_to_the_microsecond(tmp_path: Path) -> None:
    edge = [T - timedelta(microseconds=1), T, T + timedelta(microseconds=1)]

    assert read_column(tmp_path, pa.array(edge)) == edge[:1]


NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "declared"),
    [
        (pa.array([NOON], pa.timestamp("us", "Europe/Berlin")), {}),
        (pa.array([NOON], pa.timestamp("ns", "UTC")), {"time_zone": "Asia/Tokyo"}),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")), {}),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), {}),
        (pa.array([datetime(2026, 3, 9, 13)]), {"time_zone": "Europe/Berlin"}),
        (pa.array(["2026-03-09T12:00:00Z"]), {}),
        (pa.array(["2026-03-09 12:00:00 UTC"]), {}),
        (pa.array(["2026-03-09 14:00:00.000+02:00"]), {}),
        (pa.array(["2026-03-09T05:00-0700"]), {"time_zone": "Asia/Tokyo"}),
        (pa.array([" 2026-03-09 12:00:00 "]), {}),
        (pa.array(["2026-03-09 21:00"]), {"time_zone": "Asia/Tokyo"}),
        (pa.array([1773057600], pa.int32()), {"time_unit": "s"}),
        (pa.array([1773057600000]), {"time_unit": "ms"}),
        (pa.array([1773057600000000]), {"time_unit": "us"}),
        (pa.array([1773057600000000999]), {"time_unit": "ns"}),
        (pa.array([1773057600.0]), {"time_unit": "s"}),
        (pa.array(["1773057600"]), {"time_unit": "s"}),
    ],
)
def test_every_way_to_write_noon(tmp_path: Path, times: pa.Array, declared: Any) -> None:
    assert read_column(tmp_path, times, **declared) == [NOON]


def test_dates_are_midnights_of_their_zone(tmp_path: Path) -> None:
    days = pa.array([NOON.date()])

    assert read_column(tmp_path, days) == [datetime(2026, 3, 9, tzinfo=UTC)]
    assert read_column(tmp_path, days, time_zone="Europe/Berlin") == [
        datetime(2026, 3, 8, 23, tzinfo=UTC)
    ]


def test_nanoseconds_are_cut_off_and_not_rounded_up(tmp_path: Path) -> None:
    last = int((T - timedelta(microseconds=1)).timestamp() * 1e6) * 1000 + 999
    times = pa.array([last]).cast(pa.timestamp("ns", "UTC"))

    assert read_column(tmp_path, times) == [T - timedelta(microseconds=1)]


def test_bad_rows_are_counted_by_reason_and_set_aside(tmp_path: Path) -> None:
    early, late = T - timedelta(days=1), T + timedelta(days=1)
    rows = [
        ("1", "a", early, 1.0),
        (None, "a", early, 1.0),
        ("x", "a", early, 1.0),
        ("1.5", "a", early, 1.0),
        ("99999999999999999999", "a", early, 1.0),
        ("2", "", early, 1.0),
        ("2", "a", None, 1.0),
        ("2", "a", early, -1.0),
        ("2", "a", early, math.nan),
        ("2.0", "b", early, 0.0),
        (None, None, late, math.nan),
    ]
    columns = dict(zip("uptw", map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")

    events = read(tmp_path, mapping(share=0.9, weight="w"))

    assert events.keys("user").to_pylist() == [1, 2]
    assert events.report.events["click"].kept == 2
    assert events.report.events["click"].bad == {
        "p is missing": 1,
        "t is missing": 1,
        "the weight is no number >= 0": 2,
        "u is missing": 1,
        "u is no int64": 3,
    }
    aside = pq.read_table(events.folder / "rejected" / "click.parquet").to_pylist()
    assert len(aside) == events.report.bad == 8
    assert {(r["event"], r["table_name"]) for r in aside} == {("click", "log")}
    assert {r["head_found"] for r in aside if r["reason"] == "u is no int64"} == {
        "x",
        "1.5",
        "99999999999999999999",
    }


def test_times_after_now_are_bad_where_the_as_of_time_is_in_the_future(tmp_path: Path) -> None:
    table = pa.table({"u": [1, 2], "p": ["a", "b"], "t": [T, T + timedelta(days=2)]})
    pq.write_table(table, tmp_path / "log.parquet")

    events = read_events(
        mapping(), tmp_path, T + timedelta(days=9), tmp_path / "work", now=T + timedelta(days=1)
    )

    assert events.report.events["click"].bad == {"t is later than now": 1}


def test_too_many_bad_rows_stop_the_run_and_lie_in_the_named_file(tmp_path: Path) -> None:
    early = [T - timedelta(days=1)] * 100
    users = [None, None, *range(98)]
    pq.write_table(pa.table({"u": users, "p": ["a"] * 100, "t": early}), tmp_path / "log.parquet")

    with pytest.raises(BadRowsError) as caught:
        read(tmp_path, mapping(share=0.019))

    aside = tmp_path / "work" / "rejected-20260310T000000Z" / "click.parquet"
    assert "2 bad of 100 rows (2 x u is missing)" in str(caught.value)
    assert str(aside) in str(caught.value)
    assert pq.read_table(aside).num_rows == 2
    assert not list((tmp_path / "work").glob("events-*"))
    assert list((tmp_path / "work" / ".staging").iterdir()) == []
    assert read(tmp_path, mapping(share=0.02)).report.kept == 98


def test_floats_are_ids_only_where_they_are_whole(tmp_path: Path) -> None:
    users = [1.0, math.nan, 2.5, 2.0**60]
    times = [T - timedelta(days=1)] * 4
    pq.write_table(pa.table({"u": users, "p": [1, 2, 3, 4], "t": times}), tmp_path / "log.parquet")

    events = read(tmp_path, mapping(share=0.9))

    assert events.report.events["click"].bad == {"u is missing": 1, "u is no int64": 2}
    assert (events.keys("user").to_pylist(), events.keys("pin").to_pylist()) == ([1], ["1"])


GOOD = {"u": [1, 2], "p": ["a", "b"], "t": [NOON, NOON]}


@pytest.mark.parametrize(
    ("columns", "declared", "error", "words"),
    [
        (GOOD, {"head": {"user": "who"}}, MappingError, ["who", "columns u, p, t"]),
        (GOOD, {"time": "when"}, MappingError, ["events.click.time", "when"]),
        (GOOD, {"where": "kind = 1"}, MappingError, ["events.click", "kind"]),
        (GOOD, {"where": "1 = 1) OR (kind"}, MappingError, ["events.click"]),
        (GOOD, {"weight": "heavy"}, MappingError, ["events.click", "heavy"]),
        (GOOD, {"time_unit": "s"}, MappingError, ["events.click.time", "with a time_unit"]),
        (GOOD | {"t": [1, 2]}, {}, MappingError, ["BIGINT", "without a time_unit"]),
        (GOOD | {"t": [[1], [2]]}, {}, MappingError, ["BIGINT[]", "a timestamp"]),
        (GOOD | {"u": [[1], [2]]}, {}, MappingError, ["events.click.head", "BIGINT[]"]),
        (GOOD | {"p": [NOON, NOON]}, {}, MappingError, ["events.click.tail", "TIMESTAMP"]),
        (GOOD | {"u": ["a", "b"]}, {}, BadRowsError, ["2 x u is no int64"]),
        (GOOD | {"t": ["soon", "now"]}, {}, BadRowsError, ["2 x t is no time"]),
        (GOOD | {"t": [None, None]}, {}, BadRowsError, ["2 x t is missing"]),
        (GOOD | {"t": [T, T]}, {}, SourceError, ["no event before 2026-03-10 00:00 UTC"]),
        (
            GOOD | {"t": ["2026-03-09 12:00:00", "2026-03-09 12:00:00+01:00"]},
            {},
            SourceError,
            ["a time zone mix: 1 times have a zone (first u 2)", "declare the time_zone"],
        ),
        (GOOD | {"u": [1, 1]}, {"unique": "head"}, BadRowsError, ["duplicate ids: u 1", "2 times"]),
        (GOOD | {"e": [7, 7]}, {"id": "e"}, BadRowsError, ["duplicate ids: e '7' stands 2 times"]),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    columns: dict[str, list[Any]],
    declared: dict[str, Any],
    error: type[ProvenderError],
    words: list[str],
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")

    with pytest.raises(error) as caught:
        read(tmp_path, mapping(**declared))

    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not list((tmp_path / "work").glob("events-*"))
    assert not list((tmp_path / "work" / ".staging").glob("*"))


def test_a_mix_of_zones_is_read_where_the_zone_is_declared(tmp_path: Path) -> None:
    mixed = pa.array(["2026-03-09 13:00:00", "2026-03-09 14:00:00+02:00"])

    assert read_column(tmp_path, mixed, time_zone="Europe/Berlin") == [NOON, NOON]


def test_a_damaged_page_inside_a_file_is_one_line(tmp_path: Path) -> None:
    size = 50_000
    table = pa.table({"u": range(size), "p": ["a"] * size, "t": [NOON] * size})
    pq.write_table(table, tmp_path / "log.parquet")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[5_000:60_000] = bytes(55_000)
    (tmp_path / "log.parquet").write_bytes(content)

    with pytest.raises(SourceError, match="damaged or cut off") as caught:
        read(tmp_path, mapping())

    assert "\n" not in str(caught.value)


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    size = 300_000
    table = pa.table({"u": range(size), "p": [f"pin {i}" for i in range(size)], "t": [NOON] * size})
    pq.write_table(table, tmp_path / "log.parquet")

    with pytest.raises(SourceError, match="Raise memory_limit") as caught:
        read_events(mapping(), tmp_path, T, tmp_path / "work", now=NOW, memory_limit="1MB")

    assert "\n" not in str(caught.value)


def test_a_naive_as_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a time zone"):
        read(tmp_path, mapping(), datetime(2026, 3, 10))


def test_structure_is_always_known_and_relations_keep_the_order_of_the_mapping(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table(GOOD), tmp_path / "log.parquet")
    (tmp_path / "pins.csv").write_text("p,s\nz,1\na,2\n", encoding="utf-8")
    declared = EventMapping.model_validate(
        {
            "tables": {"log": {"path": "log.parquet"}, "pins": {"path": "pins.csv"}},
            "entities": {"user": "int64", "pin": "string", "shop": "int64"},
            "events": {
                "of": {"table": "pins", "head": {"pin": "p"}, "tail": {"shop": "s"}, "time": None},
                "click": CLICK,
            },
        }
    )

    events = read(tmp_path, declared)

    assert events.keys("pin").to_pylist() == ["a", "b", "z"]
    assert [(r.name, r.head, r.tail) for r in events.relations] == [
        ("of", "pin", "shop"),
        ("click", "user", "pin"),
    ]
    assert [tuple(row.values()) for row in events.triples().to_pylist()] == [
        (0, 0, 1, None, 1.0),
        (0, 2, 0, None, 1.0),
        (1, 0, 0, NOON, 1.0),
        (1, 1, 1, NOON, 1.0),
    ]


def test_the_window_after_holds_what_is_known_and_counts_the_rest(tmp_path: Path) -> None:
    day = timedelta(days=1)
    rows = [
        (1, "a", T - day),
        (2, "b", T - day),
        (2, "a", T),
        (1, "b", T + day - timedelta(microseconds=1)),
        (3, "a", T),
        (1, "new", T),
        (None, "a", T),
        (1, "a", T + day),
    ]
    columns = dict(zip("upt", map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    events = read(tmp_path, mapping())

    window = read_window(mapping(), tmp_path, events, T + day, tmp_path / "work")

    assert window.schema.equals(events.triples().schema)
    found = [(row["head"], row["tail"], row["time"]) for row in window.to_pylist()]
    assert found == [(1, 0, T), (0, 1, T + day - timedelta(microseconds=1))]
    assert window.schema.metadata[LEFT_OUT] == b'{"click": {"unknown": 2, "bad": 1}}'
