from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from provender.plugin.embedding_view import spec_of
from provender.plugin.errors import CheckpointError, SnapshotError
from provender.plugin.lineage import Lineage, Run, Tracer
from provender.plugin.lineage_graph import Graph, to_json, to_mermaid
from provender.plugin.manifest import RunInfo
from provender.plugin.releases import Release, state_of
from provender.plugin.snapshot import remove_snapshot, write_snapshot
from tests.plugin.garbage_world import GarbageWorld, open_garbage_world, run_id
from tests.plugin.online_world import open_world
from tests.plugin.release_world import DAY, T


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GarbageWorld]:
    """Version 1 of three days; version 2, anchored to it, whose first run starts from its last."""
    made = open_garbage_world(open_world("sqlite", tmp_path))
    made.ready(1, [0, 1, 2])
    made.released.declare(2, anchored_to=1, space="transra_v1")
    made.released.refresh(2, T + 3 * DAY, run=run_id(2, day(3)), parent=run_id(1, day(2)))
    made.released.refresh(2, T + 4 * DAY, run=run_id(2, day(4)), parent=run_id(2, day(3)))
    made.released.materialize(2, day(4))
    made.move(live=1)
    made.move(live=2, former=1)
    yield made
    made.tear_down()


def day(number: int) -> datetime:
    return T + number * DAY


def tracer(world: GarbageWorld) -> Tracer:
    return Tracer(world.released.open(), world.home)


def ids(lineage: Lineage) -> list[str]:
    (chain,) = lineage.chains
    return [run.run_id for run in chain.runs]


def graph(lineage: Lineage) -> tuple[dict[str, dict[str, Any]], set[tuple[str, str, str]]]:
    told = json.loads(to_json(lineage))
    nodes = {each["id"]: each for each in told["nodes"]}
    assert [each["id"] for each in told["nodes"]] == sorted(nodes)
    edges = [(each["from"], each["to"], each["kind"]) for each in told["edges"]]
    assert edges == sorted(set(edges))
    assert {end for edge in edges for end in edge[:2]} <= set(nodes)
    return nodes, set(edges)


def test_from_the_newest_snapshot_to_the_first_run_of_the_anchor(world: GarbageWorld) -> None:
    found = tracer(world).of_view("user_transra_v2")
    chain = [run_id(2, day(4)), run_id(2, day(3)), *(run_id(1, day(n)) for n in (2, 1, 0))]
    assert found.of == f"user_transra_v2@{day(4).isoformat()}"
    assert ids(found) == chain
    assert found.notes == ()
    for run in found.chains[0].runs:
        views = [each.manifest.view for each in run.snapshots]
        assert views == [f"{entity}_transra_v{views[0][-1]}" for entity in ("pin", "user")]
    _nodes, edges = graph(found)
    parents = {(source, target) for source, target, kind in edges if kind == "parent"}
    assert parents == {(f"run:{a}", f"run:{b}") for b, a in itertools.pairwise(chain)}


@pytest.mark.parametrize(
    ("as_of", "newest"), [(day(1), 1), (day(1) + DAY / 2, 1), (day(2), 2), (day(9), 2), (T, 0)]
)
def test_as_of_a_time_the_newest_one_until_then(
    world: GarbageWorld, as_of: datetime, newest: int
) -> None:
    found = tracer(world).of_view("pin_transra_v1", as_of)
    assert ids(found) == [run_id(1, day(n)) for n in range(newest, -1, -1)]


def test_the_depth_says_how_many_were_left_out(world: GarbageWorld) -> None:
    found = tracer(world).of_view("user_transra_v2", depth=2)
    assert ids(found) == [run_id(2, day(4)), run_id(2, day(3))]
    assert found.chains[0].older == 3
    nodes, _edges = graph(found)
    assert f"run:{run_id(1, day(2))}" not in nodes


def test_each_node_says_what_its_manifest_said(world: GarbageWorld) -> None:
    (written,) = [
        each for each in world.snapshots("user_transra_v1") if each.manifest.as_of == day(1)
    ]
    manifest = json.loads(written.manifest.model_dump_json())
    nodes, edges = graph(tracer(world).of_view("user_transra_v1"))
    run = nodes[f"run:{run_id(1, day(1))}"]
    for name in ("producer", "config_hash", "code_version", "as_of", "window_start", "parent"):
        assert run[name] == manifest[name]
    snapshot = nodes[f"snapshot:user_transra_v1@{day(1).isoformat()}"]
    for name in ("rows", "dim", "dtype", "space", "checksum", "metrics", "notes", "version"):
        assert snapshot[name] == manifest[name]
    assert (f"run:{run_id(1, day(1))}", snapshot["id"], "wrote") in edges


