"""`provender refresh`: what goes online, what its gate keeps back, and going on after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from feast import FeatureStore

from provender.plugin.home import Home
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.releases import Releases
from provender.producers.refresh import refresh
from tests.producers.refresh_world import (
    RefreshWorld,
    Version,
    assert_killed,
    day,
    make_world,
    quiet,
)

Provender = Callable[..., Result]
VIEWS = ("pin_transra_v1", "user_transra_v1")
STRICT = "transra: {drift: {cosine: 1, neighbours: 0}}"


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with version 1 as of days 2 and 3, registered but not online, not to be changed."""
    world = make_world(tmp_path_factory.mktemp("applied") / "home")
    for number in (2, 3):
        refresh(world.job(), day(number), quiet)
    return world.root


@pytest.fixture
def world(applied: Path, tmp_path: Path) -> RefreshWorld:
    """A copy of it of one's own."""
    shutil.copytree(applied, tmp_path / "home")
    copy = RefreshWorld(Home(tmp_path / "home"))
    copy.apply()
    return copy


@pytest.fixture
def renew(world: RefreshWorld, provender: Provender) -> Provender:
    """Run `provender refresh transra` on the home as of a day."""

    def run(number: int, *arguments: object) -> Result:
        as_of = ["--as-of", day(number).isoformat(), "--device", "cpu"]
        return provender("refresh", "transra", "--home", world.root, *as_of, *arguments)

    return run


def _line(result: Result) -> str:
    return " ".join(result.output.split())


def _store(world: RefreshWorld) -> FeatureStore:
    return FeatureStore(str(world.home.repo))


def _runs(world: RefreshWorld) -> dict[str, list[str]]:
    """By view, the runs whose rows are online."""
    records = ProvenderOnlineStore().records(_store(world).config)
    return {record.view: [run.run_id for run in record.runs] for record in records.values()}


def _is_online(world: RefreshWorld, view: str, number: int) -> bool:
    """Whether the online table holds exactly the snapshot of a day."""
    store, online = _store(world), ProvenderOnlineStore()
    keys, vectors = world.snapshots(view)[number].read()
    (rows,) = online.scan(store.config, store.get_feature_view(view))
    (found,) = rows.keys.values() if isinstance(rows.keys, dict) else [rows.keys]
    same = np.asarray(found).tolist() == keys.to_pylist()
    return same and np.array_equal(rows.columns["embedding"].values, vectors)


def _files(world: RefreshWorld) -> dict[Path, int]:
    places = (world.home.snapshots, world.home.features)
    return {path: path.stat().st_mtime_ns for each in places for path in each.rglob("*")}


def test_from_events_to_the_online_table(world: RefreshWorld, renew: Provender) -> None:
    result = renew(4)

    assert result.exit_code == 0, result.output
    for view in VIEWS:
        assert len(world.snapshots(view)) == 3
        manifest = world.snapshots(view)[-1].manifest
        assert manifest.metrics["drift/coverage"] == 1
        assert manifest.metrics["quality"] is not None
        assert _is_online(world, view, -1)
        assert view in result.stdout
    assert result.stdout.count("passed") == 2
    assert result.stdout.count("loaded") == 2
    assert "200 rows" in _line(result)
    assert "Materializing" not in result.stdout


def test_what_is_done_is_not_done_again(world: RefreshWorld, renew: Provender) -> None:
    first = renew(4)
    assert first.exit_code == 0, first.output
    before, runs = _files(world), _runs(world)
    database = (world.home.repo / "data" / "online.db").read_bytes()
    again = renew(4)
    assert again.exit_code == 0, again.output
    assert _line(again).count("done before") == 2
    assert (_files(world), _runs(world)) == (before, runs)
    assert (world.home.repo / "data" / "online.db").read_bytes() == database


def test_it_loads_from_what_is_online_on(world: RefreshWorld, renew: Provender) -> None:
    assert renew(3).exit_code == 0
    assert renew(4).exit_code == 0
    intervals = _store(world).get_feature_view(VIEWS[0]).materialization_intervals
    first, second = sorted(intervals)
    assert first[1] == second[0] == day(3)
    assert second[1] == day(4)


