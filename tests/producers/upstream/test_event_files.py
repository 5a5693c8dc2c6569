"""A file of events as a world: its columns, kinds, keys and times, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import MappingError, SourceError
from provender.plugin.tables import open_tables, quoted
from provender.plugin.world import World
from provender.producers.event_mapping import EventMapping
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.event_files import TABLE, EventFile, declare_events
from provender.producers.upstream.tower_job import split

START = datetime(2026, 3, 1, tzinfo=UTC)
#: (user, pin, kind), one a day.
ROWS = [
    (1, 10, "view"),
    (2, 10, "view"),
    (1, 11, "buy"),
    (1, 12, "view"),
    (3, 11, "cart"),
    (2, 12, "view"),
    (3, 10, "cart"),
    (1, 10, "buy"),
    (2, 11, "view"),
    (4, 14, "view"),
]
SECONDS = [int(START.timestamp()) + 86_400 * day for day in range(len(ROWS))]


def records(
    rows: Sequence[tuple[Any, Any, Any]] = ROWS,
    names: Sequence[str] = ("ts", "user", "item", "behavior"),
    times: Sequence[Any] = SECONDS,
) -> list[dict[str, Any]]:
    time, *others = names
    return [
        {time: when, **dict(zip(others, row, strict=True))}
        for when, row in zip(times, rows, strict=True)
    ]


def csv(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def declared(path: Path, given: Mapping[str, Any] | None = None, share: float = 0.8) -> EventFile:
    return declare_events(path, given or {}, "towers.yaml", negatives=4, learned_share=share)


def of(tmp_path: Path, rows: Sequence[Mapping[str, Any]], **given: Any) -> EventFile:
    path = tmp_path / "events.csv"
    path.write_text(csv(rows))
    return declared(path, given)


def refused(tmp_path: Path, rows: Sequence[Mapping[str, Any]], **given: Any) -> str:
    with pytest.raises(MappingError) as caught:
        of(tmp_path, rows, **given)
    return str(caught.value)


def unit(found: EventFile) -> str | None:
    (told,) = {one["time_unit"] for one in found.world.events.values()}
    return str(told) if told else None


def written(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"events.{kind}"
    rows = records()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(csv(rows).encode()))
    else:
        path.write_text(csv(rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_a_file_of_any_kind_becomes_a_world(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    found = declared(path)
    world = found.world
    assert list(world.events) == ["view", "buy", "cart"]  # The most frequent first, then by name.
    assert world.entities == {"user": "int64", "pin": "int64"}
    assert world.tables[TABLE].path == str(path)
    assert world.events["cart"] == {
        "table": TABLE, "where": "\"behavior\" = 'cart'", "time": "ts", "time_unit": "s",
        "head": {"user": "user"}, "tail": {"pin": "item"},
    }  # fmt: skip
    assert world.upstream["sources"]["cart"] == {
        "table": TABLE, "where": "\"behavior\" = 'cart'", "time": "ts", "time_unit": "s",
        "user": "user", "pin": "item", "labels": {"cart": "always"}, "negatives_by": "uniform",
        "negatives": 4,
    }  # fmt: skip
    # Of ten events eight are at most at the seventh day's time.
    assert found.cut == START + timedelta(days=7)
    assert found.end == START + timedelta(days=9, microseconds=1)
    assert world.dates.first_as_of == date(2026, 3, 8)


def test_it_is_a_declaration_of_towers(tmp_path: Path) -> None:
    world = of(tmp_path, records(), training={"epochs": 1}).world
    sources, settings = split(world.upstream, world, "here")
    assert sources.tasks == sources.liked == ("view", "buy", "cart")
    assert UpstreamConfig.parse(settings).training.epochs == 1
    assert sources.features is not None
    assert sources.features.user.sequence is not None
    assert sources.features.user.sequence.events == ("view", "buy", "cart")
    assert list(EventMapping.from_world(world).events) == ["view", "buy", "cart"]


def test_each_kind_has_its_rows(tmp_path: Path) -> None:
    odd = {"view": "Add to cart", "buy": "it's", "cart": "3"}
    world = of(tmp_path, records([(user, pin, odd[kind]) for user, pin, kind in ROWS])).world
    assert list(world.events) == ["Add_to_cart", "kind_3", "it_s"]
    counts = {name: count_of(world, one["where"], tmp_path) for name, one in world.events.items()}
    assert counts == {"Add_to_cart": 6, "kind_3": 2, "it_s": 2}


def count_of(world: World, where: str, work: Path) -> int:
    with open_tables(world.tables, work, work) as rows:
        (found,) = rows.sql(f"SELECT count(*) FROM {quoted(TABLE)} WHERE {where}").fetchall()
    return int(found[0])


@pytest.mark.parametrize("kind", [pa.int8(), pa.float64()])
def test_kinds_that_are_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.Table.from_pylist(records([(user, pin, pin % 2) for user, pin, _ in ROWS]))
    place = table.column_names.index("behavior")
    path = tmp_path / "events.parquet"
    pq.write_table(table.set_column(place, "behavior", table["behavior"].cast(kind)), path)
    world = declared(path).world
    counts = [count_of(world, one["where"], tmp_path) for one in world.events.values()]
    assert counts == [7, 3]


@pytest.mark.parametrize(
    "names",
    [
        ("time", "user_id", "pin_id", "event"),
        ("timestamp", "visitorid", "itemid", "event"),
        ("date", "customer_id", "product_id", "action"),
        ("event_time", "household_id", "ad_id", "event_type"),
    ],
)
def test_columns_go_by_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = of(tmp_path, records(names=names)).world.upstream["sources"]["buy"]
    time, user, pin, kind = names
    assert (source["time"], source["user"], source["pin"]) == (time, user, pin)
    assert source["where"] == f"\"{kind}\" = 'buy'"


def test_columns_can_be_told(tmp_path: Path) -> None:
    names = ("at", "who", "what", 'the "way"')
    told = {"time": "at", "user": "who", "pin": "what", "kind": 'the "way"', "time_unit": "s"}
    found = of(tmp_path, records(names=names), columns=told)
    assert found.world.upstream["sources"]["buy"]["where"] == '"the ""way""" = \'buy\''
    assert found.cut == START + timedelta(days=7)
    assert "columns" not in found.world.upstream


