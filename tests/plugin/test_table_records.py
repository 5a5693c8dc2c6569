"""What online tables remember of the runs they were loaded from, on each database."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore, Project
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin import compute_engine, online_view
from provender.plugin.embedding_view import spec_of
from provender.plugin.errors import LoadLockedError
from provender.plugin.manifest import RunRecord
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.snapshot_source import runs_within
from provender.plugin.spec import SPEC_TAG
from provender.plugin.table_records import TableRecord, note_load
from tests.plugin.garbage_world import GarbageWorld, open_garbage_world, run_id
from tests.plugin.online_world import OnlineWorld, number_view, vector_batch, vector_view
from tests.plugin.release_world import DAY, T


@pytest.fixture
def world(online: OnlineWorld) -> Iterator[GarbageWorld]:
    """A version of ten days' snapshots, of which nothing is loaded."""
    made = open_garbage_world(online)
    made.released.declare(1)
    made.refresh(1, range(10))
    yield made
    made.tear_down()


def loaded(world: GarbageWorld, view: str = "user_transra_v1") -> list[int]:
    """The days whose runs a view's table is noted with."""
    runs = record(world, view).runs
    return [round((run.as_of - T) / DAY) for run in runs]


def record(world: GarbageWorld, view: str = "user_transra_v1") -> TableRecord:
    found = ProvenderOnlineStore().records(world.store.config)
    return found[f"{world.store.project}_{view}"]


def materialize(world: GarbageWorld, start: datetime, end: datetime) -> None:
    world.store.materialize(start, end, ["user_transra_v1"])


