from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from feast import FeatureService, FeatureStore, FeatureView, FileSource

from provender.plugin.embedding_view import spec_of
from provender.plugin.errors import ReleaseConflictError
from provender.plugin.garbage import plan
from provender.plugin.garbage_removal import Removal
from provender.plugin.garbage_survey import survey
from provender.plugin.online_store import ProvenderOnlineStore
from tests.plugin.garbage_world import GarbageWorld, open_garbage_world, run_id, tree
from tests.plugin.online_world import OnlineWorld, number_view, open_world
from tests.plugin.release_world import DAY, USER, T

Provender = Callable[..., Result]


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GarbageWorld]:
    made = open_garbage_world(open_world(request.param, tmp_path), options={"hot": "data/hot"})
    yield made
    made.tear_down()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[GarbageWorld]:
    made = open_garbage_world(open_world("sqlite", tmp_path), options={"hot": "data/hot"})
    yield made
    made.tear_down()


def retired_beside_live(world: GarbageWorld) -> None:
    """Version 1 is retired and out of the files, version 2 lives, with two of five days to keep."""
    world.ready(1, [0, 1])
    world.ready(2, [1, 2, 3, 4, 5], dim=6)
    world.declare_in_files(2)
    (world.released.repo / "releases.yaml").write_text("transra: {keep_days: 2}\n")
    world.ranker("early", 2, [1])
    world.native_version("deleted", 2)
    world.move(live=1)
    world.move(live=2, former=1)
    world.move(action="retire", live=2, former=None, retired=(1,))


def told(result: Result) -> dict[str, set[str]]:
    """Kind -> names of what goes."""
    assert result.exit_code == 0, result.output
    found: dict[str, set[str]] = {}
    for thing in json.loads(result.stdout)["gone"]:
        found.setdefault(thing["kind"], set()).add(thing["name"])
    return found


def expected(world: GarbageWorld) -> dict[str, set[str]]:
    project = world.store.project
    views = ("user_transra_v1", "pin_transra_v1")
    snapshots = {f"{view}/2026031{day}T000000Z" for view in views for day in (0, 1)}
    snapshots |= {f"{view}_transra_v2/20260312T000000Z" for view in ("user", "pin")}
    runs = {run_id(1, T), run_id(1, T + DAY), run_id(2, T + 2 * DAY)}
    return {
        "version": {"transra v1"},
        "table": {f"{project}_{view}" for view in views} | {f"{project}_deleted_v2"},
        "run": runs,
        "snapshot": snapshots,
    }


def test_exactly_what_nothing_needs_goes(world: GarbageWorld, provender: Provender) -> None:
    retired_beside_live(world)
    # Another's tables, whose names begin as ours do, and one that is no online table at all.
    other = OnlineWorld(
        world.released.online.kind,
        world.released.repo,
        world.released.online.url,
        f"{world.store.project}_b",
    )
    other.apply(number_view("user_transra_v1"), number_view("elsewhere"))
    world.released.online.execute(f"CREATE TABLE {world.store.project}_mine (x INTEGER)")
    own = world.home.snapshots / "notes" / "20260310T000000Z" / "readme.txt"
    own.parent.mkdir(parents=True)
    own.write_text("not a snapshot")
    (world.home.runs / "evaluation").mkdir()
    before, tables, registered = tree(world.home.path), world.tables(), world.registered()
    served, history = world.served(2), world.released.releases.history("transra")

    dry = provender("gc", *world.options, "--format", "json")
    assert told(dry) == expected(world)
    assert tree(world.home.path) == before
    assert (world.tables(), world.registered()) == (tables, registered)

    assert told(provender("gc", *world.options, "--apply", "--format", "json")) == told(dry)
    gone = told(dry)
    assert world.tables() == tables - gone["table"]
    views = {"user_transra_v1", "pin_transra_v1"}
    assert world.registered() == registered - views - {f"{view}_snapshots" for view in views}
    folders = [f"snapshots/{name}" for name in gone["snapshot"] | views]
    folders += [f"runs/{name}" for name in gone["run"]]
    folders += [f"repo/data/hot/{table}" for table in gone["table"]]
    changing = ("repo/data/registry.db", "repo/data/online.db")
    left = {
        name: digest
        for name, digest in before.items()
        if not any(Path(name).is_relative_to(folder) for folder in folders)
        and not name.startswith(changing)
    }
    found = tree(world.home.path)
    assert {k: v for k, v in found.items() if not k.startswith(changing)} == left
    assert all(np.array_equal(*each) for each in zip(served, world.served(2), strict=True))
    assert world.released.releases.history("transra") == history
    assert set(ProvenderOnlineStore().records(world.store.config)) == {
        f"{world.store.project}_{entity}_transra_v2" for entity in ("user", "pin")
    }
    assert len(other.store.records(other.config())) == 2

    again = provender("gc", *world.options, "--apply")
    assert "Nothing to drop" in again.stdout


