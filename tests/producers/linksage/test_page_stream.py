"""Crawled pages from Redis and push sources: readable online and by joins, once, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from feast.data_source import PushMode

from provender.plugin.cli import main
from provender.plugin.errors import ConfigError
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.page_stream import PageStream
from provender.producers.linksage.pushed_pages import PushedPages
from provender.producers.linksage.redis_pages import RedisPages
from provender.producers.linksage.stream_command import _ended_by_signals
from provender.producers.settings_table import keys_of
from tests.producers.linksage.stream_world import (
    AS_OF,
    REDIS,
    StreamWorld,
    client,
    copied,
    make_world,
)

ONCE = Event()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> StreamWorld:
    return make_world(tmp_path_factory.mktemp("stream") / "home")


@pytest.fixture
def world(first: StreamWorld, tmp_path: Path) -> StreamWorld:
    return copied(first, tmp_path / "home")


@pytest.fixture
def crawler(world: StreamWorld) -> Iterator[StreamWorld]:
    """The world with a Redis stream."""
    with client() as redis:
        yield world
        redis.delete(world.stream, f"{world.stream}:bad")


def drained(world: StreamWorld, inbox: Any) -> PageStream:
    stream = world.open(inbox)
    stream.run(ONCE, once=True)
    inbox.close()
    return stream


def counts(stream: PageStream) -> dict[str, int]:
    return {verdict: number for verdict, number in stream.counts.verdicts.items() if number}


def test_vectors_are_readable_online_and_by_joins(crawler: StreamWorld) -> None:
    old = crawler.online(103, 104, 105)
    before = datetime.now(UTC)
    title = "rose rose lily"
    crawler.send(
        crawler.page(3, title="older"),
        crawler.page(3, title=title),
        crawler.page(4),
        crawler.page(5, page_id=900, pins=[5]),
    )
    stream = drained(crawler, crawler.inbox())
    assert counts(stream) == {"changed": 2, "unchanged": 1, "repeated": 1}
    assert stream.counts.messages == len(stream.counts.latencies) == 4
    assert crawler.pending() == 0
    (supplement,) = crawler.supplements
    keys, vectors = supplement.read()
    assert keys.to_pylist() == [103, 900]
    np.testing.assert_array_equal(crawler.online(103, 104, 105, 900)[[0, 3]], vectors)
    np.testing.assert_array_equal(crawler.online(104, 105), old[1:])
    assert np.abs(vectors[0] - old[0]).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    known = supplement.manifest
    assert before < known.as_of <= datetime.now(UTC) + timedelta(seconds=1)
    assert known.supplement_of == known.parent == stream.fresh.base.run_id
    np.testing.assert_array_equal(crawler.joined(103, before), old[0])
    np.testing.assert_array_equal(crawler.joined(103, known.as_of), vectors[0])
    assert np.isnan(crawler.joined(900, before)).all()
    record = stream.online.missing(stream.spec, [supplement])
    assert record == []


def test_what_was_embedded_last_is_not_written_again(crawler: StreamWorld) -> None:
    crawler.send(crawler.page(1), crawler.page(2, title="jam"))
    assert counts(drained(crawler, crawler.inbox())) == {"unchanged": 1, "changed": 1}
    crawler.send(crawler.page(2, title="jam"))
    assert counts(drained(crawler, crawler.inbox())) == {"unchanged": 1}
    assert len(crawler.supplements) == 1
    crawler.send(crawler.page(2))  # As it was when it was refreshed, but not since.
    assert counts(drained(crawler, crawler.inbox())) == {"changed": 1}
    vectors = crawler.supplements[1].read()[1]
    refreshed = crawler.refresh(AS_OF).read()[1]
    np.testing.assert_allclose(vectors[0], refreshed[2], atol=1e-5)
    first, second = (each.manifest.as_of for each in crawler.supplements)
    assert second > first


def test_bad_messages_are_kept_with_their_reasons(crawler: StreamWorld) -> None:
    bad = ["{", json.dumps({"page_id": 1}), json.dumps(crawler.page(1, image=[1.0]))]
    ids = crawler.send(bad[0], crawler.page(1, title="cake"), *bad[1:])
    with client() as redis:
        other = redis.xadd(crawler.stream, {"pages": "x"}).decode()
    stream = drained(crawler, crawler.inbox())
    assert counts(stream) == {"changed": 1, "bad": 4}
    assert crawler.pending() == 0
    kept = crawler.bad()
    assert [each["id"] for each in kept] == [ids[0], ids[2], ids[3], other]
    assert [each["page"] for each in kept[:3]] == bad
    reasons = [
        "no JSON",
        "no column image, title, url",
        "image: 1 numbers instead of 6",
        "no column",
    ]
    for reason, each in zip(reasons, kept, strict=True):
        assert reason in each["reason"]
    assert "x" in kept[3]["page"]


_KILLED = """
import os, signal, sys
from threading import Event
from pathlib import Path
from provender.plugin.home import Home
from tests.producers.linksage.stream_world import StreamWorld
kill = lambda *told: os.kill(os.getpid(), signal.SIGKILL)
from provender.producers.linksage import {module} as module
setattr(module.{name}, "{method}", kill)
world = StreamWorld(Home(Path(sys.argv[1])), sys.argv[2])
world.open(world.inbox()).run(Event(), once=True)
"""


@pytest.mark.parametrize(
    ("module", "name", "method", "written"),
    [
        ("redis_pages", "RedisPages", "done", True),
        ("page_stream", "OnlineRefresh", "add", True),
        ("page_stream", "PageStream", "_write", False),
    ],
)
def test_a_killed_stream_loses_and_doubles_nothing(
    crawler: StreamWorld, module: str, name: str, method: str, written: bool
) -> None:
    crawler.send("{", *(crawler.page(n, title=f"jam {n}") for n in range(5)))
    script = _KILLED.format(module=module, name=name, method=method)
    command = [sys.executable, "-c", script, str(crawler.home.path), crawler.stream]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    assert len(crawler.supplements) == written
    assert crawler.pending() == (5 if method == "done" else 6)

    stream = drained(crawler, crawler.inbox(idle=0))
    assert crawler.pending() == 0
    assert len(crawler.bad()) == 1
    assert counts(stream).get("unchanged", 0) == (5 if written else 0)
    (supplement,) = crawler.supplements
    keys, vectors = supplement.read()
    assert keys.to_pylist() == [100, 101, 102, 103, 104]
    np.testing.assert_array_equal(crawler.online(*keys.to_pylist()), vectors)


def test_a_consumer_comes_back_to_its_own(crawler: StreamWorld) -> None:
    crawler.send(*(crawler.page(n, title="jam") for n in range(5)))
    lost = crawler.inbox("reader").take(3, 0, ONCE, wait=False)
    assert len(lost) == 3
    other = crawler.inbox("other")
    assert len(other.take(9, 0, ONCE, wait=False)) == 2  # The three are not idle for long enough.
    again = crawler.inbox("reader")
    assert [m.id for m in again.take(2, 0, ONCE, wait=False)] == [m.id for m in lost[:2]]
    assert [m.id for m in again.take(2, 0, ONCE, wait=False)] == [lost[2].id]
    assert again.take(2, 0, ONCE, wait=False) == []


def test_two_consumers_share_a_stream(crawler: StreamWorld) -> None:
    """Each message goes to one; of two messages of a page the later one counts, whoever has it."""
    crawler.send(crawler.page(1, title="early"), *(crawler.page(n, title="x") for n in (2, 3)))
    crawler.send(*(crawler.page(n, title="y") for n in (4, 5)), crawler.page(1, title="late"))
    streams = [crawler.open(crawler.inbox(name)) for name in ("a", "b")]
    one, two = (stream.inbox.take(3, 0, ONCE, wait=False) for stream in streams)
    assert {m.id for m in one}.isdisjoint(m.id for m in two)
    streams[1].work(two)
    streams[0].work(one)
    assert counts(streams[0]) == {"older": 1, "changed": 2}
    assert counts(streams[1]) == {"changed": 3}
    assert crawler.pending() == 0
    later, first = crawler.supplements[1].read(), crawler.supplements[0].read()
    assert first[0].to_pylist() == [101, 104, 105]
    np.testing.assert_array_equal(crawler.online(101, 102)[0], first[1][0])
    np.testing.assert_array_equal(crawler.online(102, 103), later[1])


def test_streams_at_once(crawler: StreamWorld) -> None:
    crawler.send(*(crawler.page(n % 40, title=f"oak {n}") for n in range(50)))
    streams = [crawler.open(crawler.inbox(name), batch=20) for name in ("a", "b")]
    threads = [Thread(target=s.run, args=(ONCE,), kwargs={"once": True}) for s in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crawler.pending() == 0
    assert sum(stream.counts.messages for stream in streams) == 50
    known: dict[int, Any] = {}
    for snapshot in crawler.supplements:
        keys, vectors = snapshot.read()
        known |= dict(zip(keys.to_pylist(), vectors, strict=True))
    assert sorted(known) == list(range(100, 140))
    np.testing.assert_array_equal(crawler.online(*known), np.array(list(known.values())))


def test_a_newer_refresh_is_taken_up(crawler: StreamWorld) -> None:
    """And what was told beside the former one is told again, by the newer one's model."""
    pages = [crawler.page(1, title="jam"), crawler.page(2, page_id=900, pins=[2])]
    crawler.send(*pages)
    inbox = crawler.inbox()
    stream = crawler.open(inbox)
    stream.run(ONCE, once=True)
    former = stream.fresh.base
    newer = crawler.refresh(AS_OF + timedelta(hours=1)).manifest
    crawler.send(crawler.page(3, title="jam"), pages[1])
    stream.run(ONCE, once=True)
    assert stream.fresh.base.run_id == newer.run_id != former.run_id
    assert stream.counts.refreshes == 2
    assert counts(stream) == {"changed": 3, "unchanged": 1}
    told = [
        (each.manifest.supplement_of, each.read()[0].to_pylist()) for each in crawler.supplements
    ]
    assert told == [
        (former.run_id, [101, 900]),
        (newer.run_id, [101, 900]),
        (newer.run_id, [103]),
    ]
    assert not np.isnan(crawler.online(101, 103, 900)).any()
    assert crawler.open(crawler.inbox()).told.foreign() is None


