from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provender.consumers.impressions import (
    LEFT_OUT,
    load_impressions,
    log_end,
    with_known_labels,
)
from provender.plugin.errors import BadRowsError, ConfigError, MappingError
from provender.plugin.world import World

T0 = datetime(2026, 3, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")
WITHIN = timedelta(hours=2)


def minutes(number: float) -> datetime:
    return T0 + timedelta(minutes=number)


def world(**changes: Any) -> World:
    ranking: dict[str, Any] = {
        "impressions": {
            "table": "shown",
            "id": "no",
            "user": "who",
            "pin": "what",
            "time": "at",
            "context": ["place"],
        },
        "labels": {
            "click": {
                "table": "done",
                "match": {"impression_id": "of"},
                "time": "at",
                "where": "kind = 'click'",
                "within": "2h",
            },
            "conversion": {
                "table": "done",
                "match": {"user_id": "who", "pin_id": "what"},
                "time": "at",
                "where": "kind = 'buy'",
                "within": "2h",
            },
        },
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        ranking[section][name] = value
    return World.model_validate(
        {
            "tables": {"shown": {"path": "shown.parquet"}, "done": {"path": "done.parquet"}},
            "entities": {"user": "int64", "pin": "string"},
            "events": {"click": {}},
            "ranking": ranking,
            "dates": {"first_as_of": "2026-03-01", "refreshes": 1},
        }
    )


def write(folder: Path, shown: list[tuple[Any, ...]], done: list[tuple[Any, ...]]) -> None:
    """Write (no, who, what, at, place) and (of, who, what, at, kind) rows.

    A row of a year ago goes first into each, as tables without any row are refused.
    """
    long_ago = (-1, 0, "z", minutes(-525_600), "other")
    shown, done = [long_ago, *shown], [long_ago, *done]
    names = ("no", "who", "what", "at", "place"), ("of", "who", "what", "at", "kind")
    types = (pa.int64(), pa.int64(), pa.string(), TIME, pa.string())
    for name, rows, columns in (("shown", shown, names[0]), ("done", done, names[1])):
        arrays = [
            pa.array([row[place] for row in rows], type_) for place, type_ in enumerate(types)
        ]
        pq.write_table(
            pa.table(dict(zip(columns, arrays, strict=True))), folder / f"{name}.parquet"
        )


def load(folder: Path, *, start: float = 0, end: float = 600, known: float = 1e6) -> pa.Table:
    return load_impressions(
        world(), folder, minutes(start), minutes(end), minutes(known), folder / "work"
    )


KINDS = ("click", "buy")
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(1, 2),
        st.sampled_from(["a", "b"]),
        st.integers(0, 40).map(lambda n: 15 * n),
        st.sampled_from(["click", "buy", "hide"]),
    ),
    max_size=25,
)
SHOWN = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(1, 2),
        st.sampled_from(["a", "b"]),
        st.integers(0, 40).map(lambda n: 15 * n),
    ),
    max_size=7,
    unique_by=lambda row: row[0],
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SHOWN, EVENTS, st.integers(0, 20), st.integers(20, 40), st.integers(0, 50))
def test_labels_agree_with_a_loop(
    tmp_path: Path,
    shown: list[tuple[int, int, str, int]],
    done: list[tuple[int, int, str, int, str]],
    start: int,
    end: int,
    known: int,
) -> None:
    write(
        tmp_path,
        [(*row[:3], minutes(row[3]), "home") for row in shown],
        [(*row[:3], minutes(row[3]), row[4]) for row in done],
    )
    start, end, known = 15 * start, 15 * end, 15 * known
    expected = []
    for no, who, what, at in sorted(shown, key=lambda row: (row[3], row[0])):
        if not start <= at < end:
            continue
        in_time = [one for one in done if at <= one[3] <= at + 120]
        click = any(one[4] == "click" and one[0] == no for one in in_time)
        buy = any(one[4] == "buy" and one[1:3] == (who, what) for one in in_time)
        closed = at + 120 < known
        labels = (int(click), int(buy)) if closed else (None, None)
        expected.append((no, who, what, minutes(at), "home", *labels, closed, closed))
    found = load(tmp_path, start=start, end=end, known=known)
    assert found.column_names == [
        "impression_id", "user_id", "pin_id", "event_timestamp", "place", "click", "conversion",
        "click_weight", "conversion_weight",
    ]  # fmt: skip
    assert [tuple(row.values()) for row in found.to_pylist()] == expected


