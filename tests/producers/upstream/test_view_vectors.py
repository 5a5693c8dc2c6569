"""Views as inputs: pulled once, they give what Feast's point-in-time join gives for every row."""

from __future__ import annotations

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
from provender.plugin.errors import ConfigError, SnapshotError
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot
from provender.producers.upstream.view_vectors import ViewVectors, pull_views
from tests.plugin.offline_world import PIN, USER, asked, at, open_store, retrieve, stamps, view_of

SECOND = 10**9
T0 = 1_772_000_000 * SECOND
USERS = pa.array([3, 5, 8], pa.int64())
PINS = pa.array(["a", "b", "ключ"])
#: Rows of (key, event second, created second, vector or None).
Row = tuple[Any, int, int, list[float] | None]


def second(number: float) -> Any:
    return at(T0 + round(number * SECOND))


def declared(folder: Path | str, entity: Any, ttl: float = 1000, version: int = 1) -> FeatureView:
    return embedding_view(
        name=f"{entity.name}_x",
        version=version,
        entity=entity,
        dim=2,
        space="s",
        producer="p",
        ttl=timedelta(seconds=ttl),
        snapshots=folder,
    )


def write_rows(path: Path, rows: Sequence[Row], key: str, kind: Any) -> None:
    """A Parquet file of the user's own, with created times and vectors as they are given."""
    keys, event, created, vectors = zip(*rows, strict=True)
    table = pa.table(
        {
            key: pa.array(keys, kind),
            "event_timestamp": stamps([T0 + each * SECOND for each in event]),
            "created_timestamp": stamps([T0 + each * SECOND for each in created]),
            "embedding": pa.array(vectors, pa.list_(pa.float32())),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def write_refreshes(folder: Path, view: FeatureView, held: dict[int, list[Any]], kind: Any) -> None:
    for when, keys in held.items():
        vectors = np.array([[when, n] for n in range(len(keys))], np.float32).reshape(-1, 2)
        run = RunInfo("run", "p", "c0ffee", second(when), second(when))
        write_snapshot(folder, spec_of(view), second(when), pa.array(keys, kind), vectors, run)


def pulled(
    store: FeatureStore, folder: Path, keys: pa.Array, entity: str = "user", **changes: Any
) -> ViewVectors:
    given: dict[str, Any] = {"start": second(0), "end": second(100), "backfills": True} | changes
    name = f"{entity}_x_v1"
    return pull_views(store, {name: entity}, {entity: keys}, folder=folder, **given)[name]


def found(view: ViewVectors, asked: Sequence[tuple[int, float]]) -> list[list[float] | None]:
    """The vectors of (number, second)s."""
    ids = np.array([number for number, _ in asked])
    times = np.array([(T0 + round(when * SECOND)) // 1000 for _, when in asked])
    return [None if at < 0 else view.vectors[at].tolist() for at in view.at(ids, times)]


def joined(
    store: FeatureStore,
    entity: Any,
    keys: pa.Array,
    rows: Sequence[tuple[int, float]],
    strict: bool,
) -> list[list[float] | None]:
    """What Feast's own call gives for an entity frame of the same keys and times."""
    frame = asked(
        [(keys[number].as_py(), T0 + round(when * SECOND)) for number, when in rows],
        key=entity.join_key,
    )
    job = retrieve(
        store, frame, [f"{entity.name}_x_v1:embedding"], filter_by_created_timestamp=strict
    )
    vectors: list[list[float] | None] = job.to_arrow()["embedding"].to_pylist()
    return vectors


TIMES = st.integers(0, 6)
EDGES = st.builds(lambda second, step: second + step * 1e-6, TIMES, st.integers(-1, 1))
ASKED = st.lists(st.tuples(st.integers(0, 2), EDGES), min_size=1, max_size=12)
TTLS = st.sampled_from([1, 2, 1000])


@settings(max_examples=25, deadline=None)
@given(st.data(), ASKED, TTLS, st.booleans(), st.booleans())
def test_rows_of_the_users_own_are_joined_as_feast_joins_them(
    data: st.DataObject, rows: list[tuple[int, float]], ttl: int, strings: bool, backfills: bool
) -> None:
    """Several refreshes, late ones, some of which lack users; unknown keys; times at all edges."""
    entity, keys = (PIN, PINS) if strings else (USER, USERS)
    key = st.sampled_from([*keys.to_pylist(), "zz" if strings else 6])
    held = data.draw(
        st.lists(st.tuples(key, TIMES, st.integers(0, 8)), min_size=1, max_size=12, unique=True)
    )
    facts: list[Row] = [(k, e, c, [float(n), float(e)]) for n, (k, e, c) in enumerate(held)]
    facts += [(keys[0].as_py(), -1, -1, [-1.0, -1.0])]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "own.parquet", facts, entity.join_key, keys.type)
        store = open_store(folder, [declared(str(folder / "own.parquet"), entity, ttl)])
        view = pulled(store, folder, keys, entity.name, end=second(10), backfills=backfills)
        expected = joined(store, entity, keys, rows, strict=not backfills)
    assert found(view, rows) == expected


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        TIMES, st.lists(st.sampled_from([3, 5, 6]), unique=True, min_size=1).map(sorted), min_size=1
    ),
    ASKED,
    TTLS,
)
def test_snapshots_are_joined_as_feast_joins_them(
    held: dict[int, list[Any]], rows: list[tuple[int, float]], ttl: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        view = declared(folder / "s", USER, ttl)
        held = {**held, -1: [3]}
        write_refreshes(folder / "s", view, held, pa.int64())
        store = open_store(folder, [view])
        found_here = found(pulled(store, folder, USERS), rows)
        expected = joined(store, USER, USERS, rows, strict=False)
    assert found_here == expected


def own(folder: Path, rows: Sequence[Row], ttl: float = 1000) -> FeatureStore:
    write_rows(folder / "own.parquet", rows, "user_id", pa.int64())
    return open_store(folder, [declared(str(folder / "own.parquet"), USER, ttl)])


def test_a_row_without_a_vector_hides_older_ones(tmp_path: Path) -> None:
    nan = float("nan")
    rows: list[Row] = [(3, 1, 1, [1, 1]), (3, 2, 2, None), (3, 4, 4, [4, 4]), (3, 5, 5, [5, nan])]
    view = pulled(own(tmp_path, rows), tmp_path, USERS)
    when = [(0, 1.5), (0, 2), (0, 4), (0, 5), (1, 5)]
    assert found(view, when) == [[1, 1], None, [4, 4], None, None]
    assert view.vectors.tolist() == [[1, 1], [4, 4]]


def test_vectors_after_the_cut_are_never_used(tmp_path: Path) -> None:
    store = own(tmp_path, [(3, 1, 9, [1, 1]), (3, 5, 5, [5, 5]), (3, 6, 6, [6, 6])])
    view = pulled(store, tmp_path, USERS, end=second(5))
    assert found(view, [(0, 4), (0, 5), (0, 50)]) == [[1, 1], [5, 5], [5, 5]]
    assert len(view.vectors) == 2


def test_what_has_run_out_before_the_start_is_not_pulled(tmp_path: Path) -> None:
    store = own(tmp_path, [(3, 1, 1, [1, 1]), (3, 4, 4, [4, 4])], ttl=3)
    view = pulled(store, tmp_path, USERS, start=second(5))
    assert len(view.vectors) == 1
    assert found(view, [(0, 5), (0, 7), (0, 7.000001)]) == [[4, 4], [4, 4], None]


def test_vectors_are_mapped_and_leave_nothing_behind(tmp_path: Path) -> None:
    store = own(tmp_path, [(3, 1, 1, [1, 1])])
    view = pulled(store, tmp_path / "work", USERS)
    assert not view.vectors.flags.owndata
    assert list((tmp_path / "work").iterdir()) == []
    assert view.dim == 2


def refused(store: FeatureStore, folder: Path, name: str, entity: str = "user") -> str:
    keys = {"user": USERS, "pin": PINS}
    with pytest.raises(ConfigError) as refusal:
        span = second(0), second(9)
        pull_views(store, {name: entity}, keys, *span, folder, backfills=False)
    return str(refusal.value)


def test_views_that_cannot_be_used(tmp_path: Path) -> None:
    pin_view = declared(tmp_path / "s", PIN)
    stats = view_of(tmp_path / "stats.parquet")
    user_view = declared(tmp_path / "s", USER)
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "stats.parquet")
    store = open_store(tmp_path, [pin_view, user_view, stats])
    expected = "expected an embedding view of user: user_x_v1"
    assert f"no such feature view; {expected}" in refused(store, tmp_path, "user_y_v1")
    assert f"found another feature view; {expected}" in refused(store, tmp_path, "stats")
    assert f"an embedding view of pin; {expected}" in refused(store, tmp_path, "pin_x_v1")
    assert "found no snapshot;" in refused(store, tmp_path, "user_x_v1")
    assert "Produce it first" in refused(store, tmp_path, "user_x_v1")


def test_vectors_that_cannot_be_used(tmp_path: Path) -> None:
    future = own(tmp_path / "future", [(3, 50, 1, [1, 1])])
    assert "found no vector by 2026" in refused(future, tmp_path, "user_x_v1")
    late = own(tmp_path / "late", [(3, 1, 50, [1, 1])])
    assert "computed later, and `backfills: false`" in refused(late, tmp_path, "user_x_v1")
    others = own(tmp_path / "others", [(4, 1, 1, [1, 1])])
    assert "only vectors of other keys" in refused(others, tmp_path, "user_x_v1")
    store = own(tmp_path / "keys", [(3, 1, 1, [1, 1])])
    with pytest.raises(ConfigError, match="keys of type int64; expected string"):
        pulled(store, tmp_path, PINS)
    write_rows(tmp_path / "keys" / "own.parquet", [(3, 1, 1, [1])], "user_id", pa.int64())
    with pytest.raises(SnapshotError, match="a vector of 1 floats; expected 2"):
        pulled(store, tmp_path, USERS)
