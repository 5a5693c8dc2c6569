"""Promote, rollback, retire, canary: what they do, what they refuse, what a crash leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from feast import FeatureService, FeatureStore
from feast.cli.cli import cli as feast_cli

from provender.plugin import release_moves
from provender.plugin.errors import ProvenderError, ReleaseConflictError, ReleaseError
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.release_moves import canary, promote, promotion, retire, rollback
from provender.plugin.releases import Release, Releases
from provender.plugin.repo import standing_in
from tests.plugin.release_world import DAY, PIN, USER, ReleaseWorld, T
from tests.plugin.test_release_gates import ranker

FORK = multiprocessing.get_context("fork")


def refused(run: Callable[[], Any]) -> str:
    """The line with which a move is refused; nothing is moved."""
    with pytest.raises(ReleaseError) as error:
        run()
    return str(error.value)


def state(world: ReleaseWorld) -> tuple[int | None, int | None, int | None, float]:
    now = world.releases.current("transra")
    assert now is not None
    return now.live, now.former, now.candidate, now.share


@pytest.fixture
def three(family: ReleaseWorld) -> ReleaseWorld:
    """Three versions that may serve, the first of which does."""
    for version in (1, 2, 3):
        family.ready(version, entities=[USER])
    family.promote(1)
    return family


# Promote.


def test_a_life_of_a_family(released: ReleaseWorld) -> None:
    for version in (1, 2, 3):
        released.ready(version, dim=3 + version)
    store = released.store
    now: dict[str, Any] = {"now": T}
    first = promote(store, "transra", 1, **now)
    assert (first.live, first.former, first.action, first.reason) == (1, None, "promote", None)
    assert [check.name for check in first.checks] == [
        "complete",
        "materialized",
        "one run",
        "fresh",
        "coverage",
        "quality",
        "same online and offline",
        "anchored",
        "rankers",
    ]
    canary(store, "transra", 2, 0.25, **now)
    assert state(released) == (1, None, 2, 0.25)
    canary(store, "transra", 2, 0.5, **now)
    assert state(released) == (1, None, 2, 0.5)
    promote(store, "transra", 2, **now)
    assert state(released) == (2, 1, None, 0.0)
    canary(store, "transra", 3, 0.1, **now)
    rolled = rollback(store, "transra", **now)
    assert state(released) == (1, 2, None, 0.0)
    assert [check.name for check in rolled.checks] == ["materialized", "fresh"]
    rollback(store, "transra", **now)
    assert state(released) == (2, 1, None, 0.0)
    retired = retire(store, "transra", 1)
    assert (retired.live, retired.former, retired.retired) == (2, None, (1,))
    retire(store, "transra", 3)
    history = released.releases.history("transra")
    assert [move.serial for move in history] == list(range(1, 10))
    assert history[-1].retired == (1, 3)


def test_a_canary_of_another_version_outlives_a_promotion(three: ReleaseWorld) -> None:
    canary(three.store, "transra", 3, 0.1, now=T)
    three.promote(2)
    assert state(three) == (2, 1, 3, 0.1)


def test_every_failed_gate_is_named_with_what_was_found_and_expected(three: ReleaseWorld) -> None:
    line = refused(lambda: three.promote(2, now=T + 4 * DAY, rankers=three.rankers))
    assert line == (
        "promotion of version 2 of family transra: found fresh: user_transra_v2 as of 2026-03-10, "
        "4d old with a ttl of 3d; expected fresh: as-of times within the ttl at 2026-03-14. "
        "Mend it and run this again, or add --force --reason '...', which is kept."
    )
    three.declare(4)
    line = refused(lambda: three.promote(4))
    for told in ("materialized: user", "fresh: pin", "coverage: user", "quality: user"):
        assert told.replace("user", "pin_transra_v4", 1) in line or told in line
    assert state(three) == (1, None, None, 0.0)


def test_a_reason_forces_failed_gates_and_is_kept_with_them(three: ReleaseWorld) -> None:
    moved = three.promote(2, now=T + 4 * DAY, reason="v1 answers nonsense")
    assert (moved.live, moved.reason) == (2, "v1 answers nonsense")
    assert [check.name for check in moved.checks if not check.passed] == ["fresh"]
    assert three.releases.current("transra") == moved


def test_a_reason_without_need_is_not_kept(three: ReleaseWorld) -> None:
    assert three.promote(2, reason="to be sure").reason is None


def test_an_empty_reason_is_none(three: ReleaseWorld) -> None:
    assert "fresh" in refused(lambda: three.promote(2, now=T + 4 * DAY, reason=""))


def test_gates_are_those_of_the_repo(three: ReleaseWorld) -> None:
    three.declare(4, entities=[USER])
    three.refresh(4, rows=20)
    three.materialize(4)
    assert "coverage: user_transra_v4 20 of 40 (50.00%)" in refused(lambda: three.promote(4))
    (three.repo / "releases.yaml").write_text("transra: {coverage: 0.5}\n")
    assert three.promote(4).live == 4


def test_what_no_reason_can_force(three: ReleaseWorld) -> None:
    def forced(version: int, family: str = "transra") -> str:
        return refused(lambda: promote(three.store, family, version, now=T, reason="I want it"))

    assert forced(9).startswith("version 9 of family transra: found no embedding view of it in")
    assert forced(1, "linksage").startswith("family linksage: found no embedding view of it in")
    assert forced(1) == (
        "promotion of version 1 of family transra: found it is live already; expected another "
        "version. Look at `provender release status`."
    )
    retire(three.store, "transra", 3)
    assert forced(3) == (
        "promotion of version 3 of family transra: found it is retired; expected a version that "
        "may serve. Declare it anew as version 4."
    )
    three.online.execute(f"DROP TABLE `{three.online.project}_user_transra_v2`")
    assert forced(2) == (
        "promotion of version 2 of family transra: found no online table of user_transra_v2; "
        "expected one for each of its views. Run `feast apply`, then `feast materialize`."
    )
    assert state(three) == (1, None, None, 0.0)


def test_a_move_examined_is_not_a_move_made(three: ReleaseWorld) -> None:
    move = promotion(three.store, "transra", 2, now=T)
    assert all(check.passed for check in move.checks)
    assert state(three) == (1, None, None, 0.0)
    assert move.make().live == 2


def test_a_family_that_is_moved_while_the_gates_look_is_left_alone(three: ReleaseWorld) -> None:
    move = promotion(three.store, "transra", 2, now=T)
    promote(three.store, "transra", 3, now=T)
    with pytest.raises(ReleaseConflictError, match="which left version 3 live"):
        move.make()
    assert state(three) == (3, 1, None, 0.0)


# Rollback.


def test_there_must_be_something_to_return_to(three: ReleaseWorld) -> None:
    assert refused(lambda: rollback(three.store, "transra")) == (
        "rollback of family transra: found no former version; expected one that was live before. "
        "Run `provender release promote transra VERSION`."
    )
    assert refused(lambda: rollback(three.store, "other")).startswith("family other: found no")


def test_a_rollback_goes_to_any_version_that_was_live_and_to_no_other(three: ReleaseWorld) -> None:
    three.promote(2)
    three.promote(3)
    moved = rollback(three.store, "transra", to=1, now=T)
    assert (moved.live, moved.former) == (1, 3)
    three.ready(4, entities=[USER])
    assert refused(lambda: rollback(three.store, "transra", to=4, now=T, reason="now")) == (
        "rollback of family transra to version 4: found a version that was never live; expected "
        "one that passed its gates before. Run `provender release promote transra 4`."
    )
    assert "found it is live already" in refused(lambda: rollback(three.store, "transra", to=1))
    retire(three.store, "transra", 3)
    assert "found it is retired" in refused(lambda: rollback(three.store, "transra", to=3))
    # The former version is retired: nothing is left to return to without being named.
    assert "found no former version" in refused(lambda: rollback(three.store, "transra"))


def test_a_stale_version_is_returned_to_with_a_reason(three: ReleaseWorld) -> None:
    three.promote(2)
    line = refused(lambda: rollback(three.store, "transra", now=T + 4 * DAY))
    assert "found fresh: user_transra_v1 as of 2026-03-10, 4d old with a ttl of 3d" in line
    moved = rollback(three.store, "transra", now=T + 4 * DAY, reason="better old than wrong")
    assert (moved.live, moved.former, moved.reason) == (1, 2, "better old than wrong")


def test_an_empty_version_is_not_returned_to(three: ReleaseWorld) -> None:
    three.promote(2)
    three.online.execute(f"DELETE FROM `{three.online.project}_user_transra_v1`")
    assert refused(lambda: rollback(three.store, "transra", now=T, reason="now")) == (
        "rollback of family transra to version 1: found no rows online of user_transra_v1; "
        "expected rows to serve. Run `feast materialize` for them."
    )


# Retire.


def test_what_is_read_is_not_retired(three: ReleaseWorld) -> None:
    canary(three.store, "transra", 2, 0.05, now=T)
    assert refused(lambda: retire(three.store, "transra", 1, reason="go")) == (
        "retirement of version 1 of family transra: found it is live; expected a version that no "
        "request reads. Run `provender release promote transra OTHER` first."
    )
    assert refused(lambda: retire(three.store, "transra", 2, reason="go")) == (
        "retirement of version 2 of family transra: found 5.0% of the requests read it; expected "
        "a version that no request reads. Run `provender release canary transra 2 0` first."
    )
    retire(three.store, "transra", 3)
    assert "found it is retired" in refused(lambda: retire(three.store, "transra", 3))
    assert "version 9 of family" in refused(lambda: retire(three.store, "transra", 9))


def test_what_rankers_or_services_need_is_retired_with_a_reason(three: ReleaseWorld) -> None:
    ranker(three, "ctr", 2)
    three.store.apply(FeatureService(name="ads", features=[three.declared[2][0]]))
    line = refused(lambda: retire(three.store, "transra", 2, rankers=three.rankers))
    assert line == (
        "retirement of version 2 of family transra: found rankers: ctr.safetensors; feature "
        "services: ads; expected rankers: no ranker that was trained on it; feature services: no "
        "feature service that reads it. "
        "Mend it and run this again, or add --force --reason '...', which is kept."
    )
    assert retire(three.store, "transra", 3, rankers=three.rankers).retired == (3,)
    moved = retire(three.store, "transra", 2, rankers=three.rankers, reason="both are gone")
    assert (moved.retired, moved.reason) == ((2, 3), "both are gone")


def test_a_version_is_retired_before_anything_was_released(family: ReleaseWorld) -> None:
    family.declare(1)
    family.declare(2)
    assert retire(family.store, "transra", 1).retired == (1,)
    assert state(family) == (None, None, None, 0.0)


# Canary.


def test_a_share_that_is_none_is_refused(three: ReleaseWorld) -> None:
    for share in (-0.1, 1.1, float("nan")):
        line = refused(lambda: canary(three.store, "transra", 2, share, reason="x"))  # noqa: B023
        assert line == (
            f"canary of version 2 of family transra: found share {share:g}; expected a share of "
            "the requests from 0 to 1. Correct it."
        )


def test_a_canary_beside_nothing_is_refused(family: ReleaseWorld) -> None:
    family.ready(1)
    assert refused(lambda: canary(family.store, "transra", 1, 0.1, reason="x")) == (
        "canary of version 1 of family transra: found no live version; expected one that the "
        "other requests read. Run `provender release promote transra 1` instead."
    )


def test_a_canary_passes_the_gates_of_a_promotion(three: ReleaseWorld) -> None:
    late: dict[str, Any] = {"now": T + 4 * DAY}
    assert "found fresh: " in refused(lambda: canary(three.store, "transra", 2, 0.1, **late))
    moved = canary(three.store, "transra", 2, 0.1, reason="a look", **late)
    assert (moved.candidate, moved.share, moved.reason) == (2, 0.1, "a look")
    # Less is always possible, more is not.
    assert "found fresh: " in refused(lambda: canary(three.store, "transra", 2, 0.2, **late))
    assert canary(three.store, "transra", 2, 0.05, **late).share == 0.05
    ended = canary(three.store, "transra", 2, 0, **late)
    assert (ended.candidate, ended.share) == (None, 0.0)
    assert "found it is live already" in refused(lambda: canary(three.store, "transra", 1, 0.1))


def test_only_the_canary_that_is_there_is_ended(three: ReleaseWorld) -> None:
    assert refused(lambda: canary(three.store, "transra", 2, 0)) == (
        "canary of version 2 of family transra: found no canary; expected one of version 2, to "
        "end it. Look at `provender release status`."
    )
    canary(three.store, "transra", 3, 0.1, now=T)
    assert "found a canary of version 3" in refused(lambda: canary(three.store, "transra", 2, 0))
    assert canary(three.store, "transra", 2, 0.1, now=T).candidate == 2


# Several at once, and crashes.


def promote_at_once(repo: str, version: int, start: Any, told: Any) -> None:
    store = FeatureStore(repo_path=repo)
    move = promotion(store, "transra", version, now=T)
    start.wait(120)
    try:
        told.put(move.make().live)
    except ProvenderError as error:
        told.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("kind", [threading.Thread, FORK.Process])
def test_of_many_who_promote_at_once_one_wins_and_the_others_are_told(
    kind: Callable[..., Any], released: ReleaseWorld
) -> None:
    versions = (2, 3, 4)
    for version in (1, *versions):
        released.ready(version, entities=[USER])
    released.promote(1)
    start, told = FORK.Barrier(len(versions)), FORK.Queue()
    everyone = [
        kind(target=promote_at_once, args=(str(released.repo), version, start, told))
        for version in versions
    ]
    for each in everyone:
        each.start()
    answers = [told.get(timeout=120) for _ in everyone]
    for each in everyone:
        each.join()
    (winner,) = [answer for answer in answers if isinstance(answer, int)]
    losers = [answer for answer in answers if isinstance(answer, str)]
    assert state(released) == (winner, 1, None, 0.0)
    assert len(losers) == len(versions) - 1
    for line in losers:
        assert line.startswith("ReleaseConflictError: family transra: found move 2 by ")
        assert f"which left version {winner} live" in line
    assert [move.serial for move in released.releases.history("transra")] == [1, 2]


def promote_and_stop(repo: str, where: str, ready: Any) -> None:
    """Promote version 2, and stand still for good at one point of it."""

    def stop(*given: Any) -> Any:
        ready.set()
        threading.Event().wait(120)

    execute = Releases._execute

    def executed(self: Releases, statement: Any) -> Any:
        insert = "INSERT" in str(statement)
        if insert and where == "before the insert":
            stop()
        answer = execute(self, statement)
        if insert and where == "after the insert":
            stop()
        return answer

    Releases._execute = executed  # type: ignore[method-assign]
    gates = list(release_moves.GATES)
    if where.startswith("gate "):
        gates[int(where.removeprefix("gate "))] = stop
    release_moves.GATES = tuple(gates)
    promote(FeatureStore(repo_path=repo), "transra", 2, now=T)


@pytest.mark.parametrize(
    ("where", "live"),
    [("gate 0", 1), ("gate 6", 1), ("before the insert", 1), ("after the insert", 2)],
)
def test_a_killed_promotion_leaves_the_former_state_or_the_new_one(
    where: str, live: int, released: ReleaseWorld
) -> None:
    for version in (1, 2):
        released.ready(version, entities=[USER])
    before = released.promote(1)
    ready = FORK.Event()
    process = FORK.Process(target=promote_and_stop, args=(str(released.repo), where, ready))
    process.start()
    assert ready.wait(120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    after = released.releases.current("transra")
    assert after is not None
    if live == 1:
        assert after == before
        after = released.promote(2)
    assert (after.serial, after.live, after.former) == (2, 2, 1)
    assert len(after.checks) == len(release_moves.GATES)
    assert released.releases.history("transra") == [before, after]


# What is live is not lost.


def without(world: ReleaseWorld, *versions: int) -> None:
    """Apply the repo as if the declarations of versions had been taken out."""
    store = world.open()
    gone = [view for version in versions for view in world.declared[version]]
    names = {view.name for view in gone}
    there: list[Any] = [view for view in store.list_feature_views() if view.name in names]
    store.apply([], objects_to_delete=there, partial=False)


def tables(world: ReleaseWorld) -> set[str]:
    names = world.releases.online.database(world.releases.config).names("test")
    prefix = f"{world.online.project}_"
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


SQL = {"registry_type": "sql", "path": "sqlite:///{repo}/data/registry.sqlite"}


@pytest.fixture(params=["file", "sql"])
def live(request: pytest.FixtureRequest, released: ReleaseWorld) -> ReleaseWorld:
    """Version 2 is live, 1 the former one, 3 a canary and 4 nothing; by two kinds of registry."""
    world = released
    if request.param == "sql":
        path = SQL["path"].format(repo=released.repo)
        world = ReleaseWorld(released.online, registry={**SQL, "path": path})
    for version in (1, 2, 3, 4):
        world.ready(version)
    world.promote(1)
    world.promote(2)
    canary(world.store, "transra", 3, 0.1, now=T)
    return world


def test_apply_keeps_what_a_release_needs_and_drops_the_rest(live: ReleaseWorld) -> None:
    before, views = tables(live), {view.name: view for view in live.open().list_feature_views()}
    told = {
        1: "what a rollback returns to",
        2: "live",
        3: "a canary",
    }
    remedies = {
        1: "run `provender release retire transra 1` first.",
        2: "run `provender release promote transra VERSION` and `provender release retire "
        "transra 2` first.",
        3: "run `provender release canary transra 3 0` first.",
    }
    for version, role in told.items():
        line = refused(lambda: without(live, version, 4))  # noqa: B023
        assert line == (
            f"embedding view user_transra_v{version}: found its declaration gone, while version "
            f"{version} of family transra is {role}; expected every view that a release needs; "
            f"its table is kept. Declare it again, or {remedies[version]}"
        ) or line.startswith(f"embedding view pin_transra_v{version}: found its declaration gone")
        assert tables(live) == before
        # The registry has all views as before, with what was materialized of each.
        after = {view.name: view for view in live.open().list_feature_views()}
        assert after.keys() == views.keys()
        for name, view in after.items():
            assert view.materialization_intervals == views[name].materialization_intervals
            assert view.batch_source == views[name].batch_source
        held = {source.name for source in live.open().list_data_sources()}
        assert {f"{name}_snapshots" for name in views} <= held
    served = live.open().get_online_features(["user_transra_v2:embedding"], [{"user_id": 1}])
    assert served.to_dict()["embedding"][0] is not None

    without(live, 4)
    assert tables(live) == {name for name in before if not name.endswith("_v4")}
    canary(live.open(), "transra", 3, 0)
    without(live, 3)
    retire(live.open(), "transra", 1)
    without(live, 1)
    assert tables(live) == {"pin_transra_v2", "user_transra_v2"}
    assert state(live) == (2, None, None, 0.0)


DECLARED = """
from datetime import timedelta
from feast import Entity, ValueType
from provender.plugin.embedding_view import embedding_view

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
"""
VIEW = """
user_transra_v{version} = embedding_view(
    name="user_transra", version={version}, entity=user, dim=4, space="transra_v{version}",
    producer="transra", ttl=timedelta(days=3), snapshots="{snapshots}",
)
"""


def feast(world: ReleaseWorld, command: str) -> tuple[int, str]:
    """Run a command of Feast's in this process; what it imports of the repo is forgotten."""
    with standing_in(world.repo):
        result = CliRunner().invoke(feast_cli, command.split())
    return result.exit_code, result.output


