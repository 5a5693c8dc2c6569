"""Refreshes of several versions: their parents, what they were worth, and their gate."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from provender.plugin.drift import drift
from provender.plugin.errors import CheckpointError, ConfigError, DriftError
from provender.plugin.gates import DriftGates
from provender.plugin.home import Home
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.drift_gate import DriftGate
from provender.producers.evaluation import next_day
from provender.producers.event_mapping import EventMapping
from provender.producers.event_set import EventSet
from provender.producers.events import read_events, read_window
from provender.producers.publish import Finding
from provender.producers.refresh import Refresh, refresh, restore
from provender.producers.vectors import Vectors
from tests.producers.refresh_world import RefreshWorld, Version, day, make_world, quiet, write_log

#: In none of these gates is there room for anything.
STRICT = DriftGates(cosine=1, coverage=1, norm=1, neighbours=0)


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> RefreshWorld:
    """A home with version 1 as of days 2, 3 and 4, not to be changed."""
    world = make_world(tmp_path_factory.mktemp("produced") / "home")
    for number in (2, 3, 4):
        refresh(world.job(), day(number), quiet)
    return world


@pytest.fixture
def world(produced: RefreshWorld, tmp_path: Path) -> RefreshWorld:
    """A copy of it of one's own."""
    shutil.copytree(produced.root, tmp_path / "home")
    return RefreshWorld(Home(tmp_path / "home"))


def _of(result: Refresh, entity: str) -> Snapshot:
    """What a refresh has published for one entity."""
    return next(each for each in result.snapshots if each.manifest.entity == entity)


def _cosine(one: Snapshot, other: Snapshot) -> float:
    found = drift(*one.read(), *other.read()).cosine_mean
    assert found is not None
    return found


def test_the_parent_is_judged_by_the_events_that_came_after_it(produced: RefreshWorld) -> None:
    """Against the evaluation of the parent by a window that is read from the log again."""
    job = produced.job()
    trained = restore(job, day(3), quiet)
    mapping = EventMapping.from_world(job.world)
    window = read_window(mapping, job.data, trained.events, day(4), produced.root / "window")
    report = next_day(trained.parameters, trained.graph, window).metrics()
    expected = {
        who: np.mean([report[f"{kind}/{who}/recall@100"] for kind in ("click", "save")])
        for who in ("model", "popularity")
    }

    for view in ("user_transra_v1", "pin_transra_v1"):
        manifest = produced.snapshots(view)[-1].manifest
        assert manifest.metrics["quality"] == pytest.approx(expected["model"], abs=1e-6)
        popular = manifest.metrics["quality_popularity"]
        assert popular == pytest.approx(expected["popularity"], abs=1e-6)
        assert manifest.notes == {"judged": f"{day(3).isoformat()}/{day(4).isoformat()}"}
        assert manifest.parent == produced.snapshots(view)[1].manifest.run_id
    assert expected["model"] > expected["popularity"] + 0.1


def test_a_first_refresh_has_nobody_to_judge(produced: RefreshWorld) -> None:
    first = produced.snapshots("user_transra_v1")[0].manifest
    assert first.parent is None
    assert "quality" not in first.metrics
    assert first.notes == {}