class TestThroughTheEngine:
    def test_before_any_load_there_are_tables_without_runs(self, world: GarbageWorld) -> None:
        found = ProvenderOnlineStore().records(world.store.config)
        assert {each.view for each in found.values()} == {"user_transra_v1", "pin_transra_v1"}
        for each in found.values():
            assert (each.project, each.runs, each.loaded_at) == (world.store.project, (), None)

    @pytest.mark.parametrize(
        ("start", "end", "days"),
        [
            (T - DAY, T, [0]),
            (T, T, [0]),
            (T + DAY / 4, T + DAY / 2, []),
            (T + DAY, T + 2 * DAY, [1, 2]),
            (T + DAY / 2, T + 1.5 * DAY, [1]),
            (T - 9 * DAY, T + 99 * DAY, [6, 7, 8, 9]),  # Three days are the ttl.
        ],
    )
    @pytest.mark.parametrize("naive", [False, True])
    def test_the_runs_of_the_span(
        self, world: GarbageWorld, start: datetime, end: datetime, days: list[int], naive: bool
    ) -> None:
        before = datetime.now(UTC)
        span = [time.replace(tzinfo=None) if naive else time for time in (start, end)]
        materialize(world, *span)
        assert loaded(world) == days
        found = record(world)
        assert found.loaded_at is not None
        assert before <= found.loaded_at <= datetime.now(UTC)
        by_id = {s.manifest.run_id: s.manifest.record for s in world.snapshots("user_transra_v1")}
        assert list(found.runs) == [by_id[run_id(1, T + day * DAY)] for day in days]
        assert loaded(world, "pin_transra_v1") == []

    def test_loads_add_up_within_the_ttl_in_whatever_order(self, world: GarbageWorld) -> None:
        for day, known in ((4, [4]), (2, [2, 4]), (0, [2, 4]), (5, [2, 4, 5]), (5, [2, 4, 5]),
                           (9, [9])):  # fmt: skip
            materialize(world, T + day * DAY, T + day * DAY)
            assert loaded(world) == known, day

    def test_a_load_that_breaks_off_leaves_the_former_note(
        self, world: GarbageWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        materialize(world, T, T)
        former = record(world)
        served = _users(world)
        whole = compute_engine._batches

        def broken(job: Any) -> Iterator[pa.RecordBatch]:
            yield next(whole(job)).slice(0, 5)
            raise ConnectionError("the bucket went away")

        monkeypatch.setattr(compute_engine, "_batches", broken)
        with pytest.raises(ConnectionError):
            materialize(world, T + DAY, T + DAY)
        assert record(world) == former
        assert np.array_equal(_users(world), served)

    def test_nothing_is_noted_of_views_of_other_sources(self, world: GarbageWorld) -> None:
        own = world.released.repo / "own.parquet"
        user = world.store.get_entity("user")
        world.released.declare(2, snapshots=own, entities=[user])
        (written,) = [s for s in world.snapshots("user_transra_v1") if s.manifest.as_of == T]
        own.write_bytes((written.path / "part-0.parquet").read_bytes())
        world.store.materialize(T, T, ["user_transra_v2"])
        found = record(world, "user_transra_v2")
        assert found.runs == ()
        assert found.loaded_at is not None


def _users(world: GarbageWorld) -> Any:
    view = world.store.get_feature_view("user_transra_v1")
    rows = ProvenderOnlineStore().read_columns(
        world.store.config, view, {"user_id": list(range(40))}
    )
    return rows.columns["embedding"].values


def test_apply_notes_a_table_and_a_drop_forgets_it(online: OnlineWorld) -> None:
    config, view = online.config(), number_view()
    assert online.store.records(config) == {}
    online.apply(view, vector_view(online.root))
    names = {f"{online.project}_numbers", f"{online.project}_pin_test_v1"}
    assert set(online.store.records(config)) == names
    online.apply(view)  # Again: nothing is noted twice, and no note is lost.
    online.store.update(config, [view], [], [], [], True)
    assert set(online.store.records(config)) == names - {f"{online.project}_numbers"}
    online.store.teardown(config, [vector_view(online.root)], [])
    assert online.store.records(config) == {}


def test_applied_again_a_table_keeps_its_runs(online: OnlineWorld) -> None:
    view, run = vector_view(online.root), _record(T)
    online.apply(view)
    online.store.load(
        online.config(),
        view,
        [vector_batch([1], [[1, 2, 3, 4]])],
        timestamp_field="event_timestamp",
        created_field="created_timestamp",
        runs=[run],
    )
    online.apply(view)
    (found,) = online.store.records(online.config()).values()
    assert found.runs == (run,)


def _load(world: OnlineWorld, value: float, day: int) -> None:
    world.store.load(
        world.config(),
        vector_view(world.root),
        [vector_batch([1], [[value] * 4], event=day, created=day)],
        timestamp_field="event_timestamp",
        created_field="created_timestamp",
        runs=[_record(T + day * DAY)],
    )


def _load_and_stop(world: OnlineWorld, ready: Any) -> None:
    """A load that stands still between its note and its commit."""

    def noted(*arguments: Any) -> None:
        note_load(*arguments)
        ready.set()
        threading.Event().wait(60)

    online_view.note_load = noted  # type: ignore[assignment, attr-defined]
    _load(world, 2, 1)


def test_a_load_that_is_killed_before_its_commit_has_noted_nothing(online: OnlineWorld) -> None:
    fork = multiprocessing.get_context("fork")
    view = vector_view(online.root)
    online.apply(view)
    _load(online, 1, 0)
    former = online.store.records(online.config())
    ready = fork.Event()
    process = fork.Process(target=_load_and_stop, args=(online, ready))
    process.start()
    assert ready.wait(60)
    assert online.store.records(online.config()) == former
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert online.store.records(online.config()) == former
    rows = online.store.read_columns(online.config(), view, {"pin_id": [1]})
    assert rows.columns["embedding"].values.tolist() == [[1.0] * 4]
    for _ in range(100):  # A server may need a moment to notice; the lock goes with the connection.
        try:
            _load(online, 2, 1)
            break
        except LoadLockedError:
            threading.Event().wait(0.1)
    (found,) = online.store.records(online.config()).values()
    assert [run.as_of for run in found.runs] == [T, T + DAY]


def test_each_project_sees_its_own(online: OnlineWorld) -> None:
    other = OnlineWorld(online.kind, online.root, online.url, f"{online.project}_b")
    online.apply(number_view())
    other.apply(number_view())
    for each in (online, other):
        assert set(each.store.records(each.config())) == {f"{each.project}_numbers"}


def test_native_versions_are_tables_of_their_own(online: OnlineWorld) -> None:
    config, view = online.config(versioning=True), number_view()
    for version in (0, 1, 2):
        view.current_version_number = version
        online.apply(view, config=config)
    found = online.store.records(config)
    assert set(found) == {f"{online.project}_numbers{end}" for end in ("", "_v1", "_v2")}
    assert {each.view for each in found.values()} == {"numbers"}


def _record(as_of: datetime) -> RunRecord:
    return RunRecord(
        run_id=f"run-{as_of:%Y%m%d%H%M}",
        producer="p",
        config_hash="c",
        code_version="1",
        as_of=as_of,
        window_start=as_of - DAY,
        window_end=as_of,
        parent=None,
        checksum="d",
    )


@given(st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=5))
def test_what_is_noted_is_all_loaded_within_the_ttl_of_the_newest(loads: list[list[int]]) -> None:
    """Against a cursor of a dict: `note_load` alone, load after load."""
    row: dict[str, Any] = {"runs": "[]"}

    class Cursor:
        def execute(self, sql: str, values: tuple[Any, ...]) -> None:
            if sql.startswith("UPDATE"):
                row["runs"] = values[0]

        def fetchone(self) -> tuple[str]:
            return (row["runs"],)

    seen: set[int] = set()
    for days in loads:
        runs = [_record(T + day * DAY) for day in days]
        note_load(Cursor(), "?", "t", runs, timedelta(days=3))
        # A run that was dropped for its age stays so: the newest only moves on.
        seen = {day for day in {*seen, *days} if day >= max({*seen, *days}) - 3}
        fields = {"name": "t", "project": "p", "view": "v"}
        noted = TableRecord(**fields, runs=json.loads(row["runs"])).runs
        assert [run.as_of for run in noted] == [T + day * DAY for day in sorted(seen)]


