from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feast import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.consumers.action_log import ActionLog
from provender.consumers.log_columns import micros
from provender.consumers.user_history import History
from provender.plugin.errors import BadRowsError, ConfigError, MappingError
from provender.plugin.world import World
from tests.consumers.kitchen import T0, TIME, Kitchen, Version, hours

LENGTH, KINDS = 3, ("click", "save")
#: (user, pin, time, kind)
Row = tuple[Any, Any, datetime | None, str]
#: (pin, kind, age in seconds as a float32), the latest first
Past = list[tuple[Any, int, float]]


def world(user: str = "int64", pin: str = "int64", **history: Any) -> World:
    actions = {
        kind: {
            "table": "done",
            "where": f"kind = '{kind}'",
            "user": "who",
            "pin": "what",
            "time": "at",
        }
        for kind in KINDS
    }
    return World.model_validate(
        {
            "tables": {"done": {"path": "done.parquet"}},
            "entities": {"user": user, "pin": pin},
            "events": {"click": {}},
            "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
            "ranking": {
                "impressions": {
                    "table": "done",
                    "id": "no",
                    "user": "who",
                    "pin": "what",
                    "time": "at",
                },
                "labels": {
                    "click": {
                        "table": "done",
                        "match": {"user_id": "who"},
                        "time": "at",
                        "within": "1h",
                    }
                },
                "history": {"length": LENGTH, "actions": actions} | history,
            },
        }
    )


def write(folder: Path, rows: Sequence[Row]) -> None:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    types = [pa.array(columns[0]).type, pa.array(columns[1]).type, TIME, pa.string()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.table(arrays, ["who", "what", "at", "kind"]), folder / "done.parquet")


def loaded(folder: Path, rows: Sequence[Row], declared: World | None = None) -> ActionLog:
    write(folder, rows)
    return ActionLog.load(declared or world(), folder, folder / "work")


def asked(log: ActionLog, rows: Sequence[tuple[Any, datetime]]) -> History:
    times = np.array([micros(time) for _, time in rows], np.int64)
    return log.histories(pa.array([user for user, _ in rows]), times)


def told(history: History) -> list[Past]:
    """What the tensors say of each row; also that nothing stands where there is no action."""
    rows: list[Past] = []
    keys = history.keys.to_pylist()
    columns = [history.items.tolist(), history.kinds.tolist(), history.age_seconds.tolist()]
    for items, kinds, ages in zip(*columns, strict=True):
        there = [item >= 0 for item in items]
        assert there == sorted(there, reverse=True)
        past = list(zip(items, kinds, ages, strict=True))
        assert all(rest == (-1, 0, 0.0) for rest in past[sum(there) :])
        rows.append([(keys[i], kind, age) for i, kind, age in past[: sum(there)]])
    return rows


def by_hand(rows: Sequence[Row], user: Any, time: datetime) -> Past:
    past = [
        (at, KINDS.index(kind), pin)
        for who, pin, at, kind in rows
        if who == user and at is not None and at < time
    ]
    past.sort(key=lambda each: (time - each[0], each[1], each[2]))
    ages = [float(np.float32((time - at).total_seconds())) for at, _, _ in past]
    return [(pin, kind, age) for (_, kind, pin), age in zip(past, ages, strict=True)][:LENGTH]


MINUTES = st.integers(0, 6)
ROWS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(10, 13),
        MINUTES.map(lambda minute: T0 + timedelta(minutes=minute)),
        st.sampled_from(KINDS),
    ),
    min_size=1,
    max_size=20,
)
ASKED = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.builds(
            lambda minute, step: T0 + timedelta(minutes=minute, microseconds=step),
            MINUTES,
            st.integers(-1, 1),
        ),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, wanted=ASKED)
def test_the_last_actions_strictly_before_each_row_the_latest_first(
    rows: list[Row], wanted: list[tuple[int, datetime]]
) -> None:
    with TemporaryDirectory() as name:
        log = loaded(Path(name), rows)
    assert told(asked(log, wanted)) == [by_hand(rows, *each) for each in wanted]


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, later=ROWS, user=st.integers(0, 4), shuffle=st.randoms())
def test_neither_later_actions_nor_the_order_of_the_log_change_anything(
    rows: list[Row], later: list[Row], user: int, shuffle: Any
) -> None:
    time = T0 + timedelta(minutes=4)
    before = [row for row in rows if row[2] is not None and row[2] < time]
    after = [row for row in later if row[2] is not None and row[2] >= time]
    whole = before + after
    shuffle.shuffle(whole)
    wanted = [(user, time), (1, T0 + timedelta(minutes=2))]
    with TemporaryDirectory() as name:
        if before:
            alone = asked(loaded(Path(name), before), wanted)
            same(alone, asked(loaded(Path(name), whole), wanted))
            write(Path(name), whole)
            cut = ActionLog.load(world(), Path(name), Path(name) / "work", before=time)
            assert len(cut) == len(before)
            same(alone, asked(cut, wanted))


