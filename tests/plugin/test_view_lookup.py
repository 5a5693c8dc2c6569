"""A lookup finds what Feast's own point-in-time join gives, row by row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.errors import ConfigError
from provender.plugin.history import MISSING
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot
from provender.plugin.view_lookup import PulledLookup, SnapshotLookup, ViewLookup, open_lookup
from tests.plugin.offline_world import PIN, USER, at, open_store, stamps, view_of

SECOND = 10**9
T0 = 1_772_000_000 * SECOND
#: Far behind all event times: what is written by the tests now was created long after them.
CREATED_LATE = 4_000_000_000 * SECOND
USERS = pa.array([3, 5, 8], pa.int64())
PINS = pa.array(["a", "b", "ключ"])
Found = list[list[float] | None]


def declared(path: Path, entity: Any = USER, ttl: float = 1000) -> FeatureView:
    return embedding_view(
        name=f"{entity.name}_x",
        version=1,
        entity=entity,
        dim=2,
        space="s",
        producer="p",
        ttl=timedelta(seconds=ttl),
        snapshots=path,
    )


def rows_file(path: Path, rows: Sequence[tuple[Any, int, int, list[float] | None]]) -> None:
    keys, event, created, vectors = zip(*rows, strict=True)
    table = pa.table(
        {
            "user_id": pa.array(keys, pa.int64()),
            "event_timestamp": stamps([T0 + each * SECOND for each in event]),
            "created_timestamp": stamps([T0 + each * SECOND for each in created]),
            "embedding": pa.array(vectors, pa.list_(pa.float32())),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def refresh(folder: Path, view: FeatureView, when: int, keys: pa.Array) -> None:
    vectors = np.array([[when, n] for n in range(len(keys))], np.float32).reshape(-1, 2)
    time = at(T0 + when * SECOND)
    write_snapshot(
        folder, spec_of(view), time, keys, vectors, RunInfo("r", "p", "c" * 64, time, time)
    )


def found(lookup: ViewLookup, asked: Sequence[tuple[int, int]]) -> Found:
    """The vectors of (place in the keys, nanoseconds) pairs."""
    positions = lookup.find(
        np.array([place for place, _ in asked], np.int64),
        np.array([time for _, time in asked], np.int64),
    )
    return [
        None if each == MISSING else lookup.take(np.array([each]))[0].tolist() for each in positions
    ]


def one_by_one(
    store: FeatureStore,
    view: str,
    keys: pa.Array,
    asked: Sequence[tuple[int, int]],
    backfills: bool,
) -> Found:
    """The same through Feast's get_historical_features, one row at a time."""
    name = "user_id" if pa.types.is_integer(keys.type) else "pin_id"
    answers: Found = []
    for place, time in asked:
        frame = {name: [keys[place].as_py()], "event_timestamp": stamps([time])}
        job = store.get_historical_features(
            entity_df=pa.table(frame),
            features=[f"{view}:embedding"],
            filter_by_created_timestamp=not backfills,
        )
        answers += job.to_arrow()["embedding"].to_pylist()
    return answers


