from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from provender.consumers.approximate_index import IndexConfig
from provender.consumers.released_retrieval import ReleasedRetrieval
from provender.consumers.retrieval import Retrieval
from provender.consumers.retrieval_files import Plan, write_all
from provender.plugin.errors import ConfigError, FetchError, VersionError
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.releases import Releases, ReleaseWatch
from tests.consumers.kitchen import DIM, FEASTS, OURS, TTL, Kitchen, Version, hours
from tests.consumers.moves import move, toggled
from tests.plugin.online_world import open_world

USERS, PINS = range(12), range(100, 160)
NOW = hours(30)


def drawn(seed: int, keys: range) -> dict[int, list[float]]:
    rows = np.random.default_rng(seed).standard_normal((len(keys), DIM)).astype(np.float32)
    return {key: row.tolist() for key, row in zip(keys, rows, strict=True)}


def refresh(kitchen: Kitchen, version: Version, at: datetime, seed: int) -> None:
    kitchen.snapshot(version, at, {"user": drawn(seed, USERS), "pin": drawn(seed + 1, PINS)})


@pytest.fixture(params=["sqlite", "postgres", "hot"])
def kitchen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kitchen]:
    """Two versions of 12 users and 60 pins, on a database or with a hot copy."""
    kind = "sqlite" if request.param == "hot" else request.param
    world = open_world(kind, tmp_path)
    made = Kitchen(tmp_path / "kitchen", project=world.project, snapshots=True)
    made.url = world.url if kind == "postgres" else ""
    if request.param == "hot":
        made.stores = OURS.replace('url: "{url}"', 'url: "{url}"\n  hot: hot')
    made.folder.mkdir()
    made.versions = [Version(1), Version(2)]
    for entity, keys in (("user", USERS), ("pin", PINS)):
        made.write(entity, [(key, hours(0), hours(0), (1, 0.5)) for key in keys], vectors=False)
    for version in made.versions:
        refresh(made, version, hours(24), 10 * version.number)
    try:
        yield made
    finally:
        if kind == "postgres":
            world.tear_down()


@pytest.fixture
def store(kitchen: Kitchen) -> FeatureStore:
    applied = kitchen.store()
    applied.materialize(hours(-1), NOW)
    return applied


def released(store: FeatureStore, **options: Any) -> ReleasedRetrieval:
    return ReleasedRetrieval(store, "test", **{"now": NOW, "reload_seconds": 0.0, **options})


def offline(store: FeatureStore, version: int) -> Retrieval:
    return Retrieval.at(store, "test", version, NOW, backfills=True)


def test_online_answers_what_the_snapshots_do(store: FeatureStore) -> None:
    for version in (1, 2):
        move(store, live=version)
        found = released(store).for_users([*USERS, 99], 7)
        expected = offline(store, version).for_users([*USERS, 99], 7)
        assert (found.pins, found.version) == (expected.pins, version)
        assert found.distances.tolist() == expected.distances.tolist()
        assert found.known.tolist() == [*[True] * len(USERS), False]


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_feasts_own_search_gives_the_same(
    kitchen: Kitchen, store: FeatureStore, metric: str
) -> None:
    expected = released(store, version=1, metric=metric).for_users([3], 9)
    row = ProvenderOnlineStore().read_columns(
        store.config, store.get_feature_view("user_test_v1"), {"user_id": [3]}
    )
    vector = row.columns["embedding"].values[0].tolist()
    found = provided(kitchen).retrieve_online_documents_v2(
        features=["pin_test_v1:embedding"], query=vector, top_k=9, distance_metric=metric
    )
    told = found.to_dict()
    assert told["pin_id"] == expected.pins[0]
    assert np.float32(told["distance"]).tolist() == np.float32(expected.distances[0]).tolist()
    stored = drawn(11, PINS)
    assert told["embedding"] == [stored[int(pin)] for pin in expected.pins[0]]


def provided(kitchen: Kitchen) -> FeatureStore:
    """The repo with provender's provider, as the one that it ships has it."""
    settings = kitchen.folder / "feature_store.yaml"
    ours = "provider: provender.plugin.provider.ProvenderProvider"
    settings.write_text(settings.read_text().replace("provider: local", ours))
    return FeatureStore(repo_path=str(kitchen.folder))


def test_a_move_is_followed_and_never_mixed(store: FeatureStore) -> None:
    watch = ReleaseWatch(Releases.of(store), 0)
    live = released(store, watch=watch, reload_seconds=60.0)
    expected = {v: offline(store, v).for_users([5], 6).pins for v in (1, 2)}

    def read() -> int:
        answer = live.for_users([5], 6)
        assert answer.pins == expected[answer.version]
        return answer.version

    toggled(store, (1, 2), read)


def test_another_version_than_asked_for_is_refused(store: FeatureStore) -> None:
    watch = ReleaseWatch(Releases.of(store), 0)
    first = released(store, version=1, watch=watch)
    assert first.for_users([1], 2).version == 1  # Never released.
    assert released(store).for_users([1], 2).version == 2
    move(store, live=1)
    assert first.for_users([1], 2).version == 1
    move(store, live=2)
    with pytest.raises(VersionError, match="found version 2 live; expected version 1"):
        first.for_users([1], 2)
    move(store, "retire", live=None, retired=(1,))
    with pytest.raises(VersionError, match="version 1, which is retired"):
        first.for_users([1], 2)


