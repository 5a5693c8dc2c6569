"""Writers that are killed, cut off or run out of disk: old or new rows are read, never mixed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from feast import FeatureView, RepoConfig

from provender.plugin.errors import LoadLockedError, OnlineStoreError
from provender.plugin.online_rows import OnlineRows
from provender.plugin.online_store import ProvenderOnlineStore
from tests.plugin.online_world import (
    SERVERS,
    START,
    OnlineWorld,
    floats,
    number_view,
    open_world,
    pin,
    vector_batch,
    vector_view,
)

ROWS = 400
#: Starting afresh would take seconds of imports a process; the store is made for forks as well.
FORK = multiprocessing.get_context("fork")


def whole_batch(value: float, event: float) -> pa.RecordBatch:
    return vector_batch(range(ROWS), np.full((ROWS, 4), value), event=event)


def halves(value: float, event: float, between: Any) -> Iterator[pa.RecordBatch]:
    """Two batches of all keys, with something happening between them."""
    batch = whole_batch(value, event)
    yield batch.slice(0, ROWS // 2)
    between()
    yield batch.slice(ROWS // 2)


def values_of(world: OnlineWorld, view: FeatureView) -> set[float]:
    rows = world.store.read_columns(world.config(), view, {"pin_id": np.arange(ROWS)})
    return set(rows.columns["embedding"].values.reshape(-1).tolist())


def load_and_stop(config: RepoConfig, view: FeatureView, ready: Any) -> None:
    """Half a load, and then nothing for a long time."""

    def stop() -> None:
        ready.set()
        threading.Event().wait(60)

    ProvenderOnlineStore().load(
        config,
        view,
        halves(2, 2, stop),
        timestamp_field="event_timestamp",
        created_field="created_timestamp",
    )


def test_a_killed_load_leaves_the_old_rows_and_the_next_one_repairs(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, whole_batch(1, 1))
    ready = FORK.Event()
    process = FORK.Process(target=load_and_stop, args=(online.config(), view, ready))
    process.start()
    assert ready.wait(60)

    with pytest.raises(LoadLockedError, match="pin_test_v1: found another load of it under way"):
        online.load(view, whole_batch(3, 3))
    assert values_of(online, view) == {1}
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    assert values_of(online, view) == {1}
    # A server may need a moment to notice; the lock goes with the connection.
    for _ in range(100):
        try:
            online.load(view, whole_batch(2, 2))
            break
        except LoadLockedError:
            threading.Event().wait(0.1)
    assert values_of(online, view) == {2}


def test_a_load_that_fails_half_way_leaves_the_old_rows(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, whole_batch(1, 1))

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        online.load(view, halves(2, 2, fail))

    assert values_of(online, view) == {1}
    online.load(view, whole_batch(2, 2))
    assert values_of(online, view) == {2}


def test_loads_of_two_views_do_not_lock_each_other(online: OnlineWorld, tmp_path: Path) -> None:
    if online.kind == "sqlite":
        pytest.skip("SQLite has one writer at a time: the second waits for the first")
    one, two = vector_view(tmp_path), vector_view(tmp_path, version=2)
    online.apply(one, two)

    online.load(one, halves(2, 2, lambda: online.load(two, whole_batch(3, 3))))

    assert values_of(online, one) == {2}
    assert values_of(online, two) == {3}


def read_many(config: RepoConfig, view: FeatureView, stop: Any, found: Any) -> None:
    """Read all rows again and again; report what was ever seen in one request."""
    store, seen = ProvenderOnlineStore(), set()
    reads = 0
    while not stop.is_set() or reads < 3:
        rows = store.read_columns(config, view, {"pin_id": np.arange(ROWS)})
        seen.add(tuple(sorted(set(rows.columns["embedding"].values.reshape(-1).tolist()))))
        reads += 1
    found.put((reads, sorted(seen)))


def test_eight_readers_during_writes_see_old_or_new_and_never_a_mix(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, whole_batch(0, 0))
    stop, found = FORK.Event(), FORK.Queue()
    args = (online.config(), view, stop, found)
    processes = [FORK.Process(target=read_many, args=args) for _ in range(2)]
    threads = [threading.Thread(target=read_many, args=args) for _ in range(6)]
    everyone: list[Any] = [*processes, *threads]
    for each in everyone:
        each.start()

    for day in range(1, 30):
        online.load(view, halves(day, day, lambda: None))
    stop.set()
    results = [found.get(timeout=60) for _ in range(8)]
    for each in everyone:
        each.join()

    assert all(len(request) == 1 for _, seen in results for request in seen)
    assert len({request for _, seen in results for request in seen}) > 1
    assert min(reads for reads, _ in results) >= 3


def test_pushes_from_many_threads_all_arrive(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    online.apply(view)
    order = np.random.default_rng(0)
    plans = [order.permutation(30).tolist() for _ in range(6)]

    def push(number: int) -> None:
        for start in range(0, 30, 10):
            data = [
                (pin(key), {"embedding": floats([number] * 4)}, START, None)
                for key in plans[number][start : start + 10]
            ]
            online.store.online_write_batch(config, view, data, None)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = online.store.read_columns(config, view, {"pin_id": np.arange(30)})
    assert rows.present.all()
    vectors = rows.columns["embedding"].values
    assert (vectors == vectors[:, :1]).all()


def test_a_full_disk_leaves_the_old_rows(tmp_path: Path) -> None:
    world = open_world("sqlite", tmp_path)
    view = vector_view(tmp_path, dim=512, nested_dims=())
    world.apply(view)
    keys = range(100)
    world.load(view, vector_batch(keys, np.ones((100, 512)), event=1))
    engine = world.database().engine
    pages = world.execute("PRAGMA page_count")[0][0]
    world.database().dispose()

    def limit(connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    sa.event.listen(engine, "connect", limit)
    more = vector_batch(range(1000), np.full((1000, 512), 2.0), event=2)
    with pytest.raises(OnlineStoreError, match="database or disk is full"):
        world.load(view, more)
    read: OnlineRows = world.store.read_columns(world.config(), view, {"pin_id": keys})
    assert (read.columns["embedding"].values == 1).all()

    sa.event.remove(engine, "connect", limit)
    world.database().dispose()
    world.load(view, more)
    read = world.store.read_columns(world.config(), view, {"pin_id": np.arange(1000)})
    assert (read.columns["embedding"].values == 2).all()
    world.tear_down()


def disconnect_all(world: OnlineWorld) -> None:
    """End all of the store's connections at the server."""
    engine = sa.create_engine(SERVERS["postgres"])
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"
    with engine.connect() as connection:
        connection.execute(sa.text(ended), {"name": world.project})
    engine.dispose()