def test_both_edges_of_the_window_count_and_a_microsecond_past_them_does_not(
    tmp_path: Path,
) -> None:
    tick = timedelta(microseconds=1)
    for moved, click in (
        (-tick, 0),
        (timedelta(0), 1),
        (WITHIN, 1),
        (WITHIN + tick, 0),
    ):
        write(tmp_path, [(1, 1, "a", T0, "x")], [(1, 1, "a", T0 + moved, "click")])
        assert load(tmp_path)["click"].to_pylist() == [click], moved


def test_a_label_is_known_once_its_window_has_been_seen_to_its_last_microsecond(
    tmp_path: Path,
) -> None:
    tick = 1 / 6e7
    shown = [(1, 1, "a", T0, "x"), (2, 1, "a", T0, "x")]
    write(tmp_path, shown, [(1, 1, "a", minutes(30), "click")])
    for known, labels in ((31, [None, None]), (120, [None, None]), (120 + tick, [1, 0])):
        found = load(tmp_path, known=known)
        assert found["click"].to_pylist() == labels, known
        assert found["click_weight"].to_pylist() == [float(one is not None) for one in labels]


def test_what_comes_after_the_last_observation_changes_nothing(tmp_path: Path) -> None:
    shown = [(no, 1, "a", minutes(10 * no), "x") for no in range(40)]
    seen = [(no, 1, "a", minutes(10 * no + 3 * no), "click") for no in range(0, 40, 2)]
    later = [(no, 1, "a", minutes(10 * no + 100), kind) for no in range(40) for kind in KINDS]
    for immature in ("drop", "weigh"):
        made = world()
        for label in made.ranking["labels"].values():
            label["immature"] = immature
        found = []
        for done in (seen, seen + later):
            known = [one for one in done if one in seen or one[3] >= minutes(300)]
            write(tmp_path, shown, known)
            load_at = (T0, minutes(400), minutes(300), tmp_path / "work")
            found.append(load_impressions(made, tmp_path, *load_at))
        assert found[0].equals(found[1])
        assert sum(found[0]["click"].to_pylist()[:10]) == 5


def test_young_rows_are_weighed_by_the_delays_of_those_whose_window_has_closed(
    tmp_path: Path,
) -> None:
    # Four mature rows, one outside of the span; three became positive, after 10, 20 and 100.
    mature = [(no, 1, "a", minutes(no), "x") for no in range(4)]
    delays = {0: 10, 1: 20, 2: 100}
    # Seen for 50 minutes, in which two of three come; for 5, in which none does.
    young = [(4, 1, "a", minutes(250), "x"), (5, 1, "a", minutes(250), "x")]
    newborn = [(6, 1, "a", minutes(295), "x")]
    done = [(no, 1, "a", minutes(no + delay), "click") for no, delay in delays.items()]
    write(tmp_path, [*mature, *young, *newborn], [*done, (4, 1, "a", minutes(260), "click")])
    made = world()
    made.ranking["labels"]["click"]["immature"] = "weigh"

    found = load_impressions(
        made, tmp_path, minutes(1), minutes(600), minutes(300), tmp_path / "work"
    )

    # The row of a year ago, which every table has, is mature too.
    rate, seen = 3 / 5, 2 / 3
    negative = 1 - rate * (1 - seen) / (1 - rate * seen)
    assert found["click"].to_pylist() == [1, 1, 0, 1, 0, None]
    weights = [1, 1, 1, 1 / seen, negative, 0]
    assert found["click_weight"].to_pylist() == pytest.approx(weights)


