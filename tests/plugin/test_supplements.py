"""Supplements beside refreshes: read with them by joins, and never taken for one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from provender.plugin.embedding_view import spec_of
from provender.plugin.garbage import Plan, plan
from provender.plugin.garbage_survey import survey
from provender.plugin.lineage import Tracer
from provender.plugin.manifest import RunInfo, RunRecord
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.ranker_stamp import TrainedOn
from provender.plugin.release_gates import Trial, fresh, one_run
from provender.plugin.snapshot import Snapshot, find_snapshot, find_snapshots, write_snapshot
from provender.plugin.stored_views import stored_families
from provender.plugin.table_records import TableRecord, note_load
from tests.plugin.garbage_world import GarbageWorld, open_garbage_world, run_id, write_ranker
from tests.plugin.online_world import OnlineWorld
from tests.plugin.release_world import DAY, T

HOUR = timedelta(hours=1)
VIEW = "user_transra_v1"
#: A user that no refresh knows.
NEW = 10_000_000


@pytest.fixture
def world(online: OnlineWorld) -> Iterator[GarbageWorld]:
    """Refreshes of four days, the last two of them online."""
    made = open_garbage_world(online)
    made.ready(1, range(4))
    yield made
    made.tear_down()


def supplemented(
    world: GarbageWorld, as_of: datetime, of: datetime, *, value: float = 1.0
) -> Snapshot:
    """Write a supplement with one new user."""
    base = run_id(1, of)
    run = RunInfo(f"cold-{as_of:%d%H}", "transra", "c0ffee", of, as_of, {}, base, {}, base)
    spec = spec_of(world.released.declared[1][0])
    row = np.full((1, spec.dim), value, np.float32)
    return write_snapshot(world.home.snapshots, spec, as_of, pa.array([NEW]), row, run)


def record(world: GarbageWorld) -> TableRecord:
    found = ProvenderOnlineStore().records(world.store.config)
    return found[f"{world.store.project}_{VIEW}"]


def check(world: GarbageWorld, gate: Any, now: datetime) -> Any:
    versions = stored_families(world.store, world.released.releases)["transra"]
    gates = survey(world.store, world.home, world.home.rankers).gates["transra"]
    return gate(Trial("transra", 1, versions, None, gates, now))


class TestOnDisk:
    def test_a_refresh_as_of_the_same_time_has_its_own_place(self, world: GarbageWorld) -> None:
        at = T + 3 * DAY  # The fourth refresh stands there.
        written = supplemented(world, at, T + 2 * DAY)
        refresh = find_snapshot(world.home.snapshots, VIEW, at)
        assert refresh is not None
        assert refresh.manifest.supplement_of is None
        found = find_snapshot(world.home.snapshots, VIEW, at, supplement=True)
        assert found is not None
        assert (found.path, found.manifest) == (written.path, written.manifest)
        found.verify()

    def test_who_looks_for_refreshes_sees_no_supplement(self, world: GarbageWorld) -> None:
        supplemented(world, T + 3.5 * DAY, T + 3 * DAY)
        refreshes = find_snapshots(world.home.snapshots, VIEW)
        assert [each.manifest.as_of for each in refreshes] == [T + n * DAY for n in range(4)]
        everything = find_snapshots(world.home.snapshots, VIEW, supplements=True)
        assert [each.manifest.as_of for each in everything][-2:] == [T + 3 * DAY, T + 3.5 * DAY]

    def test_of_two_as_of_one_time_joins_take_the_later_made(self, world: GarbageWorld) -> None:
        keys = [1, NEW]
        supplemented(world, T + 3 * DAY, T + 2 * DAY)
        asked = pd.DataFrame({"user_id": keys, "event_timestamp": [T + 3 * DAY] * 2})
        found = world.store.get_historical_features(asked, [f"{VIEW}:embedding"]).to_df()
        known = find_snapshot(world.home.snapshots, VIEW, T + 3 * DAY)
        assert known is not None
        all_keys, vectors = known.read()
        assert found["embedding"][0] == pytest.approx(vectors[all_keys.to_pylist().index(1)])
        assert list(found["embedding"][1]) == [1.0] * 4


def test_a_join_finds_the_new_only_from_its_time_on(world: GarbageWorld) -> None:
    supplemented(world, T + 3.5 * DAY, T + 3 * DAY, value=1.0)
    supplemented(world, T + 3.75 * DAY, T + 3 * DAY, value=2.0)
    times = [T + 3.5 * DAY - timedelta(microseconds=1), T + 3.5 * DAY, T + 3.75 * DAY, T + 7 * DAY]
    asked = pd.DataFrame({"user_id": [NEW] * 4, "event_timestamp": times})
    found = world.store.get_historical_features(asked, [f"{VIEW}:embedding"]).to_df()
    told = [None if value is None else value[0] for value in found["embedding"]]
    assert told == [None, 1.0, 2.0, None]  # Three days are the ttl.


class TestOnline:
    def test_a_load_notes_it_and_the_newest_refresh_stays_so(self, world: GarbageWorld) -> None:
        new = supplemented(world, T + 3.5 * DAY, T + 3 * DAY)
        world.store.materialize(T + 3 * DAY + HOUR, T + 3.5 * DAY, [VIEW])
        noted = record(world)
        assert noted.runs[-1] == new.manifest.record
        assert noted.newest is not None
        assert noted.newest.run_id == run_id(1, T + 3 * DAY)
        assert noted.strays == ()
        view = world.store.get_feature_view(VIEW)
        rows = ProvenderOnlineStore().read_columns(world.store.config, view, {"user_id": [NEW, 1]})
        assert rows.present.all()

    def test_one_run_accepts_its_supplements_and_no_others(self, world: GarbageWorld) -> None:
        supplemented(world, T + 3.5 * DAY, T + 3 * DAY)
        world.store.materialize(T + 3.5 * DAY, T + 3.5 * DAY, [VIEW])
        assert check(world, one_run, T + 4 * DAY).passed
        supplemented(world, T + 3.6 * DAY, T + 2 * DAY)
        world.store.materialize(T + 3.6 * DAY, T + 3.6 * DAY, [VIEW])
        refused = check(world, one_run, T + 4 * DAY)
        assert not refused.passed
        assert run_id(1, T + 2 * DAY) in refused.found
        assert "provender cold" in refused.found
        supplemented(world, T + 3.7 * DAY, T + 3 * DAY)
        world.store.materialize(T + 3.7 * DAY, T + 3.7 * DAY, [VIEW])
        assert check(world, one_run, T + 4 * DAY).passed

    def test_a_fresh_supplement_makes_no_old_refresh_fresh(self, world: GarbageWorld) -> None:
        supplemented(world, T + 5.5 * DAY, T + 3 * DAY)
        world.store.materialize(T + 5.5 * DAY, T + 5.5 * DAY, [VIEW])
        assert check(world, fresh, T + 6 * DAY).passed
        assert not check(world, fresh, T + 6 * DAY + HOUR).passed


def test_a_note_holds_a_refresh_and_a_supplement_of_one_time() -> None:
    row = {"runs": "[]"}

    class Cursor:
        def execute(self, sql: str, values: tuple[Any, ...]) -> None:
            if sql.startswith("UPDATE"):
                row["runs"] = values[0]

        def fetchone(self) -> tuple[str]:
            return (row["runs"],)

    refresh = RunRecord(
        run_id="b",
        producer="p",
        config_hash="c",
        code_version="1",
        as_of=T,
        window_start=T,
        window_end=T,
        parent=None,
        checksum="d",
    )
    supplement = refresh.model_copy(update={"run_id": "s", "supplement_of": "a"})
    for each in (refresh, supplement):
        note_load(Cursor(), "?", "t", [each], None)
    noted = TableRecord(name="t", project="p", view="v", runs=json.loads(row["runs"]))
    assert noted.runs == (supplement, refresh)
    assert (noted.newest, noted.strays) == (refresh, ())


class TestGarbage:
    def decided(self, world: GarbageWorld, keep_days: int) -> Plan:
        found = survey(world.store, world.home, world.home.rankers)
        gates = {"transra": found.gates["transra"].model_copy(update={"keep_days": keep_days})}
        return plan(replace(found, gates=gates))

    def test_it_goes_with_its_refresh_and_not_before(self, world: GarbageWorld) -> None:
        for number in range(4):
            supplemented(world, T + (number + 0.5) * DAY, T + number * DAY)
        # The newest refresh is of day 3; by the newest supplement day 1 would be too old.
        decided = self.decided(world, keep_days=2)
        gone = {each.name for each in decided.gone if each.kind == "snapshot"}
        day = f"{VIEW}/{T:%Y%m%dT}"
        assert {name for name in gone if name.startswith(VIEW)} == {
            f"{day}{T:%H%M%SZ}",
            f"{day}{T + DAY / 2:%H%M%SZ}-supplement",
        }
        why = {each.name: each.why for each in decided.kept}
        at = T + 1.5 * DAY
        assert why[f"{VIEW}/{at:%Y%m%dT%H%M%SZ}-supplement"].startswith("its refresh, ")

    def test_what_a_ranker_learned_from_stays(self, world: GarbageWorld) -> None:
        supplemented(world, T + DAY / 2, T)
        path = world.home.rankers / "r.safetensors"
        new = find_snapshots(world.home.snapshots, VIEW, supplements=True)[1]
        spec = spec_of(world.released.declared[1][0])
        write_ranker(path, [TrainedOn(spec=spec, runs=(new.manifest.record,))])
        decided = self.decided(world, keep_days=2)
        gone = {each.path for each in decided.gone}
        assert new.path not in gone
        assert find_snapshots(world.home.snapshots, VIEW)[0].path in gone

    def test_a_refresh_of_an_earlier_time_may_yet_be_gone_on_with(
        self, world: GarbageWorld
    ) -> None:
        """A supplement as of a later time does not say that no such refresh comes any more."""
        unfinished = run_id(1, T + 3.25 * DAY)
        (world.home.runs / unfinished).mkdir()
        supplemented(world, T + 3.5 * DAY, T + 3 * DAY)
        why = {each.name: each.why for each in self.decided(world, keep_days=9).kept}
        assert why[unfinished] == "it may yet be gone on with"


def test_lineage_begins_at_a_refresh(world: GarbageWorld) -> None:
    supplemented(world, T + 3.5 * DAY, T + 3 * DAY)
    world.store.materialize(T + 3.5 * DAY, T + 3.5 * DAY, [VIEW])
    found = Tracer(world.store, world.home).of_view(VIEW)
    runs = [run.run_id for run in found.chains[0].runs]
    assert runs == [run_id(1, T + number * DAY) for number in (3, 2, 1, 0)]


def test_a_manifest_from_before_supplements_is_a_refresh(tmp_path: Path) -> None:
    told = {
        "run_id": "a",
        "producer": "p",
        "config_hash": "c",
        "code_version": "1",
        "as_of": T.isoformat(),
        "window_start": T.isoformat(),
        "window_end": T.isoformat(),
        "parent": None,
        "checksum": "d",
    }
    assert RunRecord.model_validate_json(json.dumps(told)).supplement_of is None