def test_only_the_chosen_version_moves(
    world: RefreshWorld, renew: Provender, provender: Provender
) -> None:
    world.declare(Version(1), Version(2, dim=16), Version(3, anchored_to=1))
    world.apply()
    result = renew(4, "--version", 2)
    assert result.exit_code == 0, result.output
    runs = _runs(world)
    assert [bool(runs[f"pin_transra_v{number}"]) for number in (1, 2, 3)] == [False, True, False]
    assert not world.snapshots("pin_transra_v3")
    assert len(world.snapshots("pin_transra_v1")) == 2

    # And by default all do.
    result = renew(4)
    assert result.exit_code == 0, result.output
    assert all(_runs(world).values())
    assert _line(result).count("done before") == 2
    parent = world.snapshots("pin_transra_v3")[0].manifest.parent
    assert parent == world.snapshots("pin_transra_v1")[1].manifest.run_id


def test_a_retired_version_is_not_renewed(world: RefreshWorld, renew: Provender) -> None:
    world.declare(Version(1), Version(2, dim=16))
    world.apply()
    releases = Releases.of(_store(world))
    state = releases.move(None, family="transra", action="promote", live=2)
    state = releases.move(state, action="retire", retired=(1,))
    result = renew(4)
    assert result.exit_code == 0, result.output
    assert "pin_transra_v2" in result.stdout
    assert "pin_transra_v1" not in result.stdout
    releases.move(state, action="retire", retired=(1, 2))
    assert "found versions 1, 2, all retired; expected a version in use" in _line(renew(5))
    assert renew(5, "--version", 1).exit_code == 0


def test_what_drifts_too_far_is_published_nowhere(world: RefreshWorld, renew: Provender) -> None:
    assert renew(3).exit_code == 0
    before, runs = _files(world), _runs(world)
    (world.home.repo / "releases.yaml").write_text(STRICT)

    result = renew(4)

    assert result.exit_code == 1
    assert (_files(world), _runs(world)) == (before, runs)
    line = _line(result)
    for view in VIEWS:
        assert f"refresh of {view}: found mean cosine 0." in line
    assert "expected mean cosine at least 1, neighbours changed at most 0." in line
    assert result.stdout.count("refused") == 2
    assert line.count("not published") == 2


def test_a_refused_version_does_not_stop_the_others(world: RefreshWorld, renew: Provender) -> None:
    world.declare(Version(1), Version(2, dim=16))
    world.apply()
    (world.home.repo / "releases.yaml").write_text(STRICT)
    result = renew(4)
    assert result.exit_code == 1
    assert len(world.snapshots("pin_transra_v1")) == 2
    assert _is_online(world, "pin_transra_v2", -1)
    assert "refresh of pin_transra_v2" not in _line(result)


def test_a_version_that_fails_does_not_stop_the_others(
    world: RefreshWorld, renew: Provender
) -> None:
    world.declare(Version(1), Version(2, dim=16), Version(3))
    world.apply()
    world.settings(versions={2: {"learning_rate": 1e30}})
    result = renew(4)
    assert result.exit_code == 1
    assert "expected a finite loss" in _line(result) or "finite numbers" in _line(result)
    assert not world.snapshots("pin_transra_v2")
    assert _is_online(world, "pin_transra_v1", -1)
    assert _is_online(world, "pin_transra_v3", -1)


def test_forced_with_a_reason(world: RefreshWorld, renew: Provender) -> None:
    (world.home.repo / "releases.yaml").write_text(STRICT)
    assert renew(4).exit_code == 1
    result = renew(4, "--force", "--reason", "the logger was repaired")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("forced") == 2
    for view in VIEWS:
        assert world.snapshots(view)[-1].manifest.notes["forced"] == "the logger was repaired"
        assert _is_online(world, view, -1)