def test_a_world_whose_clock_is_ahead(crawler: StreamWorld) -> None:
    """Nothing waits for its time to come, nor after another start."""
    tomorrow = crawler.refresh(AS_OF + timedelta(days=2)).manifest.as_of
    for number in (1, 2):
        crawler.send(crawler.page(number, title="jam"))
        assert counts(drained(crawler, crawler.inbox())) == {"changed": 1}
    first, second = (each.manifest.as_of for each in crawler.supplements)
    assert tomorrow < first < second < tomorrow + timedelta(seconds=60)


def test_it_ends_by_a_signal(crawler: StreamWorld) -> None:
    stop, seen = Event(), []
    stream = crawler.open(crawler.inbox())
    crawler.send(crawler.page(1, title="jam"))

    def told() -> None:
        seen.append(counts(stream))
        os.kill(os.getpid(), signal.SIGTERM)

    with _ended_by_signals(stop):
        stream.run(stop, on_batch=told)
    assert seen == [{"changed": 1}]
    assert crawler.pending() == 0


def test_the_command(crawler: StreamWorld) -> None:
    crawler.send(crawler.page(1, title="jam"), "{")
    arguments = ["linksage", "stream", "--home", str(crawler.home.path), "--once"]
    done = CliRunner().invoke(
        main, [*arguments, "--stream", crawler.stream, "--redis", REDIS], catch_exceptions=False
    )
    assert "2 messages: 1 changed, 1 bad; sent to readable p50" in done.output.replace("\n", " ")
    both = CliRunner().invoke(main, [*arguments, "--stream", "a", "--push-source", "b"])
    assert both.exit_code == 2
    gone = CliRunner().invoke(
        main, [*arguments, "--stream", "a", "--redis", "redis://:secret@127.0.0.1:1"]
    )
    assert gone.exit_code == 1
    assert "Redis at 127.0.0.1:1/0" in gone.output
    assert "secret" not in gone.output


