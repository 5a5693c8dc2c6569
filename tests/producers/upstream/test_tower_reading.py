"""A tower set as it is declared, exactly; what lies after the cut changes no byte of it."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import BadRowsError, ConfigError, MappingError, SourceError
from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.tower_reading import read_tower_set
from provender.producers.upstream.tower_set import ALWAYS, GROUP, TowerSet
from tests.producers.upstream.reading_world import (
    Row,
    at,
    bytes_of,
    examples_of,
    micro,
    rows_of,
    seconds,
    world_of,
    write_table,
)

TIME = pa.timestamp("us", "UTC")
INT, TEXT, FLOAT = pa.int64(), pa.string(), pa.float64()
SHOWN = pa.schema(
    [("id", FLOAT), ("user", TEXT), ("pin", INT), ("ts", INT), ("position", TEXT),
     ("surface", FLOAT), ("tags", pa.list_(TEXT))]
)  # fmt: skip
CLICKS = pa.schema([("shown", INT), ("user", TEXT), ("pin", INT), ("at", TIME)])
VISITS = pa.schema([("user", TEXT), ("item", TEXT), ("at", TIME)])
BUYS = pa.schema([("user", TEXT), ("pin", INT), ("at", TIME), ("price", FLOAT)])
PINS = pa.schema([("pin", INT), ("since", TIME), ("until", TIME), ("price", FLOAT), ("kind", TEXT)])
PEOPLE = pa.schema([("user", TEXT), ("age", INT), ("langs", pa.list_(INT))])
SCHEMAS = {
    "shown": SHOWN, "clicks": CLICKS, "visits": VISITS, "buys": BUYS, "pins": PINS,
    "people": PEOPLE,
}  # fmt: skip
ROWS: dict[str, list[Row]] = {
    "shown": [
        {"id": 1, "user": "b", "pin": 20, "ts": seconds(1), "position": "1", "surface": 2.0},
        {"id": 2, "user": "a", "pin": 10, "ts": seconds(2), "position": "2.5", "surface": 2.5,
         "tags": ["x", None, " y "]},
        {"id": 3, "user": "a", "pin": 10, "ts": seconds(9), "position": "?", "tags": []},
        {"id": None, "user": "c", "pin": 20, "ts": seconds(3)},
    ],
    "clicks": [
        {"shown": 1, "user": "b", "pin": 20, "at": at(3)},
        {"shown": 2, "user": "a", "pin": 10, "at": at(4.001)},
        {"shown": None, "user": "a", "pin": 10, "at": at(5)},
    ],
    "visits": [
        {"user": "d", "item": "i1", "at": at(0.5)},
        {"user": "a", "item": "i2", "at": at(8)},
    ],
    "buys": [
        {"user": "a", "pin": 10, "at": at(5), "price": 3.0},
        {"user": "b", "pin": 20, "at": at(6), "price": None},
    ],
    "pins": [
        {"pin": 10, "since": at(-9), "price": 1.5, "kind": "ad"},
        {"pin": 10, "since": at(4), "price": 2.5, "kind": " "},
        {"pin": 10, "since": at(5), "price": float("nan"), "kind": "video"},
        {"pin": 30, "since": at(0), "until": at(7), "price": 7.0},
        {"pin": 40, "since": at(1), "until": at(11)},
    ],
    "people": [{"user": "a", "age": 30, "langs": [1, 2]}, {"user": "z", "age": 1}],
}  # fmt: skip
AFTER: dict[str, list[Row]] = {
    "shown": [
        {"id": 9, "user": "a", "pin": 10, "ts": seconds(10), "position": "9"},
        {"id": 1, "user": "0", "pin": 1, "ts": seconds(11), "position": "9"},
        {"id": 8, "user": None, "pin": None, "ts": seconds(12)},
    ],
    "clicks": [{"shown": 2, "user": "a", "pin": 10, "at": at(10)}],
    "visits": [{"user": "0", "item": None, "at": at(10)}],
    "buys": [{"user": "b", "pin": 77, "at": at(10), "price": 1.0}],
    "pins": [
        {"pin": 5, "since": at(10), "price": 1.0, "kind": "later"},
        {"pin": 10, "since": at(10), "until": at(12), "price": 9.0, "kind": "later"},
        {"pin": None, "since": at(20)},
    ],
}
DECLARED: dict[str, Any] = {
    "sources": {
        "shown": {
            "table": "shown", "id": "id", "user": "user", "pin": "pin", "time": "ts",
            "time_unit": "s", "weight": 2,
            "context": {
                "numbers": {"position": {"column": "position"}},
                "categories": {"surface": {"column": "surface"}, "tags": {"column": "tags"}},
            },
            "labels": {
                "click": {"table": "clicks", "match": {"id": "shown"}, "time": "at",
                          "within": "2h"},
                "buy": {"table": "buys", "match": {"user": "user", "pin": "pin"}, "time": "at",
                        "within": "7h"},
            },
        },
        "bought": {
            "table": "buys", "user": "user", "pin": "pin", "time": "at",
            "labels": {"buy": "always"}, "negatives": 1, "negatives_by": "uniform",
        },
    },
    "pins": {"table": "pins", "key": "pin", "time": "since", "until": "until"},
    "features": {
        "user": {
            "counts": {"visits": {"events": ["visit"]}},
            "numbers": {"age": {"table": "people", "key": "user", "column": "age"}},
            "categories": {"langs": {"table": "people", "key": "user", "column": "langs"}},
        },
        "pin": {
            "numbers": {"price": {"table": "pins", "key": "pin", "column": "price",
                                  "time": "since"}},
            "categories": {"kind": {"table": "pins", "key": "pin", "column": "kind",
                                    "time": "since"}},
        },
    },
}  # fmt: skip
EVENTS: dict[str, Any] = {
    "unused": {"table": "visits", "head": {"item": "item"}, "tail": {"user": "user"}, "time": "at"},
    "visit": {"table": "visits", "head": {"user": "user"}, "tail": {"item": "item"}, "time": "at"},
    "show": {"table": "shown", "head": {"user": "user"}, "tail": {"pin": "pin"}, "time": "ts",
             "time_unit": "s"},
    "buy": {"table": "buys", "head": {"user": "user"}, "tail": {"pin": "pin"}, "time": "at"},
}  # fmt: skip
WORLD = world_of(list(SCHEMAS), EVENTS, user="string", max_bad_share=0.3)


def write(folder: Path, rows: dict[str, list[Row]] = ROWS) -> None:
    for name, schema in SCHEMAS.items():
        write_table(folder, name, schema, rows[name])


def read(data: Path, folder: Path, changes: Any = None, **given: Any) -> TowerSet:
    declared = copy.deepcopy(DECLARED)
    for place, value in (changes or {}).items():
        *path, last = place.split(".")
        section = declared
        for name in path:
            section = section[name]
        section[last] = value
    world = given.pop("world", WORLD)
    as_of = given.pop("as_of", at(10))
    sources = TowerSources.model_validate(declared)
    return read_tower_set(sources, world, data, folder, as_of, **given)


def test_each_file_is_as_the_declaration_says(tmp_path: Path) -> None:
    write(tmp_path)
    found = read(tmp_path, tmp_path / "set")
    assert (found.events, found.sources) == (("visit", "show", "buy"), ("shown", "bought"))
    assert found.tasks == ("click", "buy")
    assert rows_of(found.folder / "keys" / "user.parquet") == [
        {"key": "a", "first": micro(2), "last": micro(9)},
        {"key": "b", "first": micro(1), "last": micro(6)},
        {"key": "c", "first": micro(3), "last": micro(3)},
        {"key": "d", "first": micro(0.5), "last": micro(0.5)},
    ]
    none = {"first": None, "last": None}
    assert rows_of(found.folder / "keys" / "pin.parquet") == [
        {"key": 10, "first": micro(2), "last": micro(9), "since": micro(-9), "until": None,
         "listed": True},
        {"key": 20, "first": micro(1), "last": micro(6), "since": None, "until": None,
         "listed": False},
        {"key": 30, **none, "since": micro(0), "until": micro(7), "listed": True},
        {"key": 40, **none, "since": micro(1), "until": None, "listed": True},
    ]  # fmt: skip
    assert [tuple(row.values()) for row in rows_of(found.folder / "events.parquet")] == [
        (0, 0, 1, micro(2)),
        (0, 0, 2, micro(5)),
        (0, -1, 0, micro(8)),
        (0, 0, 1, micro(9)),
        (1, 1, 1, micro(1)),
        (1, 1, 2, micro(6)),
        (2, 1, 1, micro(3)),
        (3, -1, 0, micro(0.5)),
    ]
    assert rows_of(found.column("user", "number", "age")) == [
        {"id": 0, "time": ALWAYS, "value": 30.0}
    ]
    assert rows_of(found.column("user", "category", "langs")) == [
        {"id": 0, "time": ALWAYS, "value": ["1", "2"]}
    ]
    assert rows_of(found.column("pin", "number", "price")) == [
        {"id": 0, "time": micro(-9), "value": 1.5},
        {"id": 0, "time": micro(4), "value": 2.5},
        {"id": 2, "time": micro(0), "value": 7.0},
    ]
    assert rows_of(found.column("pin", "category", "kind")) == [
        {"id": 0, "time": micro(-9), "value": ["ad"]},
        {"id": 0, "time": micro(5), "value": ["video"]},
    ]


def test_examples_are_rows_with_what_is_known_of_them(tmp_path: Path) -> None:
    write(tmp_path)
    found = read(tmp_path, tmp_path / "set")
    rows = examples_of(found)
    drawn = [row for row in rows if row["label_buy"] == 0 and row["source"] == "bought"]
    shown = {"source": "shown", "weight": 2.0}
    empty = {"number_position": None, "category_surface": None, "category_tags": None}
    bought = {"source": "bought", "weight": 1.0, "label_click": None, "label_buy": 1, **empty}
    assert [row for row in rows if row not in drawn] == [
        {**shown, "user": "b", "pin": 20, "time": micro(1), "label_click": 1, "label_buy": 1,
         "number_position": 1.0, "category_surface": ["2"], "category_tags": None},
        {**shown, "user": "a", "pin": 10, "time": micro(2), "label_click": 0, "label_buy": 1,
         "number_position": 2.5, "category_surface": ["2.5"], "category_tags": ["x", "y"]},
        {**shown, "user": "c", "pin": 20, "time": micro(3), "label_click": 0, "label_buy": None,
         **empty},
        {**bought, "user": "a", "pin": 10, "time": micro(5)},
        {**bought, "user": "b", "pin": 20, "time": micro(6)},
    ]  # fmt: skip
    # A drawn negative stands behind its positive; pin 30 is there until hour 7, 40 until 11.
    assert [(row["user"], row["time"]) for row in drawn] == [("a", micro(5)), ("b", micro(6))]
    assert drawn[0]["pin"] in (20, 30, 40) and drawn[1]["pin"] in (10, 30, 40)
    assert [rows.index(row) for row in drawn] == [4, 6]
    schema = pq.read_schema(found.examples)
    assert schema.names == [
        "source", "user", "pin", "time", "weight", "label_click", "label_buy", "number_position",
        "category_surface", "category_tags",
    ]  # fmt: skip
    assert [str(kind) for kind in schema.types] == [
        "int16", "int32", "int32", "int64", "float", "int8", "int8", "float",
        "list<element: string>", "list<element: string>",
    ]  # fmt: skip


def test_the_report_tells_what_became_of_all_rows(tmp_path: Path) -> None:
    write(tmp_path)
    found = read(tmp_path, tmp_path / "set")
    assert TowerSet.open(found.folder) == found
    assert found.report["events"]["show"] == {"rows": 4, "dropped": {}}
    assert found.report["entities"] == {"user": 4, "pin": 4}
    assert found.report["sources"]["shown"] == {
        "rows": 4, "dropped": {}, "context": {"position is no number": 1},
        "left_out": {"not known yet": 1}, "used": 3, "drawn": 0,
        "tasks": {
            "click": {"rows": 3, "dropped": {}, "known": 3, "positives": 1, "unknown": 1},
            "buy": {"rows": 2, "dropped": {}, "known": 2, "positives": 2, "unknown": 2},
        },
    }  # fmt: skip
    assert found.report["sources"]["bought"] == {
        "rows": 2, "dropped": {}, "context": {}, "left_out": {}, "used": 2, "drawn": 2,
        "tasks": {"buy": {"known": 2, "positives": 2, "unknown": 0}},
    }  # fmt: skip


def test_rows_at_or_after_the_cut_change_no_byte(tmp_path: Path) -> None:
    write(tmp_path / "before")
    write(tmp_path / "after", {n: ROWS[n] + AFTER.get(n, []) for n in ROWS})
    sets = [
        read(tmp_path / name, tmp_path / name / "set", world=WORLD.model_copy(
            update={"max_bad_share": 0.0}
        ))
        for name in ("before", "after")
    ]  # fmt: skip
    before, after = (bytes_of(one.folder) for one in sets)
    assert before == after
    assert len(before) == 9
    # Later they do.
    lenient = WORLD.model_copy(update={"max_bad_share": 0.5})
    later = [
        bytes_of(
            read(tmp_path / name, tmp_path / name / "later", as_of=at(24), world=lenient).folder
        )
        for name in ("before", "after")
    ]
    assert all(later[0][file] != later[1][file] for file in before if "user_" not in file)


def test_a_takedown_that_nobody_can_know_yet_changes_no_byte(tmp_path: Path) -> None:
    write(tmp_path / "open")
    rows = copy.deepcopy(ROWS)
    rows["pins"][2]["until"] = at(10)
    write(tmp_path / "closed", rows)
    sets = [read(tmp_path / n, tmp_path / n / "set") for n in ("open", "closed")]
    assert bytes_of(sets[0].folder) == bytes_of(sets[1].folder)
    rows["pins"][2]["until"] = at(9)
    write(tmp_path / "known", rows)
    found = read(tmp_path / "known", tmp_path / "known" / "set")
    assert rows_of(found.folder / "keys" / "pin.parquet")[0]["until"] == micro(9)


def test_a_row_that_was_learned_from_is_left_out_and_so_is_one_before_the_start(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    rows = examples_of(read(tmp_path, tmp_path / "set", since=at(5)))
    told = [(r["source"], r["user"], r["label_click"], r["label_buy"]) for r in rows]
    # Clicks of hours 1 and 2 were known by 5; that of hour 3 is known at 5, so not by the cut of 5.
    assert [one for one in told if one[0] == "shown"] == [
        ("shown", "b", None, 1),
        ("shown", "a", None, 1),
        ("shown", "c", 0, None),
    ]
    rows = examples_of(read(tmp_path, tmp_path / "started", start=at(2)))
    assert [r["user"] for r in rows if r["source"] == "shown"] == ["a", "c"]


def test_rates_keep_the_same_rows_whatever_others_there_are(tmp_path: Path) -> None:
    many = [
        {"id": n, "user": f"u{n % 97}", "pin": n % 41, "ts": seconds(n / 1000), "position": "1"}
        for n in range(4000)
    ]
    clicks = [{"shown": n, "at": at(n / 1000 + 0.1)} for n in range(0, 4000, 10)]
    changes = {"sources.shown.rate": 0.5, "sources.shown.negative_rate": 0.25}
    kept = []
    for name, log in (("half", many[:2000]), ("whole", many)):
        rows = {**ROWS, "shown": log, "clicks": clicks, "buys": [ROWS["buys"][0]]}
        write(tmp_path / name, rows)
        found = examples_of(read(tmp_path / name, tmp_path / name / "set", changes, as_of=at(24)))
        early = [row for row in found if row["source"] == "shown" and row["time"] < micro(1.99)]
        kept.append([(row["user"], row["pin"], row["time"]) for row in early])
    assert kept[0] == kept[1]
    shown = [row for row in found if row["source"] == "shown"]
    positives = [row["weight"] for row in shown if row["label_click"] or row["label_buy"]]
    others = [row["weight"] for row in shown if not (row["label_click"] or row["label_buy"])]
    assert set(positives) == {2.0} and set(others) == {8.0}
    assert len(positives) == pytest.approx(200, abs=40)
    assert len(others) == pytest.approx(450, abs=80)
    different = examples_of(
        read(tmp_path / "whole", tmp_path / "seed", changes, as_of=at(24), seed=1)
    )
    assert different != found


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_negatives_are_drawn_as_declared(tmp_path: Path, by: str) -> None:
    """Of pins that were shown 1, 3 and 6 times as often, and of one that was listed alone."""
    shares = {10: 0.1, 20: 0.3, 30: 0.6}
    shown = [
        {"id": n, "user": "a", "pin": pin, "ts": seconds(0), "position": "1"}
        for n, pin in enumerate([10] * 100 + [20] * 300 + [30] * 600)
    ]
    buys = [{"user": f"u{n}", "pin": 99, "at": at(1), "price": 1.0} for n in range(1000)]
    pins = [{"pin": 40, "since": at(0)}]
    write(tmp_path, {**ROWS, "shown": shown, "buys": buys, "pins": pins})
    changes = {"sources.bought.negatives": 4, "sources.bought.negatives_by": by}
    rows = examples_of(read(tmp_path, tmp_path / "set", changes, as_of=at(24)))
    drawn = Counter(r["pin"] for r in rows if r["source"] == "bought" and r["label_buy"] == 0)
    assert drawn.total() == 4000 and 99 not in drawn
    expected = shares if by == "popularity" else dict.fromkeys((10, 20, 30, 40), 0.25)
    assert set(drawn) == set(expected)
    for pin, share in expected.items():
        assert drawn[pin] / 4000 == pytest.approx(share, abs=0.03)


def test_examples_lie_in_groups_of_a_fixed_size(tmp_path: Path) -> None:
    shown = [
        {"id": n, "user": f"u{n % 7}", "pin": n % 5, "ts": seconds(0) + n % 999, "position": "1"}
        for n in range(GROUP + 10)
    ]
    write(tmp_path, {**ROWS, "shown": shown})
    meta = pq.read_metadata(read(tmp_path, tmp_path / "set", as_of=at(24)).examples)
    groups = [meta.row_group(n).num_rows for n in range(meta.num_row_groups)]
    assert groups == [GROUP, meta.num_rows - GROUP]
    again = read(tmp_path, tmp_path / "again", as_of=at(24), memory_limit="300MB")
    assert bytes_of(again.folder) == bytes_of(tmp_path / "set")


def test_without_features_and_with_integer_keys_in_text(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "log.csv").write_text("who,what,when\n007,1.0,2026-03-01 01:00\n7,2,2026-03-01\n")
    time = {"time": "when", "time_zone": "Europe/Berlin"}
    world = world_of({"log": "log.csv"}, {
        "do": {"table": "log", "head": {"user": "who"}, "tail": {"pin": "what"}, **time}
    })  # fmt: skip
    sources = {"sources": {"done": {
        "table": "log", "user": "who", "pin": "what", "labels": {"done": "always"},
        "negatives": 2, **time,
    }}}  # fmt: skip
    declared = TowerSources.model_validate(sources)
    found = read_tower_set(declared, world, tmp_path, tmp_path / "set", at(5))
    rows = [(r["user"], r["pin"], r["time"], r["label_done"]) for r in examples_of(found)]
    assert rows[:2] == [(7, 2, micro(-1), 1), (7, 1, micro(0), 1)]
    assert rows[2:] == [(7, 2, micro(0), 0)] * 2


def test_bad_rows_are_counted_or_too_many(tmp_path: Path) -> None:
    bad = [
        {"id": 5, "user": " ", "pin": 10, "ts": seconds(1)},
        {"id": 6, "user": "a", "pin": 10, "ts": None},
    ]
    clicks = [{"shown": 2, "user": "a", "pin": 10, "at": None}]
    write(tmp_path, {**ROWS, "shown": ROWS["shown"] + bad, "clicks": ROWS["clicks"] + clicks})
    found = read(tmp_path, tmp_path / "set", world=WORLD.model_copy(update={"max_bad_share": 0.4}))
    dropped = {"user is missing": 1, "ts is missing": 1}
    assert found.report["sources"]["shown"]["dropped"] == dropped
    assert found.report["events"]["show"]["dropped"] == dropped
    assert found.report["sources"]["shown"]["tasks"]["click"]["dropped"] == {"at is missing": 1}
    world = WORLD.model_copy(update={"max_bad_share": 0.1, "events": {"visit": EVENTS["visit"]}})
    with pytest.raises(BadRowsError, match=r"upstream.sources.shown: found 2 bad of 6 rows"):
        read(tmp_path, tmp_path / "other", world=world)
    assert not (tmp_path / "other").exists()


def test_no_half_written_folder_is_seen(tmp_path: Path) -> None:
    write(tmp_path)
    # The last table that is read is damaged: all before it has been written by then.
    world = WORLD.model_copy(deep=True)
    damaged = {"sources.bought.context": {"numbers": {"price": {"column": "pin_"}}}}
    with pytest.raises(MappingError, match=r"upstream.sources.bought.context.numbers.price.column"):
        read(tmp_path, tmp_path / "set", damaged, world=world)
    with pytest.raises(SourceError, match="no example before 2026-02-27"):
        read(tmp_path, tmp_path / "set", as_of=at(-48), world=WORLD)
    assert not (tmp_path / "set").exists()
    assert not list((tmp_path / ".staging").iterdir())
    read(tmp_path, tmp_path / "set")
    with pytest.raises(FileExistsError):
        read(tmp_path, tmp_path / "set")
    assert not (tmp_path / "set" / "work").exists()


def test_a_refresh_may_find_nothing_new(tmp_path: Path) -> None:
    write(tmp_path)
    found = read(tmp_path, tmp_path / "set", since=at(30), as_of=at(31))
    assert rows_of(found.examples) == []
    assert found.report["sources"]["bought"]["left_out"] == {"learned before": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources.shown.user": "who"}, "upstream.sources.shown.user: found no column who"),
        ({"sources.shown.time": "when"}, "upstream.sources.shown.time: found no column when"),
        ({"sources.shown.labels.click.match": {"id": "nr"}},
         "upstream.sources.shown.labels.click.id: found no column nr"),
        ({"features.pin.numbers.price.column": "cost"},
         "upstream.features.pin.numbers.price.column: found no column cost"),
        ({"features.pin.numbers.price.column": "since"}, "found since of type TIMESTAMP"),
        ({"pins.until": "gone"}, "upstream.pins.until: found no column gone"),
        ({"sources.shown.where": "nothing > 1"}, "upstream.sources.shown .table shown.*nothing"),
        ({"sources.shown.time_unit": None}, "upstream.sources.shown.time"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_fit_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path)
    with pytest.raises(MappingError, match=message):
        read(tmp_path, tmp_path / "set", changes)


def test_a_time_without_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"since: found .* without a time zone"):
        read(tmp_path, tmp_path / "set", since=at(0).replace(tzinfo=None))


def test_times_of_which_some_have_a_zone_are_refused(tmp_path: Path) -> None:
    lines = "a,1,2026-03-01 01:00:00Z\nb,2,2026-03-01 01:00:00\n"
    (tmp_path / "log.csv").write_text("who,what,when\n" + lines)
    time = {"table": "log", "time": "when"}
    world = world_of({"log": "log.csv"}, user="string", events={
        "do": {**time, "head": {"user": "who"}, "tail": {"item": "what"}}
    })  # fmt: skip
    source = {**time, "user": "who", "pin": "what", "labels": {"done": "always"}, "negatives": 1}
    declared = TowerSources.model_validate({"sources": {"done": source}, "features": {
        "user": {"ids": {}}, "pin": {"ids": {}}
    }})  # fmt: skip
    with pytest.raises(SourceError, match=r"upstream.sources.done.time.*a time zone mix"):
        read_tower_set(declared, world, tmp_path, tmp_path / "set", at(5))


def test_of_rows_of_one_time_the_first_pin_has_the_label(tmp_path: Path) -> None:
    shown = [
        {"id": n, "user": "a", "pin": pin, "ts": seconds(1)} for n, pin in enumerate((30, 10, 20))
    ]
    clicks = [{"shown": 0, "user": "a", "pin": 20, "at": at(1)}]
    write(tmp_path, {**ROWS, "shown": shown, "clicks": clicks})
    found = read(tmp_path, tmp_path / "set", {"sources.shown.labels.click.match": {"user": "user"}})
    labels = [(r["pin"], r["label_click"]) for r in examples_of(found) if r["source"] == "shown"]
    assert labels == [(10, 1), (20, 0), (30, 0)]


def test_a_pin_that_is_taken_down_at_the_time_is_not_drawn(tmp_path: Path) -> None:
    buys = [{"user": "a", "pin": 10, "at": at(5)}]
    shown = [{"id": 1, "user": "a", "pin": 10, "ts": seconds(1)}]
    drawn = []
    for hour in (5, 6):
        pins = [{"pin": 30, "since": at(0), "until": at(hour)}]
        write(tmp_path, {**ROWS, "shown": shown, "buys": buys, "pins": pins})
        rows = examples_of(read(tmp_path, tmp_path / f"set{hour}"))
        drawn.append([r["pin"] for r in rows if r["source"] == "bought" and not r["label_buy"]])
    assert drawn == [[], [30]]
