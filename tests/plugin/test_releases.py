"""The log of releases: who reads what, who may move it, and what is left when somebody can't."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from feast import FeatureStore, RepoConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError, OnlineStoreError, ReleaseConflictError
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.release_table import RELEASES
from provender.plugin.releases import Check, Release, Releases, ReleaseWatch
from tests.plugin.online_world import OnlineWorld, open_world, vector_view

FORK = multiprocessing.get_context("fork")
CHECK = Check(name="fresh", passed=False, found="5 days", expected="3 days")


@pytest.fixture
def releases(online: OnlineWorld, tmp_path: Path) -> Releases:
    online.apply(vector_view(tmp_path))
    return Releases(online.store, online.config())


def promoted(releases: Releases, state: Release | None = None, version: int = 1) -> Release:
    return releases.move(state, family="transra", action="promote", live=version)


def test_nothing_was_ever_released(online: OnlineWorld) -> None:
    """Not even where the database is older than releases."""
    releases = Releases(online.store, online.config())
    assert releases.current("transra") is None
    assert releases.history("transra") == []
    assert releases.states() == {}


def test_what_is_moved_is_read_back_whole(releases: Releases) -> None:
    before = datetime.now(UTC)
    first = releases.move(None, family="transra", action="promote", live=1, checks=(CHECK,))
    second = releases.move(
        first,
        action="canary",
        candidate=2,
        share=0.1,
        former=7,
        retired=(3, 4),
        reason="früh, 'quoted' and 100 %",
    )
    third = releases.move(second, action="rollback", live=7)

    assert [first.serial, second.serial, third.serial] == [1, 2, 3]
    assert releases.history("transra") == [first, second, third]
    assert releases.current("transra") == third
    assert (third.candidate, third.share, third.retired) == (2, 0.1, (3, 4))
    # What was said of one move is not said of the next.
    assert (third.reason, third.checks) == (None, ())
    assert first.checks == (CHECK,)
    assert before <= first.at <= second.at <= third.at
    assert "@" in first.by


def test_families_and_projects_are_moved_apart(releases: Releases, online: OnlineWorld) -> None:
    other = online.config().model_copy(update={"project": f"{online.project}_b"})
    elsewhere = Releases(online.store, other)
    one = promoted(releases)
    two = releases.move(None, family="Transra", action="promote", live=2)
    abroad = promoted(elsewhere, version=3)
    try:
        assert releases.states() == {"transra": one, "Transra": two}
        assert elsewhere.states() == {"transra": abroad}
    finally:
        online.database().execute(
            "test", RELEASES.delete().where(RELEASES.c.project == other.project)
        )


def test_a_store_of_another_kind_has_no_releases(tmp_path: Path) -> None:
    config = RepoConfig(
        project="p", provider="local", registry=str(tmp_path / "r.db"), repo_path=tmp_path
    )
    with pytest.raises(ConfigError) as error:
        Releases.of(FeatureStore(config=config))
    assert str(error.value).startswith("online_store in feature_store.yaml: found type ")


def test_a_move_of_what_was_moved_is_refused_and_changes_nothing(releases: Releases) -> None:
    state = promoted(releases)
    winner = releases.move(state, action="promote", live=2, former=1)
    with pytest.raises(ReleaseConflictError) as error:
        releases.move(state, action="promote", live=3, former=1)
    assert str(error.value) == (
        f"family transra: found move 2 by {winner.by} meanwhile: promote, which left version 2 "
        "live; expected nobody else's move since move 1. "
        "Look at `provender release status`, then decide again."
    )
    with pytest.raises(ReleaseConflictError, match="expected nobody else's move since move 0"):
        promoted(releases)
    assert releases.history("transra") == [state, winner]


def test_a_retired_version_alone_leaves_no_version_live(releases: Releases) -> None:
    releases.move(None, family="transra", action="retire", retired=(1,))
    with pytest.raises(ReleaseConflictError, match="retire, which left no version live"):
        promoted(releases)


def try_to_move(config: RepoConfig, state: Release, version: int, start: Any, told: Any) -> None:
    releases = Releases(ProvenderOnlineStore(), config)
    releases.current("transra")  # A connection is open: all are equally quick.
    start.wait(60)
    try:
        releases.move(state, action="promote", live=version, former=state.live)
        told.put(version)
    except ReleaseConflictError as error:
        told.put(str(error))


@pytest.mark.parametrize("kind", [threading.Thread, FORK.Process])
def test_of_many_who_move_at_once_one_wins(
    kind: Callable[..., Any], releases: Releases, online: OnlineWorld
) -> None:
    state, many = promoted(releases), 6
    for _ in range(4):
        start, told = FORK.Barrier(many), FORK.Queue()
        everyone = [
            kind(target=try_to_move, args=(online.config(), state, 10 + number, start, told))
            for number in range(many)
        ]
        for each in everyone:
            each.start()
        answers = [told.get(timeout=60) for _ in everyone]
        for each in everyone:
            each.join()
        winners = [answer for answer in answers if isinstance(answer, int)]
        losers = [answer for answer in answers if isinstance(answer, str)]
        assert len(winners) == 1
        told_so = f"which left version {winners[0]} live"
        assert [told_so in line for line in losers] == [True] * (many - 1)
        current = releases.current("transra")
        assert current is not None
        assert (current.live, current.serial) == (winners[0], state.serial + 1)
        state = current
    assert [move.serial for move in releases.history("transra")] == [1, 2, 3, 4, 5]


def broken(online: OnlineWorld, when: str) -> None:
    """Break the connection once, before or after the server has done the insert."""
    engine, driver = online.database().engine, online.database().engine.dialect.loaded_dbapi
    done: list[int] = []

    def gone(*given: Any) -> None:
        if "INSERT INTO provender_releases" in given[2] and not done:
            done.append(1)
            if online.kind == "postgres":
                raise driver.errors.AdminShutdown("terminating connection")
            if online.kind == "mariadb":
                raise driver.OperationalError(2013, "Lost connection during query")
            raise driver.ProgrammingError("Cannot operate on a closed database.")

    sa.event.listen(engine, f"{when}_cursor_execute", gone)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_breaks_is_no_conflict(
    when: str, releases: Releases, online: OnlineWorld
) -> None:
    """After the insert, the second attempt meets the row of the first: it is recognized."""
    state = promoted(releases)
    broken(online, when)
    moved = releases.move(state, action="promote", live=2, former=1)
    assert releases.history("transra") == [state, moved]


def test_a_connection_that_breaks_while_another_wins_is_a_conflict(
    releases: Releases, online: OnlineWorld
) -> None:
    state = promoted(releases)
    winner = Releases(ProvenderOnlineStore(), online.config()).move(state, action="promote", live=9)
    broken(online, "before")
    with pytest.raises(ReleaseConflictError, match="which left version 9 live"):
        releases.move(state, action="promote", live=2)
    assert releases.history("transra") == [state, winner]


def move_for_ever(config: RepoConfig, started: Any) -> None:
    releases = Releases(ProvenderOnlineStore(), config)
    state = releases.current("transra")
    while True:
        number = 1 if state is None else state.serial + 1
        retired = tuple(range(number))
        state = releases.move(
            state, family="transra", action="retire", live=number, former=number, retired=retired
        )
        started.set()


def test_a_killed_process_leaves_whole_moves(releases: Releases, online: OnlineWorld) -> None:
    """Killed anywhere, often enough; what is there can be gone on from."""
    chance = random.Random(1)
    for _ in range(5):
        started = FORK.Event()
        process = FORK.Process(target=move_for_ever, args=(online.config(), started))
        process.start()
        assert started.wait(60)
        threading.Event().wait(chance.random() / 50)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        history = releases.history("transra")
        assert [move.serial for move in history] == list(range(1, len(history) + 1))
        for move in history:
            assert (move.live, move.former) == (move.serial, move.serial)
            assert move.retired == tuple(range(move.serial))
        assert releases.current("transra") == history[-1]


# Who reads what.

NUMBERS = st.integers(1, 50)
KEYS = st.one_of(st.integers(), st.text(max_size=20))


def canary(family: str = "transra", candidate: int | None = 2, share: float = 0.0) -> Release:
    return Release(
        family=family,
        serial=1,
        action="canary",
        live=1,
        candidate=candidate,
        share=share,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        by="somebody@somewhere",
    )


@given(KEYS, st.floats(0, 1), st.floats(0, 1))
def test_a_key_has_one_answer_and_a_larger_share_only_adds_keys(
    key: object, one: float, other: float
) -> None:
    less, more = canary(share=min(one, other)), canary(share=max(one, other))
    assert less.version_for(key) == canary(share=less.share).version_for(key)
    assert less.version_for(key) in (1, 2)
    if less.version_for(key) == 2:
        assert more.version_for(key) == 2
    # What else changes in a state does not move a key.
    moved = less.model_copy(update={"serial": 9, "former": 5, "retired": (3,), "action": "retire"})
    assert moved.version_for(key) == less.version_for(key)


@given(KEYS)
def test_the_edges_of_a_share(key: object) -> None:
    assert canary(share=0).version_for(key) == 1
    assert canary(share=1).version_for(key) == 2
    assert canary(candidate=None, share=1).version_for(key) == 1


@settings(derandomize=True)
@given(st.floats(0, 1), NUMBERS, st.sampled_from(["transra", "linksage", "", "a\0b"]))
def test_a_share_of_the_keys_reads_the_candidate(share: float, candidate: int, family: str) -> None:
    """Within seven deviations of a binomial distribution: once in 10^11 by chance."""
    many = 2_000
    state = canary(family, candidate, share)
    hits = sum(state.version_for(f"user {n}") == candidate for n in range(many))
    if candidate != 1:
        assert abs(hits - many * share) <= 7 * math.sqrt(many * share * (1 - share)) + 1


def test_canaries_of_other_families_and_versions_read_other_keys() -> None:
    """Each pair of canaries at one half has about a quarter of the keys in common."""
    states = [
        canary(family, candidate, 0.5)
        for family in ("transra", "linksage", "transra2")
        for candidate in (2, 3, 22)
    ]
    drawn = [{n for n in range(4_000) if state.version_for(n) != 1} for state in states]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(len(one & other) - 1_000) < 200


def test_keys_are_told_by_their_text() -> None:
    """A key from JSON and one from Arrow are the same key."""
    state = canary(share=0.5)
    for number in range(50):
        assert state.version_for(number) == state.version_for(str(number))


# Who serves.


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """Releases of which it is counted how often they are read."""

    def __init__(self) -> None:
        self.reads, self.live, self.error = 0, 1, False
        self.reading: Callable[[], Any] = lambda: None

    def states(self) -> dict[str, Release]:
        self.reads += 1
        live = self.live
        self.reading()
        if self.error:
            raise OnlineStoreError("releases", found="nobody", expected="somebody", remedy="Wait.")
        return {"transra": canary().model_copy(update={"live": live})}


def watching(seconds: float = 1.0) -> tuple[Log, Clock, ReleaseWatch]:
    log, clock = Log(), Clock()
    return log, clock, ReleaseWatch(log, seconds, clock)  # type: ignore[arg-type]


def test_states_are_read_again_after_a_while_and_stay_as_they_were_given() -> None:
    log, clock, watch = watching()
    first = watch.states()
    log.live = 2
    clock.now = 0.999
    assert watch.states() is first
    clock.now = 1.0
    second = watch.states()
    assert (first["transra"].live, second["transra"].live, log.reads) == (1, 2, 2)


def test_a_watch_of_no_seconds_reads_for_each_request() -> None:
    log, _, watch = watching(0)
    watch.states()
    log.live = 5
    assert watch.states()["transra"].live == 5
    assert log.reads == 2


def test_while_the_database_is_down_the_last_states_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, clock, watch = watching()
    last = watch.states()
    log.error, log.live, clock.now = True, 2, 2.0
    with caplog.at_level(logging.WARNING):
        assert watch.states() is last
        assert watch.states() is last
    assert [record.message for record in caplog.records] == [
        "releases: found nobody; expected somebody. Wait. "
        "The releases as they were last read go on to count."
    ]
    log.error, clock.now = False, 3.0
    assert watch.states()["transra"].live == 2


def test_a_database_that_is_down_at_first_is_told_and_asked_again() -> None:
    log, _, watch = watching()
    log.error = True
    with pytest.raises(OnlineStoreError):
        watch.states()
    log.error = False
    assert watch.states()["transra"].live == 1


def test_while_one_thread_reads_the_others_go_on() -> None:
    log, clock, watch = watching()
    first = watch.states()
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert go_on.wait(60)

    log.reading, log.live, clock.now = hang, 2, 5.0
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(watch.states)
        assert entered.wait(60)
        assert watch.states() is first
        go_on.set()
        assert slow.result()["transra"].live == 2
    assert log.reads == 2


def test_threads_that_come_first_together_read_once() -> None:
    log, _, watch = watching()
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert go_on.wait(60)

    log.reading = hang
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(watch.states) for _ in range(4)]
        assert entered.wait(60)
        go_on.set()
        found = [answer.result() for answer in answers]
    assert log.reads == 1
    assert all(each is found[0] for each in found)


def test_a_forked_child_reads_on_its_own(releases: Releases, online: OnlineWorld) -> None:
    """Even one that was forked off while another thread of its parent was reading."""
    clock = Clock()
    watch = ReleaseWatch(releases, 1.0, clock)
    state = promoted(releases)
    assert watch.states() == {"transra": state}
    releases.move(state, action="promote", live=2)
    clock.now = 2.0
    told = FORK.Queue()
    assert watch._reading.acquire()
    try:
        process = FORK.Process(target=lambda: told.put(watch.states()["transra"].live))
        process.start()
        assert told.get(timeout=60) == 2
        process.join()
    finally:
        watch._reading.release()
    assert watch.states()["transra"].live == 2


def test_a_watch_over_a_database_that_goes_away(tmp_path: Path) -> None:
    world = open_world("sqlite", tmp_path)
    world.apply(vector_view(tmp_path))
    releases, clock = Releases(world.store, world.config()), Clock()
    watch = ReleaseWatch(releases, 1.0, clock)
    state = promoted(releases)
    assert watch.states() == {"transra": state}
    file = tmp_path / "data" / "online.db"
    world.database().dispose()
    for each in file.parent.glob("online.db*"):
        each.unlink()
    file.mkdir()
    clock.now = 5.0
    assert watch.states() == {"transra": state}