def test_without_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'provender\[stream\]'"):
        RedisPages(REDIS, "pages", "readers", None, 1.0)


def test_pages_that_were_pushed(world: StreamWorld) -> None:
    def push(*pages: dict[str, Any]) -> None:
        frame = pd.DataFrame([{**page, "at": datetime.now(UTC)} for page in pages])
        world.store.push("crawled", frame, to=PushMode.OFFLINE)

    def stream() -> dict[str, int]:
        return counts(drained(world, PushedPages(world.store, "crawled", world.home, "one")))

    assert stream() == {}
    push(world.page(1, title="jam"), world.page(2), world.page(3, image=[1.0]))
    push(world.page(900 - 896, page_id=900))
    assert stream() == {"changed": 2, "unchanged": 1, "bad": 1}
    assert stream() == {}
    push(world.page(2, title="jam"))
    assert stream() == {"changed": 1}
    assert [s.read()[0].to_pylist() for s in world.supplements] == [[101, 900], [102]]
    np.testing.assert_array_equal(world.online(102), world.supplements[1].read()[1])
    (bad,) = (world.home.path / "streams" / "one-crawled.bad.jsonl").read_text().splitlines()
    assert "1 numbers instead of 6" in json.loads(bad)["reason"]


def test_an_online_store_of_feasts(world: StreamWorld) -> None:
    """It notes no runs, so what stands is loaded at each start."""
    settings = world.home.repo / "feature_store.yaml"
    ours = "type: provender.plugin.online_store.ProvenderOnlineStore"
    settings.write_text(settings.read_text().replace(ours, "type: sqlite, path: data/feast.db"))
    world.apply()
    pages = [world.page(n, title="jam") for n in (1, 2)]
    for number, page in enumerate(pages):
        pd.DataFrame([page]).to_parquet(world.home.path / "crawled" / f"{number}.parquet")
        inbox = PushedPages(world.store, "crawled", world.home, "one")
        assert counts(drained(world, inbox)) == {"changed": 1}
    told = [each.read()[1][0] for each in world.supplements]
    np.testing.assert_allclose(world.online(101, 102), told)
    assert not np.isnan(world.online(103)).any()


