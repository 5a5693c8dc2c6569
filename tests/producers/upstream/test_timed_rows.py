"""Lookups as of a time against loops over plain lists."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import MappingError
from provender.producers.upstream.event_index import event_log, pair_rows, pin_rows, user_rows
from provender.producers.upstream.spool import Spool
from provender.producers.upstream.timed_rows import NEVER, PairRows, TimedRows
from tests.producers.upstream.tower_world import EVENTS, TIMES, World, events, write_set

ENTRIES = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), max_size=60)
ASKED = st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 5)), max_size=20)


def timed(entries: list[tuple[int, int]], count: int = 5) -> TimedRows:
    rows, times = np.array(sorted(entries), np.int64).reshape(-1, 2).T
    return TimedRows.of_sorted(rows, np.append(times, NEVER), count)


@given(ENTRIES, ASKED)
def test_the_end_of_what_is_strictly_before(
    entries: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    held = timed(entries)
    rows, times = np.array(asked, np.int64).reshape(-1, 2).T
    ends = held.before(rows, times)
    newest, known = held.newest(rows, times)
    assert len(held) == 5
    for place, (row, time) in enumerate(asked):
        before = sorted(when for of, when in entries if of == row and when < time)
        assert ends[place] - held.offsets[row] == len(before)
        assert known[place] == bool(before)
        if before:
            assert held.times[newest[place]] == before[-1]


def test_one_long_row_among_short_ones() -> None:
    entries = [(1, time) for time in range(1000)] + [(0, 5), (3, 7)]
    held = timed(entries)
    times = np.arange(-1, 1002)
    ends = held.before(np.ones(len(times), np.int64), times) - held.offsets[1]
    assert ends.tolist() == np.clip(times, 0, 1000).tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 5))), ASKED)
def test_pairs(entries: list[tuple[int, int, int]], asked: list[tuple[int, int]]) -> None:
    entries = sorted(entries)
    users, pins, times = np.array(entries, np.int64).reshape(-1, 3).T
    held = PairRows.of_sorted(users * 3 + pins, np.append(times, NEVER), 3)
    for user in range(5):
        for pin in range(3):
            (row,) = held.of(np.array([user]), np.array([pin]))
            for _, time in asked:
                end = held.rows.before(np.array([row]), np.array([time]))[0]
                wanted = [each for each in entries if each[:2] == (user, pin) and each[2] < time]
                assert end - held.rows.offsets[row] == len(wanted)


@settings(max_examples=20)
@given(st.lists(events(), max_size=30), st.lists(TIMES, min_size=1, max_size=4))
def test_events_by_user_pin_and_pair(rows: list, asked: list[int]) -> None:  # type: ignore[type-arg]
    kinds = [("click",), ("save", "impression"), EVENTS]
    with TemporaryDirectory() as folder:
        tower_set = write_set(Path(folder) / "set", World(events=rows))
        by_user, by_pin = user_rows(tower_set, kinds, 3), pin_rows(tower_set, kinds, 4)
        by_pair = pair_rows(tower_set, kinds, 4)
        log = event_log(tower_set, ("save", "click"), 3)
        assert sorted(path.name for path in tower_set.folder.iterdir()) == [
            "about.json",
            "columns",
            "events.parquet",
            "examples.parquet",
            "keys",
        ]
    for kind in kinds:
        of_kind = [each for each in rows if EVENTS[each.event] in kind]
        for time in asked:
            before = [each for each in of_kind if each.time < time]
            for held, entity, count in ((by_user[kind], "user", 3), (by_pin[kind], "pin", 4)):
                ends = held.before(np.arange(count), np.full(count, time))
                wanted = [sum(getattr(e, entity) == n for e in before) for n in range(count)]
                assert (ends - held.offsets[:-1]).tolist() == wanted
            users, pins = (each.reshape(-1) for each in np.mgrid[0:3, 0:4])
            found = by_pair[kind].of(users, pins)
            ends = by_pair[kind].rows.before(found, np.full(12, time))
            wanted = [
                sum((e.user, e.pin) == pair for e in before)
                for pair in zip(users, pins, strict=True)
            ]
            assert (ends - by_pair[kind].rows.offsets[found]).tolist() == wanted
    logged = [each for each in sorted(rows) if EVENTS[each.event] in ("save", "click")]
    assert log.rows.times[:-1].tolist() == [each.time for each in logged]
    assert log.pin[:-1].tolist() == [each.pin for each in logged]
    names = [("save", "click")[code] for code in log.event[:-1]]
    assert names == [EVENTS[each.event] for each in logged]


def test_an_event_that_is_not_there(tmp_path: Path) -> None:
    tower_set = write_set(tmp_path / "set", World())
    with pytest.raises(MappingError, match="found the event share; expected one of impression"):
        user_rows(tower_set, [("click", "share")], 3)


def test_a_spool_is_mapped_and_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool("i4", tmp_path / "work")
    spool.append(np.array([3, 1]))
    spool.append(np.array([2]))
    values = spool.mapped()
    assert values.tolist() == [3, 1, 2]
    assert values.dtype == np.int32
    assert not values.flags.writeable
    assert list((tmp_path / "work").iterdir()) == []
    assert Spool("f4", tmp_path).mapped().shape == (0,)