def test_what_is_told_goes_before_what_is_found(tmp_path: Path) -> None:
    rows = [{**row, "buyer": 7} for row in records()]
    source = of(tmp_path, rows, columns={"user": "buyer"}).world.upstream["sources"]["buy"]
    assert source["user"] == "buyer"
    features = {"user": {"ids": {}}, "pin": {"ids": {"buckets": 9}}}
    assert of(tmp_path, rows, features=features).world.upstream["features"] == features


@pytest.mark.parametrize(("name", "power"), [("s", 0), ("ms", 3), ("us", 6), ("ns", 9)])
@pytest.mark.parametrize("typed", [False, True])
def test_units_go_by_magnitude(tmp_path: Path, name: str, power: int, typed: bool) -> None:
    rows = records(times=[second * 10**power for second in SECONDS])
    path = tmp_path / "events.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = declared(path) if typed else of(tmp_path, rows)
    assert unit(found) == name
    assert found.cut == START + timedelta(days=7)


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S+00:00"]
)
def test_times_as_text(tmp_path: Path, form: str) -> None:
    texts = [datetime.fromtimestamp(second, UTC).strftime(form) for second in SECONDS]
    found = of(tmp_path, records(times=texts))
    assert unit(found) is None
    assert found.cut == START + timedelta(days=7)


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_that_are_times(tmp_path: Path, zone: str | None) -> None:
    table = pa.Table.from_pylist(records())
    times = pa.array(SECONDS, pa.timestamp("s", zone))
    pq.write_table(table.set_column(0, "ts", times), tmp_path / "events.parquet")
    found = declared(tmp_path / "events.parquet")
    assert unit(found) is None
    assert found.cut == START + timedelta(days=7)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [("u{}", "string"), ("0{}", "string"), ("{}", "int64"), ("-{}", "int64"), ("{}e3", "string")],
)
def test_keys_are_whole_numbers_or_text(tmp_path: Path, key: str, wanted: str) -> None:
    rows = records([(key.format(user), pin, kind) for user, pin, kind in ROWS])
    assert of(tmp_path, rows).world.entities == {"user": wanted, "pin": "int64"}