def test_judging_changes_neither_ids_nor_vectors(
    produced: RefreshWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_world(tmp_path / "home")
    monkeypatch.setattr("provender.producers.parent_quality.quality", lambda *_: None)
    for number in (2, 3):
        refresh(other.job(), day(number), quiet)
    for before, now in zip(
        produced.snapshots("pin_transra_v1"), other.snapshots("pin_transra_v1"), strict=False
    ):
        assert now.manifest.run_id == before.manifest.run_id
        assert now.manifest.checksum == before.manifest.checksum
    assert now.manifest.metrics["quality"] is None
    assert now.manifest.notes["not_judged"] == "no event between entities that the parent knows"


@pytest.mark.parametrize("lost", ["", "model", "events", "model/relations.safetensors"])
def test_a_parent_that_is_gone_stops_nothing(world: RefreshWorld, lost: str) -> None:
    parent = world.snapshots("pin_transra_v1")[-1].manifest.run_id
    place = world.home.runs / parent / lost
    shutil.rmtree(place) if place.is_dir() else place.write_bytes(b"broken")
    if lost.endswith(".safetensors"):  # That is where a refresh starts from.
        with pytest.raises(CheckpointError):
            refresh(world.job(), day(5), quiet)
        return

    manifest = refresh(world.job(), day(5), quiet).snapshots[0].manifest

    assert manifest.parent == parent
    assert (manifest.metrics["quality"], manifest.metrics["quality_popularity"]) == (None, None)
    assert str(world.home.runs / parent) in manifest.notes["not_judged"]
    assert "judged" not in manifest.notes


def test_damaged_events_of_the_parent_stop_nothing(world: RefreshWorld) -> None:
    parent = world.snapshots("pin_transra_v1")[-1].manifest.run_id
    (events,) = (world.home.runs / parent / "events").glob("*/events.parquet")
    events.write_bytes(b"no Parquet")
    manifest = refresh(world.job(), day(5), quiet).snapshots[0].manifest
    assert manifest.metrics["quality"] is None
    assert "Parquet" in manifest.notes["not_judged"]


def test_events_since_are_those_of_the_log(produced: RefreshWorld, tmp_path: Path) -> None:
    """The cheap way and the reader agree, also where keys are new and numbers have moved."""
    log = tmp_path / "log.parquet"
    write_log(log, seed=3)
    mapping = EventMapping.from_world(produced.job().world)
    cut = pq.read_table(log)["time"][600].as_py()  # An event at this very moment is news.
    former = read_events(mapping, tmp_path, cut, tmp_path / "work")
    later = read_events(mapping, tmp_path, day(4), tmp_path / "work")
    assert former.counts["pin"] < later.counts["pin"]
    columns = ["relation", "head", "tail"]

    found = EventSet.open(later.folder).since(EventSet.open(former.folder))

    read = read_window(mapping, tmp_path, former, day(4), tmp_path / "work").select(columns)
    order = [(name, "ascending") for name in columns]
    assert len(read) > 500
    assert found.sort_by(order).equals(read.replace_schema_metadata().sort_by(order))


def test_an_event_set_is_opened_as_it_was_read(produced: RefreshWorld, tmp_path: Path) -> None:
    job = produced.job()
    read = read_events(EventMapping.from_world(job.world), job.data, day(2), tmp_path)
    assert EventSet.open(read.folder) == read
    (read.folder / "report.json").write_text('{"window": 7}')
    with pytest.raises(CheckpointError, match=r"expected the events of a run"):
        EventSet.open(read.folder)


def test_an_anchored_version_stays_where_its_anchor_is(world: RefreshWorld) -> None:
    world.declare(Version(1), Version(2, anchored_to=1), Version(3))
    more = {"versions": {2: {"epochs": 4, "refresh_epochs": 4, "seed": 5}, 3: {"seed": 5}}}
    former = world.snapshots("pin_transra_v1")[1]
    anchored, free = (
        _of(refresh(world.job(number, **more), day(4), quiet), "pin") for number in (2, 3)
    )

    assert anchored.manifest.parent == former.manifest.run_id
    assert free.manifest.parent is None
    assert "quality" not in anchored.manifest.metrics  # That would be version 1's.
    assert _cosine(former, anchored) > 0.9
    assert _cosine(former, free) < 0.5
    # And from then on it has a history of its own.
    second = _of(refresh(world.job(2, **more), day(5), quiet), "pin").manifest
    assert second.parent == anchored.manifest.run_id
    assert second.metrics["quality"] is not None


def test_versions_are_asked_the_same(world: RefreshWorld) -> None:
    world.declare(Version(1), Version(2, dim=16))
    for number in (2, 3):
        refresh(world.job(2), day(number), quiet)
    one, other = (world.snapshots(f"pin_transra_v{v}")[1].manifest for v in (1, 2))
    assert one.notes == other.notes
    assert one.metrics["quality_popularity"] == other.metrics["quality_popularity"]
    assert one.metrics["quality"] != other.metrics["quality"]


def test_there_is_something_to_be_anchored_to(world: RefreshWorld) -> None:
    world.declare(Version(1), Version(2, anchored_to=1))
    with pytest.raises(ConfigError) as caught:
        refresh(world.job(2), day(2), quiet)
    line = str(caught.value)
    assert line.startswith("version 2 of family transra as of 2026-03-03 00:00: found no earlier")
    assert "Produce version 1 as of an earlier time first." in line
    assert not world.snapshots("pin_transra_v2")


def test_another_dim_is_not_anchored(world: RefreshWorld) -> None:
    world.declare(Version(1), Version(2, dim=16, anchored_to=1))
    with pytest.raises(ConfigError, match="from the parent: found dim 8; expected dim 16"):
        refresh(world.job(2), day(4), quiet)


def _state(world: RefreshWorld) -> list[Path]:
    return sorted([*world.home.snapshots.rglob("*"), *world.home.features.rglob("*")])


def test_a_gate_sees_the_vectors_before_anything_is_published(world: RefreshWorld) -> None:
    before, seen = _state(world), []

    def gate(spec: EmbeddingSpec, as_of: datetime, vectors: Vectors) -> Finding:
        seen.append((spec.view_name, as_of, vectors.vectors.shape))
        assert _state(world) == before
        refused = DriftError("x", found="y", expected="z", remedy="") if len(seen) == 2 else None
        return Finding({"drift/cosine_mean": 0.5}, {"seen": spec.entity}, refused)

    refused = refresh(world.job(), day(5), quiet, gate)
    assert (refused.snapshots, refused.done_before) == ((), False)
    assert _state(world) == before
    assert {name: shape for name, _, shape in seen} == {
        "user_transra_v1": (60, 8),
        "pin_transra_v1": (200, 8),
    }

    passed = refresh(world.job(), day(5), quiet, gate)
    for entity in ("user", "pin"):
        snapshot = _of(passed, entity)
        assert snapshot.manifest.metrics["drift/cosine_mean"] == 0.5
        assert snapshot.manifest.notes["seen"] == entity
        assert passed.run_id == snapshot.manifest.run_id == refused.run_id
    assert refresh(world.job(), day(5), quiet, gate).done_before
    assert len(seen) == 4


def test_a_gate_changes_no_bit(world: RefreshWorld, produced: RefreshWorld, tmp_path: Path) -> None:
    ungated = RefreshWorld(Home(tmp_path / "ungated"))
    shutil.copytree(produced.root, ungated.root)
    with_gate = refresh(world.job(), day(5), quiet, DriftGate(world.home.snapshots, DriftGates()))
    without = refresh(ungated.job(), day(5), quiet)
    assert with_gate.run_id == without.run_id
    for one, other in zip(with_gate.snapshots, without.snapshots, strict=True):
        assert one.manifest.checksum == other.manifest.checksum


def _gated(world: RefreshWorld, gates: DriftGates, forced: str | None = None) -> Refresh:
    return refresh(world.job(), day(5), quiet, DriftGate(world.home.snapshots, gates, forced))


def test_drift_is_measured_against_the_same_view_s_last_snapshot(world: RefreshWorld) -> None:
    former = world.snapshots("pin_transra_v1")[-1]
    pin = _of(_gated(world, DriftGates()), "pin")
    expected = drift(*former.read(), *pin.read())
    assert {name: pin.manifest.metrics[name] for name in expected.metrics()} == expected.metrics()
    assert expected.cosine_mean is not None
    assert 0.7 < expected.cosine_mean < 1


def test_forced_it_is_published_without_training_again(
    world: RefreshWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = _gated(world, STRICT)
    assert refused.snapshots == ()
    assert [found.refused is not None for found in refused.findings.values()] == [True, True]
    chunks: list[int] = []
    monkeypatch.setattr("provender.producers.trainer.Run.step", lambda *_: chunks.append(1))

    forced = _gated(world, STRICT, "the logger was repaired")

    assert not chunks
    for snapshot in forced.snapshots:
        notes = snapshot.manifest.notes
        assert notes["forced"] == "the logger was repaired"
        assert "@" in notes["forced_by"]
        assert notes["beyond"].startswith("mean cosine 0.")
        assert "judged" in notes


def test_what_passes_is_not_called_forced(world: RefreshWorld) -> None:
    passed = _gated(world, DriftGates(), "to be safe")
    assert all("forced" not in snapshot.manifest.notes for snapshot in passed.snapshots)


def test_a_first_snapshot_has_nothing_to_drift_from(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home")
    first = refresh(world.job(), day(2), quiet, DriftGate(world.home.snapshots, STRICT))
    assert len(first.snapshots) == 2
    assert not any(name.startswith("drift/") for name in first.snapshots[0].manifest.metrics)


def test_a_dry_run_publishes_nothing(world: RefreshWorld) -> None:
    before = _state(world)
    gate = DriftGate(world.home.snapshots, DriftGates())
    dry = refresh(world.job(), day(5), quiet, gate, dry_run=True)
    assert dry.snapshots == ()
    assert _state(world) == before
    assert dry.findings["pin_transra_v1"].metrics["drift/coverage"] == 1