def test_a_label_that_is_not_declared_is_not_known(tmp_path: Path) -> None:
    write(tmp_path, [(1, 1, "a", T0, "x")], [(1, 1, "a", T0, "click")])
    made = world()
    del made.ranking["labels"]["conversion"]
    found = load_impressions(made, tmp_path, T0, minutes(9), minutes(999), tmp_path / "work")
    assert found["conversion"].to_pylist() == [None]
    assert found["conversion_weight"].to_pylist() == [0]
    assert with_known_labels(found).num_rows == 1


def test_the_log_ends_with_the_last_row_of_any_of_its_tables(tmp_path: Path) -> None:
    shown = [(1, 1, "a", T0, "x"), (2, 1, "a", minutes(200), "x")]
    write(tmp_path, shown, [(1, 1, "a", minutes(130), "buy")])
    end = log_end(world(), tmp_path, tmp_path / "work")
    assert end == minutes(200) + timedelta(microseconds=1)
    found = load_impressions(world(), tmp_path, T0, minutes(999), end, tmp_path / "work")
    assert found["click"].to_pylist() == [0, None]
    assert with_known_labels(found)["impression_id"].to_pylist() == [1]


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [(7, 1, "a", T0, "x"), (7, 2, "b", minutes(1), "x")], [])
    with pytest.raises(BadRowsError, match="the id 7 2 times"):
        load(tmp_path)


def test_bad_rows_stop_above_the_share_and_are_counted_below(tmp_path: Path) -> None:
    good = [(no, 1, "a", minutes(no), "x") for no in range(200)]
    write(tmp_path, [*good, (200, None, "a", minutes(5), "x")], [])
    found = load(tmp_path)
    assert found.num_rows == 200
    assert found.schema.metadata[LEFT_OUT] == b"1"
    write(tmp_path, [*good[:50], (200, None, "a", None, "x")], [])
    with pytest.raises(BadRowsError, match="1 of 51 rows"):
        load(tmp_path)


def test_times_as_text_with_and_without_zone_and_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "shown.csv").write_text(
        "no,who,what,at,place\n"
        "1,1,a,2026-03-01 01:00:00,x\n"
        "2,1,a,2026-03-01T00:00:00Z,x\n"
        "3,1,a,2026-03-01T05:00:00+03:00,x\n"
    )
    (tmp_path / "done.csv").write_text(
        f"of,who,what,at,kind\n1,1,a,{int(T0.timestamp()) + 60},click\n"
    )
    base = world(impressions__time_zone="Europe/Berlin")
    ranking = {**base.ranking}
    ranking["labels"]["click"]["time_unit"] = "s"
    ranking["labels"]["conversion"]["time_unit"] = "s"
    tables = {"shown": {"path": "shown.csv"}, "done": {"path": "done.csv"}}
    made = World.model_validate({**base.model_dump(), "tables": tables, "ranking": ranking})
    found = load_impressions(
        made, tmp_path, minutes(-99), minutes(600), minutes(999), tmp_path / "work"
    )
    by_id = {str(row["impression_id"]): row for row in found.to_pylist()}
    assert by_id["1"]["event_timestamp"] == T0
    assert by_id["2"]["event_timestamp"] == T0
    assert by_id["3"]["event_timestamp"] == minutes(120)
    assert {key: row["click"] for key, row in by_id.items()} == {"1": 1, "2": 0, "3": 0}


def as_numbers(folder: Path, unit: str) -> World:
    """Both tables' times rewritten as int64 counts of `unit`, and a world that says so."""
    for name in ("shown", "done"):
        table = pq.read_table(folder / f"{name}.parquet")
        place = table.schema.get_field_index("at")
        times = table["at"].cast(pa.timestamp(unit, "UTC")).cast(pa.int64())
        pq.write_table(table.set_column(place, "at", times), folder / f"{name}.parquet")
    sections = ("impressions", "labels")
    ranking: dict[str, Any] = {key: world().ranking[key] for key in sections}
    for section in (ranking["impressions"], *ranking["labels"].values()):
        section["time_unit"] = unit
    return World.model_validate({**world().model_dump(), "ranking": ranking})


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_of_every_unit_are_times(tmp_path: Path, unit: str) -> None:
    write(tmp_path, [(1, 1, "a", T0, "x")], [(1, 1, "a", T0 + WITHIN, "click")])
    made = as_numbers(tmp_path, unit)

    found = load_impressions(made, tmp_path, T0, minutes(9), minutes(999), tmp_path / "work")

    assert found["event_timestamp"].to_pylist() == [T0]
    assert found["click"].to_pylist() == [1]