def test_a_key_that_is_missing_makes_no_text_of_others(tmp_path: Path) -> None:
    rows = records([("", 10, "view"), *ROWS[1:]])
    assert of(tmp_path, rows).world.entities["user"] == "int64"


def test_a_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    for place, rows in enumerate((records()[:5], records()[5:])):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{place}.parquet")
    assert declared(folder).cut == START + timedelta(days=7)
    assert declared(folder / "*.parquet").cut == START + timedelta(days=7)


@pytest.mark.parametrize(("share", "days"), [(0.5, 4), (0.8, 7), (0.85, 8)])
def test_the_cut_is_behind_a_share_of_the_events(tmp_path: Path, share: float, days: int) -> None:
    path = tmp_path / "events.csv"
    path.write_text(csv(records()))
    assert declared(path, share=share).cut == START + timedelta(days=days)


def test_rows_without_time_or_kind_are_left_out(tmp_path: Path) -> None:
    times = ["", "soon", *SECONDS[2:]]
    rows = records([*ROWS[:-1], (4, 14, "")], times=times)
    found = of(tmp_path, rows)
    assert unit(found) == "s"
    assert found.cut == START + timedelta(days=8)
    assert set(found.world.events) == {"view", "buy", "cart"}


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    told = refused(tmp_path, records(names=("ts", "who", "item", "behavior")))
    assert "found the columns ts, who, item, behavior" in told
    assert "expected a column of the user: user or user_id or userid" in told
    assert "columns: {user: COLUMN}" in told
    told = refused(tmp_path, records(), columns={"kind": "sort"})
    assert "expected a column of the kind: sort" in told


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"usr": "user"}, "towers.yaml: columns: usr: found an unknown key"),
        ({"time_unit": "h"}, "towers.yaml: columns: time_unit: found 'h'"),
        (["user"], "towers.yaml: columns: found ['user']"),
        (3, "towers.yaml: columns: found 3"),
        ({"user": ["a"]}, "towers.yaml: columns: user: found ['a']"),
    ],
)
def test_columns_that_are_none(tmp_path: Path, columns: Any, line: str) -> None:
    assert line in refused(tmp_path, records(), columns=columns)


def test_too_many_kinds(tmp_path: Path) -> None:
    rows = [(1, 10, f"k{number:02}") for number in range(21)]
    times = [SECONDS[0] + 86_400 * number for number in range(21)]
    assert len(of(tmp_path, records(rows[:20], times=times[:20])).world.events) == 20
    told = refused(tmp_path, records(rows, times=times))
    assert "behavior: found more than 20 kinds: k00, k01, k02, ..." in told


@pytest.mark.parametrize(("one", "other"), [("a b", "a_b"), ("a-b", "a.b"), (" view", "view")])
def test_kinds_of_one_name(tmp_path: Path, one: str, other: str) -> None:
    told = refused(tmp_path, records([(1, 10, one), *((2, 10, other) for _ in ROWS[1:])]))
    assert f"behavior: found '{other}', '{one}'" in told
    assert "differ in letters or digits" in told


@pytest.mark.parametrize(
    ("times", "line"),
    [
        ([""] * len(ROWS), "ts: found no time at all"),
        (["soon"] * len(ROWS), "ts: found no time at all"),
        (SECONDS[:1] * len(ROWS), "ts: found no event after the first"),
    ],
)
def test_times_that_are_none(tmp_path: Path, times: list[Any], line: str) -> None:
    assert line in refused(tmp_path, records(times=times))


def test_no_kinds(tmp_path: Path) -> None:
    assert "behavior: found no kind" in refused(
        tmp_path, records([(user, pin, "") for user, pin, _ in ROWS])
    )


def test_a_declaration_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    with pytest.raises(SourceError, match=r"none\.csv"):
        declared(path)


def test_kinds_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("ts,user,item,behavior\n1431360171,1,2,view\n1431360172,1,3,View\n")
    with pytest.raises(MappingError, match="kinds that differ in letters"):
        declare_events(path, {}, "here", negatives=1, learned_share=0.5)