ROWS = st.lists(
    st.tuples(
        st.sampled_from([3, 5, 7]),
        st.integers(0, 12),
        st.integers(0, 12),
        st.integers(0, 9).map(lambda n: [float(n), 0.5]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[:3],
)


@settings(max_examples=12, deadline=None)
@given(rows=ROWS, backfills=st.booleans())
def test_rows_of_the_users_own_are_found_as_feast_joins_them(rows: Any, backfills: bool) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "rows" / "own.parquet"
        rows_file(path, rows)
        store = open_store(Path(name), [declared(path, ttl=4)])
        lookup = open_lookup(store, "user_x_v1", USERS, backfills=backfills)
        assert isinstance(lookup, PulledLookup)
        asked = [(place, T0 + second * SECOND) for place in range(3) for second in (0, 3, 7, 16)]
        expected = one_by_one(store, "user_x_v1", USERS, asked, backfills)
        assert found(lookup, asked) == expected


def test_a_row_without_a_vector_hides_older_ones(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [(3, 1, 1, [1.0, 1.0]), (3, 3, 3, None), (3, 5, 5, [5.0, 5.0]), (3, 7, 7, [7.0, nan])]
    rows_file(tmp_path / "rows" / "own.parquet", rows)
    store = open_store(tmp_path, [declared(tmp_path / "rows" / "own.parquet")])
    lookup = open_lookup(store, "user_x_v1", USERS)
    asked = [(0, T0 + second * SECOND) for second in (2, 4, 6, 8)]
    assert found(lookup, asked) == [[1.0, 1.0], None, [5.0, 5.0], None]
    positions = lookup.find(np.zeros(2, np.int64), T0 + SECOND * np.array([2, 6]))
    assert lookup.event(positions).tolist() == [T0 + SECOND, T0 + 5 * SECOND]


REFRESHES = st.dictionaries(
    st.integers(0, 12), st.sets(st.sampled_from([3, 5, 7])), min_size=1, max_size=4
)


@settings(max_examples=12, deadline=None)
@given(refreshes=REFRESHES)
def test_snapshots_are_found_as_feast_joins_them(refreshes: dict[int, set[int]]) -> None:
    with TemporaryDirectory() as name:
        view = declared(Path(name) / "snapshots", ttl=4)
        for when, keys in refreshes.items():
            refresh(Path(name) / "snapshots", view, when, pa.array(sorted(keys), pa.int64()))
        store = open_store(Path(name), [view])
        lookup = open_lookup(store, "user_x_v1", USERS, backfills=True)
        asked = [(place, T0 + second * SECOND) for place in range(3) for second in (0, 3, 7, 16)]
        assert found(lookup, asked) == one_by_one(store, "user_x_v1", USERS, asked, True)
        known = open_lookup(store, "user_x_v1", USERS)
        asked = [(place, CREATED_LATE) for place in range(3)] + asked
        assert found(known, asked) == one_by_one(store, "user_x_v1", USERS, asked, False)


@pytest.fixture
def text(tmp_path: Path) -> FeatureStore:
    view = declared(tmp_path / "snapshots", PIN, ttl=100)
    refresh(tmp_path / "snapshots", view, 1, pa.array(["a", "x", "ключ"]))
    refresh(tmp_path / "snapshots", view, 5, pa.array(["a"]))
    return open_store(tmp_path, [view, view_of(tmp_path / "none.parquet")])


def test_text_keys_and_no_key_at_all(text: FeatureStore) -> None:
    lookup = open_lookup(text, "pin_x_v1", PINS, backfills=True)
    assert isinstance(lookup, SnapshotLookup)
    later = T0 + 9 * SECOND
    asked = [(0, later), (1, later), (2, later), (-1, later), (0, T0 + SECOND), (2, T0)]
    assert found(lookup, asked) == [[5.0, 0.0], None, [1.0, 2.0], None, [1.0, 0.0], None]


def test_a_position_tells_when_its_vector_is_from(text: FeatureStore) -> None:
    lookup = open_lookup(text, "pin_x_v1", PINS, backfills=True)
    positions = lookup.find(np.array([2, 0]), np.full(2, T0 + 9 * SECOND))
    assert lookup.event(positions).tolist() == [T0 + SECOND, T0 + 5 * SECOND]


def test_another_process_finds_the_same_though_there_was_a_refresh(
    text: FeatureStore, tmp_path: Path
) -> None:
    lookup = open_lookup(text, "pin_x_v1", PINS, backfills=True)
    asked = [(place, T0 + 9 * SECOND) for place in range(3)]
    before = found(lookup, asked)
    sent = copy.copy(lookup)  # As pickling does it, without what was opened.
    refresh(tmp_path / "snapshots", declared(tmp_path / "snapshots", PIN), 7, PINS)
    assert found(sent, asked) == before
    assert found(open_lookup(text, "pin_x_v1", PINS, backfills=True), asked) != before


def test_views_that_cannot_be_looked_up(text: FeatureStore) -> None:
    for name, keys, told in (
        ("pin_y_v1", PINS, "no such feature view"),
        ("stats", PINS, "another feature view"),
        ("pin_x_v1", USERS, "keys of type string"),
    ):
        with pytest.raises(ConfigError, match=told):
            open_lookup(text, name, keys)