def test_rows_appended_to_a_file(world: StreamWorld) -> None:
    """And what was taken but not done comes again."""
    folder = world.home.path / "crawled"
    pages = [world.page(n, title="jam") for n in range(6)]
    file = folder / "pages.parquet"
    pd.DataFrame(pages[:4]).to_parquet(file)
    inbox = PushedPages(world.store, "crawled", world.home, "one")
    with pytest.raises(ConfigError, match="at work on its stream-one-crawled"):
        PushedPages(world.store, "crawled", world.home, "one")
    first = inbox.take(3, 0, ONCE, wait=False)
    assert [m.id for m in first] == [f"pages.parquet:{n}" for n in range(3)]
    assert inbox.waiting() == 1
    inbox.close()
    inbox = PushedPages(world.store, "crawled", world.home, "one")
    first = inbox.take(3, 0, ONCE, wait=False)
    assert len(first) == 3
    inbox.done(first)
    inbox.close()
    pd.DataFrame(pages).to_parquet(file)
    inbox = PushedPages(world.store, "crawled", world.home, "one")
    assert [m.page["page_id"] for m in inbox.take(9, 0, ONCE, wait=True)] == [103, 104, 105]  # type: ignore[call-overload,index]
    assert pq.read_metadata(file).num_rows == 6
    inbox.close()
    with pytest.raises(ConfigError, match="only the push sources crawled"):
        PushedPages(world.store, "other", world.home, "one")


def test_settings_are_all_listed() -> None:
    keys = {key: (default, meaning) for key, default, meaning in keys_of(LinkSageConfig())}
    assert keys["model.dim"][0] == 256
    assert keys["walks.restart"][0] == {"page": 0.2}
    assert all(meaning for _, meaning in keys.values())
    shown = CliRunner().invoke(main, ["linksage", "settings", "--format", "json"])
    assert {each["key"] for each in json.loads(shown.output)} == set(keys)
    told = CliRunner().invoke(main, ["linksage", "settings"])
    assert all(key in told.output for key in keys)