def same(one: History, other: History) -> None:
    """To the last bit, but for the order of items that only a lack of rows would change."""
    for name in ("items", "kinds", "age_seconds"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.keys.equals(other.keys)
    assert one.vectors.keys() == other.vectors.keys()
    for view in one.vectors:
        assert torch.equal(one.vectors[view], other.vectors[view])
        assert torch.equal(one.present[view], other.present[view])


def test_text_keys_ties_and_a_copy_for_another_process(tmp_path: Path) -> None:
    time = T0 + timedelta(minutes=1)
    rows: list[Row] = [
        ("мир", "ключ", T0, "save"),
        ("мир", "b", T0, "save"),
        ("мир", "z", T0, "click"),
        ("мир", "z", T0, "click"),
        ("a", "b", time, "click"),
    ]
    log = copy.deepcopy(loaded(tmp_path, rows, world("string", "string")))
    past = told(asked(log, [("мир", time), ("a", time), ("unknown", time)]))
    assert past == [[("z", 0, 60.0), ("z", 0, 60.0), ("b", 1, 60.0)], [], []]
    assert asked(log, [("мир", time)]).keys.to_pylist() == ["z", "b"]


def test_no_rows_unknown_users_and_an_empty_log(tmp_path: Path) -> None:
    log = loaded(tmp_path, [(1, 10, T0, "other")])
    assert len(log) == 0
    assert told(asked(log, [(1, hours(5))])) == [[]]
    log = loaded(tmp_path, [(1, 10, T0, "click")])
    assert asked(log, []).items.shape == (0, LENGTH)
    empty = log.histories(pa.array([None], pa.int64()), np.array([micros(hours(1))]))
    assert told(empty) == [[]]
    with pytest.raises(ConfigError, match="users of type string"):
        asked(log, [("one", hours(1))])


def test_what_is_declared_wrongly_or_bad_is_refused(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 10, T0, "click"), (1, None, T0, "save"), (1, 11, None, "save")]
    with pytest.raises(BadRowsError, match="actions save of table done: found 2 of 2 rows"):
        loaded(tmp_path, rows)
    lenient = world().model_copy(update={"max_bad_share": 0.999})
    many: list[Row] = [*rows, *[(2, 12, T0, "save")] * 3]
    log = loaded(tmp_path, many, lenient)
    assert dict(log.left_out) == {"click": 0, "save": 2}
    assert len(log) == 4
    bare = world()
    bare.ranking.pop("history")
    with pytest.raises(ConfigError, match="no `history`"):
        loaded(tmp_path, many, bare)
    action = {"table": "gone", "user": "who", "pin": "what", "time": "at"}
    with pytest.raises(MappingError, match="gone"):
        loaded(tmp_path, many, world(actions={"click": action}))
    with pytest.raises(MappingError):
        loaded(tmp_path, many, world(actions={"click": action | {"table": "done", "pin": "no"}}))
    with pytest.raises(ConfigError, match="without a zone"):
        ActionLog.load(world(), tmp_path, tmp_path / "work", before=datetime(2026, 3, 1))


def joined(
    store: FeatureStore, pins: Sequence[int], time: datetime, *, backfills: bool
) -> list[list[float] | None]:
    """The vectors of pins at a time, one by one through Feast's own join."""
    vectors: list[list[float] | None] = []
    for pin in pins:
        frame = pa.table({"pin_id": [pin], "event_timestamp": pa.array([time], TIME)})
        job = store.get_historical_features(
            entity_df=frame.to_pandas(),
            features=["pin_test_v1:embedding"],
            filter_by_created_timestamp=not backfills,
        )
        vectors += job.to_arrow()["embedding"].to_pylist()
    return vectors