def test_downstream_are_tables_releases_and_rankers(world: GarbageWorld) -> None:
    path = world.ranker("ctr", 1, [0, 1])
    nodes, edges = graph(tracer(world).of_view("user_transra_v1"))
    table = f"table:{world.store.project}_user_transra_v1"
    assert nodes[table]["runs"] == [run_id(1, day(n)) for n in range(3)]
    assert nodes[table]["loaded_at"]
    assert nodes["version:transra@1"]["state"] == "former"
    assert (table, "version:transra@1", "of") in edges
    assert nodes["ranker:ranker-ctr"]["path"] == str(path)
    assert nodes["ranker:ranker-ctr"]["views"]["user_transra_v1"] == [
        run_id(1, day(0)),
        run_id(1, day(1)),
    ]
    snapshots = {n: f"snapshot:user_transra_v1@{day(n).isoformat()}" for n in range(3)}
    assert {edge[0] for edge in edges if edge[2] == "loaded"} == set(snapshots.values())
    assert {edge[0] for edge in edges if edge[2] == "trained"} == {snapshots[0], snapshots[1]}


def test_a_run_whose_snapshots_are_gone_is_known_from_its_use(world: GarbageWorld) -> None:
    for view in ("user_transra_v1", "pin_transra_v1"):
        for each in world.snapshots(view)[:2]:
            remove_snapshot(world.home.snapshots, each.path)
    found = tracer(world).of_view("user_transra_v1")
    assert ids(found) == [run_id(1, day(n)) for n in (2, 1, 0)]  # The tables remember them.
    assert [len(run.snapshots) for run in found.chains[0].runs] == [2, 0, 0]
    _nodes, edges = graph(found)
    table = f"table:{world.store.project}_user_transra_v1"
    assert (f"run:{run_id(1, T)}", table, "loaded") in edges


def test_of_a_run_of_which_nothing_is_left_the_id_is_shown(world: GarbageWorld) -> None:
    world.released.refresh(1, day(3), run="later", parent="long gone")
    found = tracer(world).of_view("user_transra_v1")
    assert ids(found) == ["later", "long gone"]
    assert found.chains[0].runs[1] == Run("long gone", None)
    nodes, _edges = graph(found)
    assert nodes["run:long gone"] == {"id": "run:long gone", "kind": "run", "known": False}


def test_without_any_snapshot_what_is_loaded_is_traced(world: GarbageWorld) -> None:
    for view in ("user_transra_v2", "pin_transra_v2"):
        for each in world.snapshots(view):
            remove_snapshot(world.home.snapshots, each.path)
    found = tracer(world).of_view("user_transra_v2")
    assert found.notes == ("None of its snapshots stands.",)
    assert ids(found)[0] == run_id(2, day(4))
    assert len(ids(found)) == 5


def test_a_view_that_has_left_the_registry(world: GarbageWorld) -> None:
    world.forgotten_by_feast(1)
    found = tracer(world).of_view("user_transra_v1")
    assert found.notes == ("It is not registered any more, or not yet.",)
    assert found.chains[0].state == "not registered"
    assert len(ids(found)) == 3


def test_runs_that_name_each_other_as_parents_end(world: GarbageWorld) -> None:
    world.released.refresh(1, day(5), run="a", parent="b")
    world.released.refresh(1, day(6), run="b", parent="a")
    assert ids(tracer(world).of_view("user_transra_v1")) == ["b", "a"]


def test_a_ranker_has_a_chain_for_each_view(world: GarbageWorld, tmp_path: Path) -> None:
    path = world.ranker("ctr", 2, [3])
    elsewhere = tmp_path / "elsewhere.safetensors"
    path.rename(elsewhere)
    found = tracer(world).of_ranker(elsewhere)
    assert [chain.view for chain in found.chains] == ["pin_transra_v2", "user_transra_v2"]
    for chain in found.chains:
        assert chain.runs[0].run_id == run_id(2, day(3))
        assert len(chain.runs) == 4
        assert chain.state == "live"
    assert [ranker.path for ranker in found.rankers] == [elsewhere]
    nodes, edges = graph(found)
    assert ("ranker:ranker-ctr", "trained") in {(edge[1], edge[2]) for edge in edges}
    assert [n for n in nodes if n.startswith("ranker:")] == ["ranker:ranker-ctr"]


