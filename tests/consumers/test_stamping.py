"""What a ranker's checkpoint says of its origin, and that it is so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore

from provender.consumers.ranker import Ranker, RankerConfig, load_ranker, save_ranker
from provender.consumers.ranker_training import TrainingConfig, train_ranker
from provender.consumers.training_join import TrainingSet, training_join
from provender.plugin.errors import CheckpointError
from provender.plugin.ranker_stamp import RankerStamp, read_stamp, read_stamps
from provender.plugin.snapshot import find_snapshots
from tests.consumers.kitchen import FEASTS, OURS, T0, TTL, Kitchen, Version, hours

Vectors = Mapping[str, Mapping[int, list[float]]]
TWO = Version(2, dim=6)
DAYS = range(5)
KEYS = {"user": (1, 2), "pin": (10, 11, 12)}
#: (user, pin, hour) of impressions that use the snapshots of days 1 and 3, and of no other: user
#: 9 is nobody, and day 2 lacks every pin and user 1.
ASKED = [(1, 10, 30.0), (1, 11, 71.0), (9, 99, 40.0), (1, 10, 47.9), (1, 12, 80.0), (2, 10, 95.5)]


def vectors_of(version: Version, day: int) -> Vectors:
    """Random vectors of a day; user 1 and the pins have none on day 2."""
    generator = np.random.default_rng(100 * version.number + day)
    return {
        entity: {
            key: generator.normal(size=version.dim).astype(np.float32).tolist()
            for key in keys
            if day != 2 or key == 2
        }
        for entity, keys in KEYS.items()
        if day != 2 or entity == "user"
    }


@pytest.fixture(params=[OURS, FEASTS], ids=["provender", "feast"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Kitchen:
    """Versions 1 and 2, of other dims, with snapshots of five days each."""
    made = Kitchen(tmp_path / "kitchen", stores=request.param, snapshots=True)
    made.folder.mkdir()
    made.versions = [Version(1), TWO]
    for entity, keys in KEYS.items():
        rows = [(key, T0, T0, (key, key / 100)) for key in keys]
        made.write(entity, rows, vectors=False)
    for version in made.versions:
        for day in DAYS:
            made.snapshot(version, hours(24 * day), vectors_of(version, day))
    return made


@pytest.fixture
def store(both: Kitchen) -> FeatureStore:
    return both.store()


def newest(version: Version, entity: str, key: int, time: datetime) -> tuple[int, Any] | None:
    """The day and vector that hold at a time, by looking at every snapshot."""
    for day in reversed(DAYS):
        vector = vectors_of(version, day).get(entity, {}).get(key)
        if vector is not None and hours(24 * day) <= time <= hours(24 * day) + TTL:
            return day, vector
    return None


def test_two_versions_of_other_dims_are_joined_at_once_each_as_of_its_time(
    both: Kitchen, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    found = training_join(store, impressions(ASKED), "both", backfills=True, chunk_rows=4)
    assert {view: values.shape[1] for view, values in found.rows.vectors.items()} == {
        "user_test_v1": 4,
        "pin_test_v1": 4,
        "user_test_v2": 6,
        "pin_test_v2": 6,
    }
    for version in both.versions:
        for row, (user, pin, hour) in enumerate(ASKED):
            for entity, key in (("user", user), ("pin", pin)):
                view = f"{entity}_test_v{version.number}"
                held = newest(version, entity, key, hours(hour))
                expected = [0.0] * version.dim if held is None else held[1]
                assert found.rows.vectors[view][row].tolist() == expected, (row, view)
                assert bool(found.rows.present[view][row]) == (held is not None)


def test_the_runs_are_exactly_those_whose_vectors_were_used(
    both: Kitchen, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    found = training_join(store, impressions(ASKED), "both", backfills=True, chunk_rows=4)
    for version in both.versions:
        for entity in KEYS:
            view = f"{entity}_test_v{version.number}"
            snapshots = find_snapshots(both.folder / "snapshots", view)
            records = {s.manifest.as_of: s.manifest.record for s in snapshots}
            used = {
                held[0]
                for user, pin, hour in ASKED
                if (held := newest(version, entity, user if entity == "user" else pin, hours(hour)))
            }
            if both.stores == OURS:
                assert used == {1, 3}
            else:  # Feast's own offline store does not tell: what can have been used.
                used = {day for day in DAYS if hours(30) - TTL <= hours(24 * day) <= hours(95.5)}
                used &= {day for day in DAYS if entity in vectors_of(version, day)}
            assert found.runs[view] == tuple(records[hours(24 * day)] for day in sorted(used))


def test_what_is_older_than_the_ttl_can_not_have_been_used(
    both: Kitchen, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    found = training_join(store, impressions([(1, 10, 96.0)]), "rich", backfills=True)
    days = [run.as_of for run in found.runs["pin_test_v1"]]
    exact = both.stores == OURS
    assert days == ([hours(96)] if exact else [hours(24), hours(72), hours(96)])


def test_no_rows_use_no_run(store: FeatureStore, impressions: Callable[..., pa.Table]) -> None:
    found = training_join(store, impressions([]), "rich", backfills=True)
    assert found.runs == {"user_test_v1": (), "pin_test_v1": ()}


def test_files_without_manifests_have_no_runs(
    kitchen: Kitchen, impressions: Callable[..., pa.Table]
) -> None:
    found = training_join(kitchen.store(), impressions([(1, 11, 30)]), "rich")
    assert found.rows.present["user_test_v1"].all()
    assert found.runs == {"user_test_v1": (), "pin_test_v1": ()}


@pytest.fixture
def training(store: FeatureStore, impressions: Callable[..., pa.Table]) -> TrainingSet:
    rows = [(1 + n % 2, 10 + n % 3, 30 + n / 4) for n in range(80)]
    labels = {"click": [int(n % 3 == 0) for n in range(80)], "conversion": [0] * 80}
    table = impressions(rows, place=["home"] * 80, **labels)
    return training_join(store, table, "rich_v2", backfills=True)


CONFIG = RankerConfig(query="pin_test_v2", head_width=8, attention_heads=2, accepts_anchored=True)
HOW = TrainingConfig(epochs=1)


def trained(training: TrainingSet, seed: int = 0, config: RankerConfig = CONFIG) -> Ranker:
    return train_ranker(training, config, HOW, seed=seed).ranker


def stamp(ranker: Ranker) -> RankerStamp:
    assert ranker.stamp is not None
    return ranker.stamp


def test_a_trained_ranker_says_what_it_learned_from(training: TrainingSet) -> None:
    told = stamp(trained(training))
    assert [on.spec for on in told.views] == list(training.layout.embeddings)
    assert [on.runs for on in told.views] == [
        training.runs["user_test_v2"],
        training.runs["pin_test_v2"],
    ]
    assert all(on.runs and on.runs[0].run_id.startswith("run-v2-") for on in told.views)
    assert (told.window_start, told.window_end) == (hours(30), hours(30 + 79 / 4))
    assert (told.service, told.rows, told.accepts_anchored) == ("rich_v2", 80, True)
    assert told.dense == tuple(feature.column for feature in training.layout.dense)
    assert told.parent is None
    assert timedelta(0) <= datetime.now(UTC) - told.trained_at < timedelta(minutes=5)


def test_the_run_follows_from_what_was_learned_and_how(training: TrainingSet) -> None:
    first, again, seeded, other, fewer = (
        stamp(each)
        for each in (
            trained(training),
            trained(training),
            trained(training, seed=1),
            trained(training, config=CONFIG.model_copy(update={"hidden": 8})),
            trained(replace(training, runs={})),
        )
    )
    assert first.run_id == again.run_id
    assert first.config_hash == again.config_hash == fewer.config_hash
    assert len({one.run_id for one in (first, seeded, other, fewer)}) == 4
    assert len({one.config_hash for one in (first, seeded, other)}) == 3
    assert first.preprocessing == seeded.preprocessing


def test_a_stamp_lies_in_the_file_and_is_read_back(training: TrainingSet, tmp_path: Path) -> None:
    ranker, path = trained(training), tmp_path / "rankers" / "some.safetensors"
    save_ranker(path, ranker)
    assert load_ranker(path).stamp == ranker.stamp == read_stamp(path)
    assert read_stamps(tmp_path) == {path: ranker.stamp}
    assert load_ranker(path).config.accepts_anchored


def test_a_stamp_that_was_tampered_with_is_refused(training: TrainingSet, tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_ranker(path, trained(training))
    whole = path.read_bytes()
    for change in (
        (b'\\"rows\\":80', b'\\"rows\\":81'),
        (b"provender.stamp", b"provender.stomp"),
    ):
        assert whole.count(change[0]) == 1
        path.write_bytes(whole.replace(*change))
        with pytest.raises(CheckpointError, match="another checksum than was written with it"):
            load_ranker(path)


def test_a_ranker_without_a_stamp_is_read_as_ever(training: TrainingSet, tmp_path: Path) -> None:
    ranker, path = trained(training), tmp_path / "some.safetensors"
    ranker.stamp = None
    save_ranker(path, ranker)
    assert b"provender.stamp" not in path.read_bytes()
    loaded = load_ranker(path)
    assert (loaded.stamp, read_stamp(path)) == (None, None)
    assert loaded.layout == ranker.layout
