"""`provender cold`: who came after the refresh has a vector, and nobody else's is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from feast import FeatureStore

from provender.plugin.errors import ConfigError, SnapshotError
from provender.plugin.home import Home
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.snapshot import Snapshot, find_snapshots, write_snapshot
from provender.producers import cold
from provender.producers.cold import supplement
from provender.producers.refresh import refresh
from provender.producers.warm_start import load_relations
from tests.producers.refresh_world import RefreshWorld, Version, day, make_world, quiet

Provender = Callable[..., Result]
HOUR = timedelta(hours=1)
#: Clicks on pins of topic 1 at 2:00, and again at 8:00; on a new pin at 3:00; only shown.
NEWCOMER, LATER, NEW_PIN, SHOWN = 1001, 1002, 5001, 5002
USERS_VIEW, PINS_VIEW = "user_transra_v1", "pin_transra_v1"


def event(user: int, pin: int, hours: float, kind: str = "click") -> dict[str, Any]:
    return {"user_id": user, "pin_id": pin, "time": day(2) + hours * HOUR, "kind": kind}


EVENTS = [
    *(event(NEWCOMER, pin, 2) for pin in (1, 5, 9, 13)),
    *(event(user, NEW_PIN, 3) for user in (1, 5, 9)),
    event(NEWCOMER, 17, 8),
    event(LATER, 2, 9),
]


def append(world: RefreshWorld, events: list[dict[str, Any]]) -> None:
    path = world.home.data / "log.parquet"
    log = pq.read_table(path)
    more = pa.Table.from_pylist(events, schema=log.schema)
    pq.write_table(pa.concat_tables([log, more]), path)


def without_other_newcomers(world: RefreshWorld) -> None:
    """Leave out the events of pins that nobody had clicked or saved before the refresh."""
    path = world.home.data / "log.parquet"
    log = pq.read_table(path)
    known = log.filter(pc.field("time") < day(2))["pin_id"]
    pq.write_table(log.filter(pc.is_in(log["pin_id"], value_set=known.combine_chunks())), path)


def content(world: RefreshWorld, *more: tuple[int, datetime]) -> None:
    """Pictures of the pins of old, by their topics; SHOWN's is of topic 3, made at 4:00."""
    log = pq.read_table(world.home.data / "log.parquet", filters=pc.field("time") < day(2))
    rows = [(pin, day(0)) for pin in sorted(set(log["pin_id"].to_pylist()))]
    rows += [(SHOWN, day(2) + 4 * HOUR), *more]
    table = pa.table(
        {
            "pin_id": [pin for pin, _ in rows],
            "image": [np.eye(4)[3 if pin == SHOWN else pin % 4].tolist() for pin, _ in rows],
            "made": pa.array([made for _, made in rows], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, world.home.data / "pins.parquet")


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as of day 2 with newcomers and content after it, not to be changed."""
    world = make_world(tmp_path_factory.mktemp("refreshed") / "home")
    told = yaml.safe_load(world.home.world.read_text())
    told["tables"]["pins"] = {"path": "pins.parquet"}
    told["content"] = {
        "pin": {"table": "pins", "key": "pin_id", "vector": ["image"], "time": "made"}
    }
    told["transra"]["epochs"] = 10
    world.home.world.write_text(yaml.safe_dump(told))
    without_other_newcomers(world)
    append(world, EVENTS)
    content(world)
    refresh(world.job(), day(2), quiet)
    return world.root


@pytest.fixture
def world(refreshed: Path, tmp_path: Path) -> RefreshWorld:
    """A copy of it of one's own."""
    shutil.copytree(refreshed, tmp_path / "home")
    return RefreshWorld(Home(tmp_path / "home"))


def at(hours: float) -> datetime:
    return day(2) + hours * HOUR


def supplements(world: RefreshWorld, view: str) -> list[Snapshot]:
    found = find_snapshots(world.home.snapshots, view, supplements=True)
    return [each for each in found if each.manifest.supplement_of is not None]


def keys(snapshot: Snapshot | None) -> list[int]:
    assert snapshot is not None
    found: list[int] = snapshot.read()[0].to_pylist()
    return found


def test_newcomers_and_what_is_only_shown_are_placed(world: RefreshWorld) -> None:
    base = world.snapshots(USERS_VIEW)[0].manifest
    done = supplement(world.job(), at(6), quiet)
    users, pins = done.views[USERS_VIEW], done.views[PINS_VIEW]
    assert (done.base.run_id, users.unseen, pins.unseen) == (base.run_id, 1, 2)
    assert keys(users.snapshot) == [NEWCOMER]
    assert keys(pins.snapshot) == [NEW_PIN, SHOWN]
    for view in (users, pins):
        assert view.snapshot is not None
        manifest = view.snapshot.manifest
        assert manifest.supplement_of == manifest.parent == base.run_id
        assert manifest.as_of == at(6)
        view.snapshot.verify()
    # The refresh is untouched, and nothing of the work is left.
    assert [each.manifest for each in world.snapshots(USERS_VIEW)] == [base]
    assert not any((world.home.runs / ".staging").iterdir())


def test_they_are_placed_among_their_own(world: RefreshWorld) -> None:
    """The new user among pins of topic 1, the new pin too, the picture of topic 3 among those."""
    done = supplement(world.job(), at(6), quiet)
    known, vectors = world.snapshots(PINS_VIEW)[0].read()
    topics = known.to_numpy() % 4
    centers = np.stack([vectors[topics == topic].mean(0) for topic in range(4)])
    for view, key, topic in ((USERS_VIEW, NEWCOMER, 1), (PINS_VIEW, NEW_PIN, 1),
                             (PINS_VIEW, SHOWN, 3)):  # fmt: skip
        snapshot = done.views[view].snapshot
        assert snapshot is not None
        found, rows = snapshot.read()
        row = rows[found.to_pylist().index(key)]
        assert np.square(centers - row).sum(1).argmin() == topic, key


def test_what_comes_after_changes_no_bit(world: RefreshWorld, tmp_path: Path) -> None:
    other = RefreshWorld(Home(tmp_path / "other"))
    shutil.copytree(world.root, other.root)
    garbage = [event(NEWCOMER, 3, 6), event(9999, 7777, 6), event(1, NEW_PIN, 60, "save")]
    append(other, garbage)
    content(other, (7778, at(6)), (SHOWN, at(7)))
    for each in (world, other):
        supplement(each.job(), at(6), quiet)
    for view in (USERS_VIEW, PINS_VIEW):
        (mine,), (theirs,) = supplements(world, view), supplements(other, view)
        assert mine.manifest.checksum == theirs.manifest.checksum
        assert mine.manifest.run_id == theirs.manifest.run_id


def test_only_news_are_told_again(world: RefreshWorld) -> None:
    supplement(world.job(), at(6), quiet)
    later = supplement(world.job(), at(10), quiet)
    assert later.views[USERS_VIEW].unseen == 2
    assert keys(later.views[USERS_VIEW].snapshot) == [NEWCOMER, LATER]
    assert later.views[PINS_VIEW].snapshot is None
    last = supplement(world.job(), at(11), quiet)
    assert last.views[USERS_VIEW].rows == last.views[PINS_VIEW].rows == 0
    assert len(supplements(world, USERS_VIEW)) == 2


def test_a_refresh_has_nothing_to_add_to_itself(world: RefreshWorld) -> None:
    done = supplement(world.job(), at(1), quiet)
    assert [each.unseen for each in done.views.values()] == [0, 0]
    assert supplements(world, USERS_VIEW) == []


def test_again_is_done_before(world: RefreshWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    first = supplement(world.job(), at(6), quiet)
    monkeypatch.setattr(cold, "read_events", None)  # Nothing is read again.
    second = supplement(world.job(), at(6), quiet)
    for view in (USERS_VIEW, PINS_VIEW):
        assert second.views[view].done_before
        assert second.views[view].snapshot == first.views[view].snapshot
        assert second.views[view].unseen == first.views[view].unseen


def test_killed_between_two_views(world: RefreshWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def dying(root: Path, spec: Any, *rest: Any) -> Snapshot:
        if written:
            raise KeyboardInterrupt
        written.append(spec.view_name)
        return whole(root, spec, *rest)

    whole = write_snapshot
    monkeypatch.setattr(cold, "write_snapshot", dying)
    with pytest.raises(KeyboardInterrupt):
        supplement(world.job(), at(6), quiet)
    monkeypatch.undo()
    done = supplement(world.job(), at(6), quiet)
    assert {name: each.done_before for name, each in done.views.items()} == {
        name: name in written for name in (USERS_VIEW, PINS_VIEW)
    }
    run_ids = {each.snapshot.manifest.run_id for each in done.views.values() if each.snapshot}
    assert len(run_ids) == 1


def test_a_dry_run_counts_and_writes_nothing(world: RefreshWorld) -> None:
    done = supplement(world.job(), at(6), quiet, dry_run=True)
    assert (done.views[PINS_VIEW].unseen, done.views[PINS_VIEW].rows) == (2, 2)
    assert supplements(world, PINS_VIEW) == []


def test_the_next_refresh_comes_from_the_last_and_knows_all(world: RefreshWorld) -> None:
    base = world.snapshots(USERS_VIEW)[0].manifest.run_id
    supplement(world.job(), at(6), quiet)
    refresh(world.job(), day(3), quiet)
    after = world.snapshots(USERS_VIEW)[-1]
    assert after.manifest.parent == base
    assert {NEWCOMER, LATER} <= set(keys(after))
    done = supplement(world.job(), day(3) + HOUR, quiet)
    assert done.base.run_id == after.manifest.run_id
    assert done.views[USERS_VIEW].unseen == 0


def test_rows_of_a_former_refresh_are_told_again(world: RefreshWorld) -> None:
    """While a refresh trained, a supplement of the former one was made as of a later time."""
    supplement(world.job(), day(3) + HOUR, quiet)
    refresh(world.job(), day(3), quiet)
    done = supplement(world.job(), day(3) + 2 * HOUR, quiet)
    users = done.views[USERS_VIEW].snapshot
    assert users is not None
    assert keys(users) == [NEWCOMER, LATER]
    known, vectors = world.snapshots(USERS_VIEW)[-1].read()
    rows = [known.to_pylist().index(key) for key in (NEWCOMER, LATER)]
    assert np.array_equal(users.read()[1], vectors[rows])
    with pytest.raises(SnapshotError, match="later --as-of"):
        supplement(world.job(), day(3) + HOUR, quiet)


def test_before_any_refresh(world: RefreshWorld) -> None:
    with pytest.raises(ConfigError, match="provender refresh transra"):
        supplement(world.job(), day(2), quiet)


def test_a_run_that_is_gone(world: RefreshWorld) -> None:
    shutil.rmtree(world.home.runs / world.snapshots(USERS_VIEW)[0].manifest.run_id)
    with pytest.raises(ConfigError, match="no model"):
        supplement(world.job(), at(6), quiet)


def test_a_facet_holds_what_its_relation_makes_of_them(world: RefreshWorld) -> None:
    raw = supplement(world.job(), at(6), quiet).views[PINS_VIEW].snapshot
    assert raw is not None
    job = world.job()
    base = world.snapshots(PINS_VIEW)[0].manifest
    known = load_relations(world.home.runs / base.run_id / "model" / "relations.safetensors")
    spec = next(each for each in job.specs if each.entity == "pin")
    facet = spec.model_copy(update={"name": "pin_saved", "facet": "save", "space": "saved"})
    with_facet = job.__class__(job.world, job.data, job.home, (facet,), job.config, job.device)
    shutil.copytree(world.home.snapshots / PINS_VIEW, world.home.snapshots / "pin_saved_v1")
    shutil.rmtree(world.home.snapshots / "pin_saved_v1" / raw.path.name)
    seen = supplement(with_facet, at(6), quiet).views["pin_saved_v1"].snapshot
    assert seen is not None
    vectors = raw.read()[1]
    expected = vectors + vectors @ known["save"]["deviation"].numpy()
    assert seen.read()[1] == pytest.approx(expected, abs=1e-6)


class TestCommand:
    @pytest.fixture
    def run(self, world: RefreshWorld, provender: Provender) -> Provender:
        world.declare(Version(1))
        world.apply()

        def run(name: str, as_of: datetime, *more: object) -> Result:
            told = provender(
                name, "transra", "--home", world.root, "--as-of", as_of.isoformat(), *more
            )
            assert told.exit_code == 0, told.output
            return told

        run("refresh", day(2), "--device", "cpu")
        return run

    def online(self, world: RefreshWorld, user: int) -> bool:
        store = FeatureStore(str(world.home.repo))
        view = store.get_feature_view(USERS_VIEW)
        asked = {"user_id": [user]}
        return bool(ProvenderOnlineStore().read_columns(store.config, view, asked).present[0])

    def test_who_is_new_is_online_and_joined_from_then_on(
        self, world: RefreshWorld, run: Provender
    ) -> None:
        assert not self.online(world, NEWCOMER)
        told = run("cold", at(6))
        assert "61 rows, loaded" in told.output
        assert self.online(world, NEWCOMER)
        assert "done before" in run("cold", at(6)).output
        times = [at(6) - timedelta(microseconds=1), at(6)]
        asked = pd.DataFrame({"user_id": [NEWCOMER] * 2, "event_timestamp": times})
        store = FeatureStore(str(world.home.repo))
        joined = store.get_historical_features(asked, [f"{USERS_VIEW}:embedding"]).to_df()
        assert [value is None for value in joined["embedding"]] == [True, False]

    def test_what_was_published_and_not_loaded_goes_along(
        self, world: RefreshWorld, run: Provender
    ) -> None:
        supplement(world.job(), at(6), quiet)
        run("cold", at(9.5))
        assert self.online(world, NEWCOMER)
        assert self.online(world, LATER)

    def test_the_next_refresh_goes_online_after_it(
        self, world: RefreshWorld, run: Provender
    ) -> None:
        """Even where a supplement as of a later time was there first."""
        run("cold", day(3) + HOUR)
        assert "loaded" in run("refresh", day(3), "--device", "cpu").output
        store = FeatureStore(str(world.home.repo))
        (record,) = (
            each
            for each in ProvenderOnlineStore().records(store.config).values()
            if each.view == USERS_VIEW
        )
        assert record.newest is not None
        assert record.newest.as_of == day(3)
        assert [run.as_of for run in record.strays] == [day(3) + HOUR]
        run("cold", day(3) + 2 * HOUR)
        (record,) = (
            each
            for each in ProvenderOnlineStore().records(store.config).values()
            if each.view == USERS_VIEW
        )
        assert record.strays == ()