def test_mermaid_is_safe_whatever_is_in_it(world: GarbageWorld) -> None:
    view = world.released.declared[1][0]
    run = RunInfo('ru"n <b> # end', "transra", "c]\n|", T, day(7), parent=run_id(1, day(2)))
    write_snapshot(
        world.home.snapshots,
        spec_of(view),
        day(7),
        pa.array([1], pa.int64()),
        np.ones((1, 4), np.float32),
        run,
    )
    found = tracer(world).of_view("user_transra_v1")
    lines = to_mermaid(found).splitlines()
    assert lines[0] == "flowchart LR"
    boxes = [line for line in lines if '["' in line]
    laid = Graph.of(found)
    assert len(boxes) == len(laid.nodes)
    for number, line in enumerate(boxes):
        assert line.startswith(f'  n{number}["')
        assert line.endswith('"]')
        assert not set('"<>') & set(line[line.index('["') + 2 : -2].replace("<br/>", ""))
    assert any("run ru#quot;n #lt;b#gt; #35; end<br/>config c] |" in line for line in boxes)
    arrows = [line for line in lines if "-->" in line]
    assert len(arrows) == len(laid.edges)


class TestRefusals:
    def test_an_unknown_view(self, world: GarbageWorld) -> None:
        with pytest.raises(SnapshotError) as refusal:
            tracer(world).of_view("user_transra_v9")
        assert str(refusal.value) == (
            "lineage of user_transra_v9: found no embedding view, snapshot or file of that name; "
            "expected one of pin_transra_v1, pin_transra_v2, user_transra_v1, user_transra_v2. "
            "Correct the name, or declare the view and run `feast apply`."
        )

    def test_nothing_as_of_that_time(self, world: GarbageWorld) -> None:
        with pytest.raises(SnapshotError) as refusal:
            tracer(world).of_view("user_transra_v1", T - DAY)
        assert str(refusal.value) == (
            "lineage of user_transra_v1: found no snapshot as of 2026-03-09T00:00:00+00:00; "
            "expected one of 2026-03-10T00:00 to 2026-03-12T00:00. Give a later time."
        )

    def test_no_snapshot_yet(self, world: GarbageWorld) -> None:
        world.released.declare(3)
        with pytest.raises(SnapshotError) as refusal:
            tracer(world).of_view("user_transra_v3")
        assert str(refusal.value) == (
            "lineage of user_transra_v3: found no snapshot; expected a snapshot beside its "
            "manifest. Run its producer, such as `provender produce`."
        )

    def test_a_checkpoint_without_a_stamp(self, world: GarbageWorld, tmp_path: Path) -> None:
        path = tmp_path / "old.safetensors"
        path.write_bytes((2).to_bytes(8, "little") + b"{}")
        with pytest.raises(CheckpointError) as refusal:
            tracer(world).of_ranker(path)
        assert str(refusal.value) == (
            f"ranker {path}: found no stamp that says what it was trained on; expected a "
            "checkpoint that `provender rank` wrote. Train it again; older checkpoints do not say "
            "where they come from."
        )


def test_files_of_the_users_own_have_no_lineage(world: GarbageWorld, tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    world.released.declare(4, snapshots=own, entities=[world.store.get_entity("user")])
    found = tracer(world).of_view("user_transra_v4")
    assert found.notes == (f"Its vectors are files of your own, without manifests: {own}",)
    assert ids(found) == []
    assert graph(found)[0]["version:transra@4"]["state"] == "not released"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, "never released"),
        ({"live": 1}, "live"),
        ({"live": 2, "candidate": 1}, "candidate"),
        ({"live": 2, "former": 1}, "former"),
        ({"live": 2, "retired": (1,)}, "retired"),
        ({"live": 2}, "not released"),
    ],
)
def test_the_state_of_a_version(state: dict[str, Any] | None, expected: str) -> None:
    fixed = {"family": "f", "serial": 1, "action": "promote", "at": T, "by": "a@b"}
    release = Release.model_validate(fixed | state) if state else None
    assert state_of(release, 1) == expected