def test_what_feast_has_deleted_and_left(on_sqlite: GarbageWorld, provender: Provender) -> None:
    world = on_sqlite
    world.ready(1, [0])
    world.ready(2, [0], dim=6)
    world.forgotten_by_feast(1)
    gone = told(provender("gc", *world.options, "--apply", "--format", "json"))
    views = ("pin_transra_v1", "user_transra_v1")
    assert gone == {
        "source": {f"{view}_snapshots" for view in views},
        "table": {f"{world.store.project}_{view}" for view in views},
        "run": {run_id(1, T)},
        "snapshot": {f"{view}/20260310T000000Z" for view in views},
    }
    assert not any(name.endswith("v1") for name in world.tables() | world.registered())
    assert len(world.served(2)) == 2


def test_what_a_release_holds_stays_without_its_views(
    on_sqlite: GarbageWorld, provender: Provender
) -> None:
    world = on_sqlite
    world.ready(1, [0])
    world.move(live=1)
    world.forgotten_by_feast(1)
    assert told(provender("gc", *world.options, "--format", "json")) == {}
    shown = provender("gc", *world.options, "--kept")
    assert "version 1 of transra is live: register it by `feast apply`" in shown.stdout


@pytest.mark.parametrize("reason", ["declared", "service", "ranker"])
def test_a_retired_version_stays_for_whom_reads_it(
    on_sqlite: GarbageWorld, provender: Provender, reason: str
) -> None:
    world = on_sqlite
    world.ready(1, [0])
    world.move(live=2, retired=(1,))
    if reason == "declared":
        world.declare_in_files(1)
        why = "retired; take its declaration out of the repo and run `feast apply`"
    elif reason == "service":
        view = world.released.declared[1][0]
        world.store.apply(FeatureService(name="ads", features=[view]))
        why = "retired, but feature service ads reads it"
    else:
        world.ranker("old", 1, [0])
        why = "ranker old.safetensors learned from it"
    shown = json.loads(
        provender("gc", *world.options, "--apply", "--kept", "--format", "json").stdout
    )
    assert shown["gone"] == []
    assert {each["kind"]: each["why"] for each in shown["kept"]}["version"] == why
    assert len(world.served(1)) == 2


def test_a_sql_registry(tmp_path: Path, provender: Provender) -> None:
    path = f"sqlite:///{tmp_path}/registry.sqlite"
    registry = {"registry_type": "sql", "path": path, "cache_ttl_seconds": 60}
    world = open_garbage_world(open_world("sqlite", tmp_path), registry=registry)
    retired_beside_live(world)
    assert told(provender("gc", *world.options, "--apply", "--format", "json")) == expected(world)
    assert not any("v1" in name for name in world.registered())
    assert told(provender("gc", *world.options, "--format", "json")) == {}