@pytest.mark.parametrize("backfills", [True, False])
def test_a_pin_has_the_vector_that_feast_joins_at_the_time_of_the_row(
    store: FeatureStore, tmp_path: Path, backfills: bool
) -> None:
    acted = [
        (user, pin, hours(hour), "click")
        for user, pin, hour in [(1, 10, 1), (1, 11, 2), (1, 99, 3), (1, 11, 50), (2, 12, 49)]
    ]
    log = loaded(tmp_path, acted).with_vectors(store, "rich", backfills=backfills)
    assert list(log.lookups) == ["pin_test_v1"]
    # Before the first vector; at the edges of a correction, of a refresh and of the ttl.
    moments = [2.5, 23, 24, 47, 48, 52.9, 53, 71, 72, 73, 96, 120, 122]
    wanted = [(user, hours(moment)) for user in (1, 2) for moment in moments]
    history = asked(log, wanted)
    spread: set[tuple[float, ...]] = set()
    for row, (_, time) in enumerate(wanted):
        items = [item for item in history.items[row].tolist() if item >= 0]
        pins = [history.keys[item].as_py() for item in items]
        vectors = joined(store, pins, time, backfills=backfills)
        assert [history.present["pin_test_v1"][item].item() for item in items] == [
            vector is not None for vector in vectors
        ]
        for item, vector in zip(items, vectors, strict=True):
            assert history.vectors["pin_test_v1"][item].tolist() == (vector or [0.0] * 4)
            spread.add(tuple(vector or ()))
    assert len(spread) > 5
    # Each vector of a pin stands there once, however many rows it is in.
    assert len(history.keys) < int((history.items >= 0).sum())
    pairs = {
        (key, tuple(vector), there)
        for key, vector, there in zip(
            history.keys.to_pylist(),
            history.vectors["pin_test_v1"].tolist(),
            history.present["pin_test_v1"].tolist(),
            strict=True,
        )
    }
    assert len(pairs) == len(history.keys)


@pytest.fixture
def snapshots(tmp_path: Path) -> Kitchen:
    made = Kitchen(tmp_path / "kitchen", snapshots=True, versions=[Version(1), Version(2, dim=3)])
    made.folder.mkdir()
    for entity in ("user", "pin"):
        made.write(entity, [(1, T0, T0, (1, 0.5))], vectors=False)
    for version in made.versions:
        for day in (0, 1):
            vectors = {pin: [pin + day / 2] * version.dim for pin in (10, 11)[: 2 - day]}
            keyed = {"user": {1: [1.0] * version.dim}, "pin": vectors}
            made.snapshot(version, hours(24 * day + version.number), keyed)
    return made


@pytest.fixture
def clicks() -> list[Row]:
    return [(1, 11, T0, "click"), (1, 10, T0 + timedelta(minutes=5), "save")]


def test_several_views_share_items_and_a_subset_may_be_chosen(
    snapshots: Kitchen, clicks: list[Row], tmp_path: Path
) -> None:
    store = snapshots.store()
    log = loaded(tmp_path, clicks)
    both = log.with_vectors(store, "both", backfills=True)
    # Version 2 is refreshed an hour later: at 25.5 hours only version 1 has changed.
    history = asked(both, [(1, hours(moment)) for moment in (3, 25.5, 26.5, 27)])
    assert history.keys.to_pylist() == [10, 11, 10, 10]
    assert history.items[:, :2].tolist() == [[0, 1], [2, 1], [3, 1], [3, 1]]
    assert history.vectors["pin_test_v1"][:, 0].tolist() == [10.0, 11.0, 10.5, 10.5]
    assert history.vectors["pin_test_v2"].tolist() == [[x] * 3 for x in (10.0, 11.0, 10.0, 10.5)]
    subset = log.with_vectors(store, "both", views=["pin_test_v2"], backfills=True)
    assert list(asked(subset, [(1, hours(3))]).vectors) == ["pin_test_v2"]
    with pytest.raises(ConfigError, match="user_test_v1"):
        log.with_vectors(store, "both", views=["user_test_v1"])


def test_later_vectors_change_nothing(
    snapshots: Kitchen, clicks: list[Row], tmp_path: Path, impressions: Callable[..., pa.Table]
) -> None:
    store = snapshots.store()
    log = loaded(tmp_path, clicks)
    wanted = [(1, hours(3)), (1, hours(30))]
    before = asked(log.with_vectors(store, "rich", backfills=True), wanted)
    keyed = {"user": {1: [9.0] * 4}, "pin": {10: [9.0] * 4, 11: [9.0] * 4}}
    snapshots.snapshot(Version(1), hours(30.001), keyed)
    after = log.with_vectors(store, "rich", backfills=True)
    same(before, asked(after, wanted))
    assert asked(after, [(1, hours(31))]).vectors["pin_test_v1"][0].tolist() == [9.0] * 4
    # What was written today was not known then.
    known = asked(log.with_vectors(store, "rich"), wanted)
    assert not known.present["pin_test_v1"].any()