def test_feasts_own_commands_refuse_to_drop_what_is_live(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    family.ready(2, entities=[USER])
    family.promote(1)
    file = family.repo / "views.py"
    whole, left = (
        DECLARED + "".join(VIEW.format(version=v, snapshots=family.snapshots) for v in versions)
        for versions in ((1, 2), (2,))
    )
    file.write_text(whole)
    assert feast(family, "apply")[0] == 0
    registry = family.repo / "data" / "registry.db"
    before = registry.read_bytes(), tables(family)
    file.write_text(left)
    told = "user_transra_v1: found its declaration gone, while version 1 of family transra is live"
    for command in ("plan", "apply", "delete user_transra_v1"):
        code, output = feast(family, command)
        assert code == 1
        assert told in output
        assert "Traceback" not in output
        assert (registry.read_bytes(), tables(family)) == before
    family.promote(2)
    retire(family.open(), "transra", 1)
    assert feast(family, "plan")[0] == 0
    assert feast(family, "apply")[0] == 0
    assert tables(family) == {"user_transra_v2"}


def test_teardown_takes_a_projects_releases_along(released: ReleaseWorld) -> None:
    released.ready(1)
    released.promote(1)
    config = released.store.config
    released.store.teardown()  # type: ignore[no-untyped-call]
    assert Releases(ProvenderOnlineStore(), config).states() == {}


def test_examinations_of_many_threads_do_not_disturb_each_other(three: ReleaseWorld) -> None:
    def look(version: int) -> Release | None:
        move = promotion(three.open(), "transra", version, now=T)
        assert all(check.passed for check in move.checks)
        return move.family.state

    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(look, [2, 3] * 4))
    assert all(each == states[0] for each in states)


def test_the_release_of_one_project_says_nothing_of_another(
    three: ReleaseWorld, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    settings = (three.repo / "feature_store.yaml").read_text()
    (other / "feature_store.yaml").write_text(settings.replace(three.online.project, "another"))
    store = FeatureStore(repo_path=str(other))
    store.apply([USER, PIN, *three.declared[1]])
    views = store.list_feature_views()
    store.apply([], objects_to_delete=list(views), partial=False)
    assert Releases.of(store).states() == {}
    assert state(three) == (1, None, None, 0.0)