def test_what_others_have_in_the_folders_or_read_from_them_stays(
    on_sqlite: GarbageWorld, provender: Provender, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = on_sqlite
    world.ready(1, [0, 1])
    # A view of the user's own over our files, in another project of the same registry.
    path = world.home.snapshots / "user_transra_v1" / "*" / "part-*.parquet"
    source = FileSource(name="mine", path=str(path), timestamp_field="event_timestamp")
    view = FeatureView(name="mine", entities=[USER], source=source, schema=[])
    world.store.registry.apply_feature_view(view, "another")
    # And a copy of a snapshot, and a note beside one.
    first, second = world.snapshots("pin_transra_v1")
    shutil.copytree(first.path, world.home.snapshots / "copies" / first.path.name)
    (second.path / "notes.txt").write_text("looked at by hand")
    world.forgotten_by_feast(1)
    before = tree(world.home.path)
    monkeypatch.chdir(world.home.path)  # A home is mostly given by a relative path.
    options = ["--home", ".", "--repo", "repo", "--apply", "--kept", "--format", "json"]
    shown = provender("gc", *options)
    gone = told(shown)
    assert gone["snapshot"] == {"pin_transra_v1/20260310T000000Z"}
    assert "run" not in gone
    kept = {each["name"]: each["why"] for each in json.loads(shown.stdout)["kept"]}
    assert kept["user_transra_v1/20260310T000000Z"] == (
        "feature view mine of project another reads it"
    )
    assert kept["pin_transra_v1/20260311T000000Z"] == "other files lie in its folder"
    assert kept[run_id(1, T)] == "its snapshots stay"
    for folder in ("snapshots", "runs"):
        files = {name for name in before if name.startswith(folder)}
        left = {name for name in tree(world.home.path) if name.startswith(folder)}
        removed = f"{folder}/pin_transra_v1/20260310T000000Z"
        assert left == {name for name in files if not Path(name).is_relative_to(removed)}


class TestRefusals:
    """Each leaves everything as it was."""

    def test_a_release_that_moves_meanwhile(self, on_sqlite: GarbageWorld) -> None:
        world = on_sqlite
        retired_beside_live(world)
        found = survey(world.store, world.home, world.home.rankers)
        world.move(live=2, former=1, retired=())
        before, tables, registered = tree(world.home.path), world.tables(), world.registered()
        with pytest.raises(ReleaseConflictError) as refusal:
            Removal(world.store, world.home, found.releases).remove(plan(found), print)
        assert str(refusal.value) == (
            "family transra: found move 4 since gc began; expected its release as it was, after "
            "move 3. Run `provender gc` again; transra v1 and what comes after it in the list "
            "stand yet."
        )
        assert (tree(world.home.path), world.tables()) == (before, tables)
        assert world.registered() == registered

    @pytest.mark.parametrize("lock", ["gc", "runs"])
    def test_somebody_at_work(
        self, on_sqlite: GarbageWorld, provender: Provender, lock: str
    ) -> None:
        world = on_sqlite
        retired_beside_live(world)
        before = tree(world.home.path)
        with world.home.locked(lock):
            refused = provender("gc", *world.options, "--apply")
        assert refused.exit_code == 1
        assert f"at work on its {lock}; expected one at a time." in refused.output
        assert tree(world.home.path) == before

    def test_another_online_store(self, on_sqlite: GarbageWorld, provender: Provender) -> None:
        world = on_sqlite
        retired_beside_live(world)
        path = world.released.repo / "feature_store.yaml"
        lines = path.read_text()
        start = lines.index("online_store:")
        end = lines.index("project:")
        path.write_text(f"{lines[:start]}online_store: {{type: sqlite}}\n{lines[end:]}")
        before = tree(world.home.path)
        refused = provender("gc", *world.options, "--apply")
        assert refused.exit_code == 1
        assert "online_store in feature_store.yaml: found type sqlite" in refused.output
        assert tree(world.home.path) == before


def test_in_a_home_of_two_repos(on_sqlite: GarbageWorld, provender: Provender) -> None:
    """What another repo of the same home declares is not this one's to drop."""
    world = on_sqlite
    world.ready(1, [0])
    world.forgotten_by_feast(1)
    other = world.home.path / "other"
    shutil.copytree(world.released.repo, other)
    world.declare_in_files(1)
    (world.released.repo / "views.py").rename(other / "views.py")
    assert told(provender("gc", *world.options, "--format", "json")) == {}


KILLED = """
import os, signal, sys
from pathlib import Path
from click.testing import CliRunner
from provender.plugin import files, garbage_removal, gc_command, online_database
from feast.infra.registry.registry import Registry

POINTS = [
    (Registry, "delete_feature_view"), (Registry, "commit"),
    (garbage_removal, "drop_hot_folder"), (online_database.OnlineDatabase, "drop"),
    (online_database, "forget_table"), (Path, "rename"), (files.shutil, "rmtree"),
]

def dying(inner, count, last):
    def call(*arguments, **named):
        result = inner(*arguments, **named)
        count[0] += 1
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

def run(last, arguments):
    count = [0]
    for owner, name in POINTS:
        setattr(owner, name, dying(getattr(owner, name), count, last))
    result = CliRunner().invoke(gc_command.gc, arguments)
    if result.exit_code:
        print(result.output, file=sys.stderr)
    os._exit(result.exit_code)

for line in sys.stdin:
    last, *arguments = line.split("\\0")
    child = os.fork()
    if not child:
        run(int(last), arguments[:-1])
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[[int, list[str]], bool]]:
    """Run gc in a process that is killed at its n-th step; returns whether it was."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(last: int, arguments: list[str]) -> bool:
        print(last, *arguments, "", sep="\0", file=stdin, flush=True)
        status = int(stdout.readline())
        assert status in (0, 9), status
        return status == 9

    yield run
    process.communicate()


def state(world: GarbageWorld) -> tuple[object, ...]:
    changing = ("repo/data/registry.db", "repo/data/online.db", ".staging", "epoch")
    files = tree(world.home.path)
    return (
        {name: files[name] for name in files if not any(each in name for each in changing)},
        world.tables(),
        world.registered(),
        set(ProvenderOnlineStore().records(world.store.config)),
    )


def test_killed_at_every_step_it_harms_nothing_and_is_completed(
    on_sqlite: GarbageWorld,
    provender: Provender,
    killed: Callable[[int, list[str]], bool],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = on_sqlite
    retired_beside_live(world)
    served = world.served(2)
    world.released.online.database().dispose()
    kept = tmp_path_factory.mktemp("kept") / "home"
    shutil.copytree(world.home.path, kept, symlinks=True)

    def anew() -> None:
        shutil.rmtree(world.home.path)
        shutil.copytree(kept, world.home.path, symlinks=True)

    arguments = [*world.options, "--apply"]
    assert provender("gc", *arguments).exit_code == 0
    whole = state(world)
    step, unlike = 1, 0
    anew()
    while killed(step, arguments):
        assert all(np.array_equal(*each) for each in zip(served, world.served(2), strict=True))
        unlike += state(world) != whole
        assert provender("gc", *arguments).exit_code == 0
        assert state(world) == whole, f"killed at step {step}"
        step += 1 if step < 7 else 4  # From there on the same three come again and again.
        anew()
    assert step > 40
    assert unlike > 10


def test_killed_again_and_again_on_postgresql(
    tmp_path: Path, killed: Callable[[int, list[str]], bool]
) -> None:
    world = open_garbage_world(open_world("postgres", tmp_path), options={"hot": "data/hot"})
    try:
        retired_beside_live(world)
        served, turns = world.served(2), 0
        while killed(4 + turns % 4, [*world.options, "--apply"]):
            turns += 1
            now = world.served(2)
            assert all(np.array_equal(*each) for each in zip(served, now, strict=True))
        assert turns > 5
        assert not any("v1" in name or "deleted" in name for name in world.tables())
        assert not any("v1" in name for name in world.registered())
        found = survey(FeatureStore(str(world.released.repo)), world.home, world.home.rankers)
        assert plan(found).gone == ()
        assert len(world.snapshots("user_transra_v2")) == 4
    finally:
        world.tear_down()


def test_sizes_and_reasons_are_shown(on_sqlite: GarbageWorld, provender: Provender) -> None:
    world = on_sqlite
    retired_beside_live(world)
    shown = provender("gc", *world.options)
    assert "transra v1: pin_transra_v1, user_transra_v1" in shown.stdout
    assert "40 rows" in shown.stdout
    assert "more than 2 days older than the newest" in shown.stdout
    assert "Nothing was changed. To drop it: the same command with --apply" in shown.stdout
    assert spec_of(world.released.declared[1][0]).family == "transra"