@pytest.fixture
def named(tmp_path: Path) -> Iterator[OnlineWorld]:
    """A world on PostgreSQL whose connections can be told from those of other tests."""
    world = open_world("postgres", tmp_path)
    joint = "&" if "?" in world.url else "?"
    world.url += f"{joint}application_name={world.project}"
    yield world
    world.tear_down()


def test_a_connection_dropped_in_mid_load_loses_nothing(named: OnlineWorld, tmp_path: Path) -> None:
    view = vector_view(tmp_path)
    named.apply(view)
    named.load(view, whole_batch(1, 1))

    with pytest.raises(OnlineStoreError, match="pin_test_v1 at postgresql"):
        named.load(view, halves(2, 2, lambda: disconnect_all(named)))

    assert values_of(named, view) == {1}
    named.load(view, whole_batch(2, 2))
    assert values_of(named, view) == {2}


def test_connections_that_died_in_the_pool_are_replaced(named: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), named.config()
    named.apply(view)

    disconnect_all(named)
    named.load(view, whole_batch(1, 1))
    disconnect_all(named)
    assert values_of(named, view) == {1}
    disconnect_all(named)
    row = {"embedding": floats([2] * 4)}
    named.store.online_write_batch(
        config, view, [(pin(0), row, START.replace(year=2030), None)], None
    )
    disconnect_all(named)
    assert values_of(named, view) == {1, 2}


def test_a_forked_child_has_connections_of_its_own(online: OnlineWorld, tmp_path: Path) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, whole_batch(1, 1))
    assert values_of(online, view) == {1}
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        answer = b"no"
        try:
            answer = b"ok" if values_of(online, view) == {1} else b"other"
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reading, 10) == b"ok"
    assert values_of(online, view) == {1}
    os.close(reading)
    os.close(writing)


def apply_views(world: OnlineWorld, views: list[FeatureView], barrier: Any, found: Any) -> None:
    barrier.wait()
    try:
        world.apply(*views)
        found.put("applied")
    except BaseException as error:
        found.put(repr(error))


def test_several_that_apply_at_once_all_do(online: OnlineWorld) -> None:
    views = [number_view(f"v{number}") for number in range(4)]
    barrier, found = FORK.Barrier(5), FORK.Queue()
    processes = [
        FORK.Process(target=apply_views, args=(online, views, barrier, found)) for _ in range(5)
    ]
    for process in processes:
        process.start()

    assert [found.get(timeout=60) for _ in processes] == ["applied"] * 5
    for process in processes:
        process.join()