def test_a_dry_run_says_what_the_gate_would(world: RefreshWorld, renew: Provender) -> None:
    before = _files(world)
    result = renew(4, "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("passed") == 2
    assert _files(world) == before
    assert not any(_runs(world).values())
    (world.home.repo / "releases.yaml").write_text(STRICT)
    assert renew(4, "--dry-run").exit_code == 1


def test_what_was_produced_is_taken_online(world: RefreshWorld, renew: Provender) -> None:
    refresh(world.job(), day(4), quiet)
    before = _files(world)
    result = renew(4)
    assert result.exit_code == 0, result.output
    assert _files(world) == before
    assert result.stdout.count("nothing to compare") == 2
    assert _is_online(world, VIEWS[0], -1)


def test_an_older_refresh_replaces_nothing_online(world: RefreshWorld, renew: Provender) -> None:
    assert renew(3).exit_code == 0
    runs = _runs(world)
    result = renew(2)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("newer there") == 2
    assert _runs(world) == runs


#: Where a process ends itself: a name, and before which of its calls.
KILLS = {
    "after training": ("provender.producers.drift_gate.DriftGate.__call__", 1),
    "before the first snapshot": ("provender.producers.publish.write_snapshot", 1),
    "between the snapshots": ("provender.producers.publish.write_snapshot", 2),
    "before going online": ("provender.producers.online_refresh.OnlineRefresh.load", 1),
    "between the tables": ("provender.producers.online_refresh.OnlineRefresh.load", 2),
    "within a load": ("provender.plugin.online_store.publish_hot", 1),
}
FORCED = ["--force", "--reason", "a test"]
#: Imports everything once; then each command runs in a fork of its own, which kills itself.
_KILLED = """
import json, os, signal, sys
from importlib import import_module
from provender.plugin.cli import main
import provender.producers.refresh_command

def kill_before(path, calls):
    names = path.split(".")
    owner = import_module(".".join(names[:3]))
    for name in names[3:-1]:
        owner = getattr(owner, name)
    real = getattr(owner, names[-1])
    def counted(*arguments, **options):
        nonlocal calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(owner, names[-1], counted)

for path, calls, arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        kill_before(path, calls)
        main.main(args=arguments)
    print(os.waitpid(child, 0)[1])
"""


@pytest.fixture(scope="module")
def killed(applied: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RefreshWorld]:
    """By point, a home in which a refresh as of day 4, beyond its gate, was killed there."""
    worlds, commands = {}, []
    for point, (path, calls) in KILLS.items():
        root = tmp_path_factory.mktemp("killed") / "home"
        shutil.copytree(applied, root)
        worlds[point] = RefreshWorld(Home(root))
        worlds[point].apply()
        (worlds[point].home.repo / "releases.yaml").write_text(STRICT)
        at = ["--home", str(root), "--as-of", day(4).isoformat(), "--device", "cpu"]
        commands.append((path, calls, ["refresh", "transra", *at, *FORCED]))
    assert_killed(_KILLED, commands, times=len(KILLS))
    return worlds


@pytest.mark.parametrize("point", KILLS)
def test_killed_it_goes_on(
    point: str, killed: dict[str, RefreshWorld], provender: Provender
) -> None:
    world = killed[point]
    there = [len(world.snapshots(view)) for view in VIEWS]
    assert sum(there) - 4 == {"after training": 0, "before the first snapshot": 0}.get(
        point, 1 if point == "between the snapshots" else 2
    )
    for view in VIEWS:
        for snapshot in world.snapshots(view):
            snapshot.verify()

    # Once a view is published by force, the rest follows without being forced again.
    again = FORCED if sum(there) == 4 else []
    at = ["--home", world.root, "--as-of", day(4).isoformat(), "--device", "cpu"]
    result = provender("refresh", "transra", *at, *again)

    assert result.exit_code == 0, result.output
    run_ids = {world.snapshots(view)[-1].manifest.run_id for view in VIEWS}
    assert len(run_ids) == 1
    for view in VIEWS:
        assert len(world.snapshots(view)) == 3
        assert world.snapshots(view)[-1].manifest.notes["forced"] == "a test"
        assert _is_online(world, view, -1)
        assert set(_runs(world)[view][-1:]) == run_ids


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["transre"],
            "family transre: found no embedding view of it in the feature repo; "
            "expected one of transra.",
        ),
        (["transra", "--version", "7"], "version 7 of family transra: found no embedding view"),
        (["transra", "--force"], "--force and --reason TEXT go together"),
        (["transra", "--reason", "so"], "--force and --reason TEXT go together"),
    ],
)
def test_mistakes_are_one_line(
    world: RefreshWorld, provender: Provender, arguments: list[str], line: str
) -> None:
    result = provender("refresh", *arguments, "--home", world.root, "--as-of", "2026-03-05")
    assert result.exit_code in (1, 2)
    assert line in _line(result)
    assert "Traceback" not in result.output


def test_another_producer_s_family(world: RefreshWorld, renew: Provender) -> None:
    world.declare(Version(1, producer="pinsage"))
    views = (world.home.repo / "views.py").read_text()
    (world.home.repo / "views.py").write_text(
        views.replace('producer="pinsage"', 'producer="pinsage", family="transra"')
    )
    result = renew(4)
    assert result.exit_code == 1
    assert "found 'pinsage'; expected one that provender ships: transra, linksage" in _line(result)