def test_nanoseconds_are_cut_off_and_not_rounded_into_the_next_window(tmp_path: Path) -> None:
    write(tmp_path, [(1, 1, "a", T0, "x")], [(1, 1, "a", T0 + WITHIN, "click")])
    last = int(T0.timestamp()) * 10**9 - 1
    for name, moved in (("shown", 0), ("done", int(WITHIN.total_seconds()) * 10**9 + 1000)):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        times = pa.array([0, last + moved]).cast(pa.timestamp("ns", "UTC"))
        place = table.schema.get_field_index("at")
        pq.write_table(table.set_column(place, "at", times), tmp_path / f"{name}.parquet")

    assert load(tmp_path, start=0).num_rows == 0
    found = load(tmp_path, start=-1)
    assert found["event_timestamp"].to_pylist() == [T0 - timedelta(microseconds=1)]
    # Both are cut off: 999 ns past the window's end is another microsecond, not the same one.
    assert found["click"].to_pylist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T03:00:00+0300",
        "2026-03-01 03:00:00 +03",
        "2026-03-01T00:00Z",
        "2026-02-28 19:00:00.000-05:00",
        "2026-03-01 00:00:00 GMT",
        "2026-03-01 01:00:00",
    ],
)
def test_offsets_in_text_go_before_the_declared_zone(tmp_path: Path, text: str) -> None:
    (tmp_path / "shown.csv").write_text(f"no,who,what,at,place\n1,1,a,{text},x\n")
    (tmp_path / "done.csv").write_text(f"of,who,what,at,kind\n1,1,a,{text},buy\n")
    base = world(impressions__time_zone="Europe/Berlin")
    for label in base.ranking["labels"].values():
        label["time_zone"] = "Europe/Berlin"
    tables = {"shown": {"path": "shown.csv"}, "done": {"path": "done.csv"}}
    made = World.model_validate({**base.model_dump(), "tables": tables})

    found = load_impressions(made, tmp_path, T0, minutes(1), minutes(999), tmp_path / "work")

    assert found["event_timestamp"].to_pylist() == [T0]
    assert found["conversion"].to_pylist() == [1]


def test_a_time_column_that_is_no_time_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, [(1, 1, "a", T0, "x")], [])
    with pytest.raises(MappingError, match="column place: found a column of type VARCHAR\\[\\]"):
        table = pq.read_table(tmp_path / "shown.parquet")
        lists = pa.array([["x"], ["y"]])
        pq.write_table(table.set_column(4, "place", lists), tmp_path / "shown.parquet")
        load_impressions(
            world(impressions__time="place"), tmp_path, T0, minutes(9), minutes(9), tmp_path / "w"
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"impressions__table": "nope"}, "the table 'nope'"),
        ({"impressions__time": "when"}, "no column 'when'"),
        ({"impressions__user": "whom"}, "whom"),
        ({"impressions__where": "kind ="}, "ranking"),
        ({"impressions__colour": "red"}, "unknown key"),
        ({"impressions__context": ["click"]}, "columns named once"),
    ],
)
def test_a_declaration_that_does_not_fit_is_one_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    write(tmp_path, [(1, 1, "a", T0, "x")], [])
    with pytest.raises(MappingError) as caught:
        load_impressions(world(**change), tmp_path, T0, minutes(9), minutes(9), tmp_path / "work")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_without_a_zone_are_refused(tmp_path: Path) -> None:
    naive = datetime(2026, 3, 1)
    with pytest.raises(ConfigError, match="without a zone"):
        load_impressions(world(), tmp_path, naive, T0, T0, tmp_path / "work")