def test_a_later_load_is_seen(kitchen: Kitchen, store: FeatureStore) -> None:
    live = released(store, version=1, now=hours(60))
    before = live.for_users([2], 5).pins
    refresh(kitchen, Version(1), hours(48), 77)
    store.materialize(hours(47), hours(49))
    after = Retrieval.at(store, "test", 1, hours(60), backfills=True).for_users([2], 5).pins
    assert live.for_users([2], 5).pins == after != before


def test_what_is_past_its_ttl_is_not_answered(store: FeatureStore) -> None:
    edge = hours(24) + TTL
    assert len(released(store, version=1, now=edge).for_users([2], 5).pins[0]) == 5
    answer = released(store, version=1, now=edge + TTL).for_users([2], 5)
    assert (answer.pins, answer.known.tolist()) == ([[]], [False])


def test_filters_and_an_index_online(store: FeatureStore) -> None:
    pytest.importorskip("faiss")
    every = released(store, version=1).for_users([4], 60).pins[0]
    config = IndexConfig(kind="ivf", cells=1, probes=1)
    some = released(store, version=1, only=every[::2], approximate=config)
    assert some.for_users([4], 3, seen={4: every[:4]}).pins == [every[4:10:2]]


def test_what_cannot_be_asked_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no view user_nothing_v1"):
        ReleasedRetrieval(store, "nothing")
    other = Kitchen(tmp_path / "other", stores=FEASTS)
    other.folder.mkdir()
    for entity in ("user", "pin"):
        other.write(entity, [(1, hours(0), hours(0), [1.0] * DIM)])
        other.write(entity, [(1, hours(0), hours(0), (1, 0.5))], vectors=False)
    with pytest.raises(ConfigError, match="releases lie beside its tables"):
        ReleasedRetrieval(other.store(), "test")


@pytest.mark.parametrize("kitchen", ["sqlite"], indirect=True)
def test_all_users_resume_after_an_interruption(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = offline(store, 1)
    pins, users = found.search.pins.stamp, found.users.stamp
    plan = Plan(users=users, pins=pins, k=3, metric="inner_product", part_users=5)
    path = tmp_path / "all.parquet"
    asked: list[int] = []
    answer = Retrieval.for_users

    def noted(self: Retrieval, keys: Any, k: int, **options: Any) -> Any:
        asked.append(len(keys))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(self, keys, k, **options)

    monkeypatch.setattr(Retrieval, "for_users", noted)
    with pytest.raises(KeyboardInterrupt):
        write_all(found, plan, path)
    assert not path.exists()
    done: list[int] = []
    assert write_all(found, plan, path, progress=done.append) == 36
    assert (asked, done) == ([5, 5, 5, 2], [5, 5, 2])
    table = pq.read_table(path)
    assert table.column_names == ["user_id", "rank", "pin_id", "distance"]
    expected = answer(found, list(USERS), 3)
    assert table["pin_id"].to_pylist() == [pin for each in expected.pins for pin in each]
    assert table["user_id"].to_pylist() == [user for user in USERS for _ in range(3)]
    assert not path.with_name("all.parquet.parts").exists()
    # Parts of another plan are thrown away.
    asked[:] = [0, 0]
    write_all(found, plan, path)
    assert sum(asked) == 12


@pytest.mark.parametrize("kitchen", ["sqlite"], indirect=True)
def test_the_command(store: FeatureStore, kitchen: Kitchen, provender: Any, tmp_path: Path) -> None:
    move(store, live=1)
    repo = ["retrieve", "--repo", kitchen.folder, "--view", "test"]
    at = ["--at", "2026-03-02T06:00", "--backfills"]
    expected = offline(store, 1).for_users([7], 4)
    shown = provender(*repo, "--user", 7, "--k", 4, *at)
    assert shown.exit_code == 0, shown.output
    told = [line.split() for line in shown.output.splitlines() if line.strip()[:1].isdigit()]
    assert [int(words[2]) for words in told[:4]] == expected.pins[0]
    assert [float(words[4]) for words in told[:4]] == pytest.approx(
        (-expected.distances[0]).tolist(), abs=1e-6
    )
    csv, seen = tmp_path / "live.csv", tmp_path / "seen.parquet"
    csv.write_text("pin_id\n" + "\n".join(map(str, expected.pins[0])))
    pq.write_table(pa.table({"user_id": [7], "pin_id": [expected.pins[0][0]]}), seen)
    file = tmp_path / "all.parquet"
    options = ["--all", "--to", file, "--pins", csv, "--seen", seen, "--approximate", "ivf"]
    written = provender(*repo, *options, *at)
    assert written.exit_code == 0, written.output
    table = pq.read_table(file)
    mine = table.filter(pa.compute.equal(table["user_id"], 7))
    assert mine["pin_id"].to_pylist() == expected.pins[0][1:]
    for words, message in (
        ([], "neither --user nor --all"),
        (["--all"], "--all without --to or --at"),
        (["--user", "x", *at], "user_id of type int64"),
        (["--user", "99", *at], "no vector of this user"),
        (["--user", "7", "--at", "2020-01-01"], "in force at"),
        (["--user", "7", "--pins", tmp_path / "none.csv", *at], "a Parquet or CSV file"),
        (["--user", "7", "--view", "other", *at], "no view user_other_v1"),
    ):
        refused = provender(*repo, *words)
        assert refused.exit_code == 1
        assert message in " ".join(refused.output.split())