def test_runs_within_a_span_of_files_without_manifests_are_none(tmp_path: Path) -> None:
    assert runs_within(object(), T, T) == []
    view = vector_view(tmp_path)
    assert runs_within(view.batch_source, T, T) == []


@pytest.mark.parametrize("registry", ["file", "sql"])
def test_what_a_version_is_stands_in_the_registrys_tags(
    tmp_path: Path, registry: str, request: pytest.FixtureRequest
) -> None:
    """On the view and on its source, for Feast's UI shows either."""
    address = f"sqlite:///{tmp_path}/registry.sqlite"
    settings = {"registry_type": "sql", "path": address} if registry == "sql" else "data/r.db"
    world = open_garbage_world(OnlineWorld("sqlite", tmp_path, "sqlite:///data/o.db"),
                               registry=settings)  # fmt: skip
    world.released.declare(1, nested_dims=(2,), family="fam", space="s")
    world.released.declare(2, nested_dims=(2, 3), family="fam", space="s", anchored_to=1)
    store = FeatureStore(repo_path=str(world.released.repo))
    assert isinstance(store.get_project(world.store.project), Project)
    view, source = store.get_feature_view("user_transra_v2"), "user_transra_v2_snapshots"
    for tags in (view.tags, store.get_data_source(source).tags):
        assert {name: value for name, value in tags.items() if name != SPEC_TAG} == {
            "provender.version": "2",
            "provender.dim": "4",
            "provender.nested_dims": "2, 3",
            "provender.dtype": "float32",
            "provender.space": "s",
            "provender.producer": "transra",
            "provender.family": "fam",
            "provender.anchored_to": "1",
        }
        assert tags[SPEC_TAG] == spec_of(world.released.declared[2][0]).model_dump_json()
    assert "provender.anchored_to" not in store.get_feature_view("user_transra_v1").tags