def test_a_view_that_was_not_applied(world: RefreshWorld, renew: Provender) -> None:
    world.declare(Version(1), Version(2))
    before = _files(world)
    result = renew(4)
    assert result.exit_code == 1
    line = _line(result)
    assert "_transra_v2: found declared, but not registered; expected a registered view" in line
    assert f"Run `feast apply` in {world.home.repo}".replace(" ", "") in line.replace(" ", "")
    assert _files(world) == before


def test_a_view_that_is_registered_as_something_else(world: RefreshWorld, renew: Provender) -> None:
    world.declare(Version(1, dim=16))
    result = renew(4)
    assert result.exit_code == 1
    assert "found dim 16; expected dim 8, as registered" in _line(result)


def test_a_repo_that_reads_from_elsewhere(
    world: RefreshWorld, tmp_path: Path, provender: Provender
) -> None:
    other = tmp_path / "other"
    shutil.copytree(world.root, other, ignore=shutil.ignore_patterns("feature_repo"))
    place = ["--home", other, "--repo", world.home.repo, "--as-of", "2026-03-05"]
    result = provender("refresh", "transra", *place)
    assert result.exit_code == 1
    line = _line(result).replace(" ", "")
    assert "sourceofpin_transra_v1intheregistry" in line
    assert f"expected{other}/snapshots/pin_transra_v1/*/part-*.parquet" in line


def test_another_online_store_has_no_releases(world: RefreshWorld, renew: Provender) -> None:
    place = world.home.repo / "feature_store.yaml"
    ours = "{type: provender.plugin.online_store.ProvenderOnlineStore}"
    assert ours in place.read_text()
    place.write_text(place.read_text().replace(ours, "{type: sqlite, path: data/stock.db}"))
    world.apply()
    result = renew(4)
    assert result.exit_code == 0, result.output
    assert "Every declared version is refreshed, for no release is known." in _line(result)
    assert "loaded" in result.stdout
    row = {"pin_id": 7}
    read = _store(world).get_online_features(["pin_transra_v1:embedding"], [row]).to_dict()
    keys, vectors = world.snapshots("pin_transra_v1")[-1].read()
    assert read["embedding"][0] == vectors[keys.to_pylist().index(7)].tolist()


def test_a_database_that_does_not_answer(world: RefreshWorld, renew: Provender) -> None:
    database = world.home.repo / "data" / "online.db"
    database.unlink()
    database.mkdir()
    before = _files(world)
    result = renew(4)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert _files(world) == before
    # Named versions are computed and published; they go online when it answers again.
    assert renew(4, "--version", 1).exit_code == 1
    database.rmdir()
    world.apply()
    assert renew(4).exit_code == 0
    assert _is_online(world, VIEWS[0], -1)


def test_produce_takes_every_version_and_begins_an_anchored_one_after_its_anchor(
    world: RefreshWorld, provender: Provender
) -> None:
    world.declare(Version(1), Version(2, dim=16), Version(3, anchored_to=1))
    result = provender("produce", "--home", world.root, "--device", "cpu")
    assert result.exit_code == 0, result.output
    as_ofs = [
        [snapshot.manifest.as_of for snapshot in world.snapshots(f"pin_transra_v{number}")]
        for number in (1, 2, 3)
    ]
    assert as_ofs == [[day(2), day(3)], [day(2), day(3)], [day(3)]]
    assert "version 3 as of 2026-03-03 is left out: version 1" in _line(result)
    assert not any(
        name.startswith("drift/") for name in world.snapshots("pin_transra_v2")[-1].manifest.metrics
    )

    result = provender(
        "produce", "--home", world.root, "--version", 2, "--as-of", "2026-03-05", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    counts = [len(world.snapshots(f"pin_transra_v{number}")) for number in (1, 2, 3)]
    assert counts == [2, 3, 1]
    result = provender("produce", "--home", world.root, "--version", 3, "--as-of", "2026-03-03")
    assert result.exit_code == 1
    assert "Produce version 1 as of an earlier time first." in _line(result)


def test_evaluate_and_graph_take_a_version(world: RefreshWorld, provender: Provender) -> None:
    world.declare(Version(1), Version(2, dim=16))
    at = ["--home", world.root]
    for version in (1, 2):
        result = provender("evaluate", *at, "--version", version, "--device", "cpu")
        assert result.exit_code == 0, result.output
        told = (world.home.reports / "evaluation.json").read_text()
        assert f'"version": {version}' in told
    assert '"version": 2' in told
    assert provender("graph", *at, "--version", 1).exit_code == 0
    result = provender("graph", *at, "--version", 4)
    assert "version 4 of family transra: found no embedding view of it" in _line(result)
