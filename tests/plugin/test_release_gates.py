"""Each gate of a release, passed and failed, and what it says then."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureView
from safetensors.numpy import save_file

from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.gates import Gates
from provender.plugin.manifest import MANIFEST_NAME, Manifest, RunInfo
from provender.plugin.online_rows import microseconds_of, usable
from provender.plugin.ranker_stamp import STAMP, RankerStamp, TrainedOn
from provender.plugin.release_gates import shown
from provender.plugin.release_moves import promotion
from provender.plugin.releases import Check
from provender.plugin.snapshot import Snapshot, write_snapshot
from tests.plugin.release_world import DAY, PIN, ROWS, USER, ReleaseWorld, T, keys_of

HOUR = timedelta(hours=1)
Rows = Sequence[tuple[int, float]]


def checks(
    world: ReleaseWorld, version: int = 2, now: datetime = T, **how: Any
) -> dict[str, Check]:
    found = promotion(world.open(), "transra", version, now=now, **how).checks
    return {check.name: check for check in found}


def check(world: ReleaseWorld, name: str, **how: Any) -> Check:
    return checks(world, **how)[name]


def rewrite(snapshot: Snapshot, **fields: Any) -> Manifest:
    manifest = snapshot.manifest.model_copy(update=fields)
    (snapshot.path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return manifest


def test_a_version_that_is_as_it_should_be_passes_all(released: ReleaseWorld) -> None:
    released.ready(1)
    first = checks(released, 1)
    assert all(each.passed for each in first.values())
    released.promote(1)
    released.ready(2, dim=6, nested_dims=(2,))
    found = checks(released)
    assert {name: each.found for name, each in found.items() if each.passed} == {
        "complete": "pin_transra_v2, user_transra_v2 in space transra_v2",
        "materialized": "pin_transra_v2 40 rows, user_transra_v2 40 rows",
        "one run": "pin_transra_v2 run run-2-10 as of 2026-03-10, "
        "user_transra_v2 run run-2-10 as of 2026-03-10",
        "fresh": "pin_transra_v2 as of 2026-03-10, 0s old with a ttl of 3d, "
        "user_transra_v2 as of 2026-03-10, 0s old with a ttl of 3d",
        "coverage": "pin_transra_v2 40 of 40 (100.00%), user_transra_v2 40 of 40 (100.00%)",
        "quality": "pin_transra_v2 0.5 as of 2026-03-10 against 0.5 (100.0%), "
        "user_transra_v2 0.5 as of 2026-03-10 against 0.5 (100.0%)",
        "same online and offline": "pin_transra_v2 40 of 40 the same, "
        "user_transra_v2 40 of 40 the same",
        "anchored": "not anchored to another version, nor declared so",
        "rankers": "no rankers of this family",
    }


# Complete.


def test_a_version_that_lacks_a_view_is_not_complete(family: ReleaseWorld) -> None:
    family.ready(1)
    family.promote(1)
    family.declare(2, entities=[USER])
    found = check(family, "complete")
    assert found == Check(
        name="complete",
        passed=False,
        found="user_transra_v2 in space transra_v2; no pin_transra by pin_id",
        expected="all views that version 1 has, in one space",
    )


def test_a_version_with_more_views_is_complete(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    family.promote(1)
    family.ready(2)
    assert check(family, "complete").passed


def test_a_version_of_two_spaces_is_not_complete(family: ReleaseWorld) -> None:
    family.declare(1, entities=[USER], space="here")
    family.declare(1, entities=[PIN], space="there")
    found = check(family, "complete", version=1)
    assert not found.passed
    assert found.found == "pin_transra_v1, user_transra_v1 in space here, there"
    assert found.expected == "views in one space"


def test_facets_have_a_space_for_each_relation(family: ReleaseWorld) -> None:
    def seen(entity: Entity, name: str, facet: str, space: str) -> FeatureView:
        return embedding_view(
            name=name, version=1, entity=entity, dim=4, space=space, facet=facet,
            producer="transra", ttl=3 * DAY, snapshots=family.snapshots,
        )  # fmt: skip

    family.declare(1, space="raw")
    family.store.apply([seen(USER, "user_buy", "buy", "buy"), seen(PIN, "pin_buy", "buy", "buy")])
    found = check(family, "complete", version=1)
    assert found.passed
    assert found.expected == "views in one space, or one for each relation's facets"
    family.store.apply([seen(USER, "user_buys", "buy/head", "elsewhere")])
    assert not check(family, "complete", version=1).passed


def test_a_live_version_of_which_nothing_is_left_is_told(family: ReleaseWorld) -> None:
    family.ready(2)
    family.releases.move(None, family="transra", action="promote", live=1)
    found = check(family, "complete")
    assert not found.passed
    assert found.found.endswith("; no view of version 1 left to compare with")


# Materialized, of one run, and fresh.


def test_a_version_that_is_not_materialized_fails_without_a_crash(released: ReleaseWorld) -> None:
    released.ready(1)
    released.promote(1)
    released.declare(2)
    found = checks(released)
    assert not found["materialized"].passed
    assert found["materialized"].found == (
        "pin_transra_v2 0 rows, no load, user_transra_v2 0 rows, no load"
    )
    assert found["one run"].found == (
        "pin_transra_v2 of no known run, user_transra_v2 of no known run"
    )
    assert found["fresh"].found == "pin_transra_v2 nothing, user_transra_v2 nothing"
    assert found["coverage"].found == (
        "pin_transra_v2 0 of 40 (0.00%), user_transra_v2 0 of 40 (0.00%)"
    )
    failed = [name for name, each in found.items() if not each.passed]
    assert failed == ["materialized", "fresh", "coverage", "quality"]


def test_a_load_without_rows_is_none(family: ReleaseWorld) -> None:
    family.declare(1)
    family.refresh(1, rows=0)
    family.materialize(1)
    found = checks(family, 1)
    assert found["materialized"].found == "pin_transra_v1 0 rows, user_transra_v1 0 rows"
    assert not found["materialized"].passed


def test_rows_that_were_only_pushed_are_no_load(family: ReleaseWorld) -> None:
    family.declare(1)
    family.refresh(1)
    (view, _) = family.declared[1]
    rows = pd.DataFrame(
        {
            "user_id": [1],
            "embedding": [[1.0, 2.0, 3.0, 4.0]],
            "event_timestamp": [T],
            "created_timestamp": [T],
        }
    )
    family.store.write_to_online_store(view.name, rows)
    found = checks(family, 1)
    assert found["materialized"].found.endswith("user_transra_v1 1 rows, no load")
    assert not found["materialized"].passed
    told = "user_transra_v1 of no run that is noted; materialize it again"
    assert found["same online and offline"].found.endswith(told)
    assert not found["same online and offline"].passed


def test_views_of_two_runs_do_not_fit(family: ReleaseWorld) -> None:
    family.ready(1)
    family.refresh(1, T + DAY)
    family.materialize(1, T + DAY, ["user_transra_v1"])
    found = check(family, "one run", version=1, now=T + DAY)
    assert found == Check(
        name="one run",
        passed=False,
        found="pin_transra_v1 run run-1-10 as of 2026-03-10, "
        "user_transra_v1 run run-1-11 as of 2026-03-11",
        expected="the same newest run in all online tables",
    )
    family.materialize(1, T + DAY)
    assert check(family, "one run", version=1, now=T + DAY).passed


@pytest.mark.parametrize(
    ("age", "passed", "told"),
    [
        (timedelta(0), True, "0s old"),
        (3 * DAY, True, "3d old"),
        (3 * DAY + timedelta(microseconds=1), False, "3d old"),
        (2 * DAY + 5 * HOUR + timedelta(minutes=59), True, "2d 5h old"),
        (-timedelta(microseconds=1), False, "0s in the future"),
        (-timedelta(minutes=90), False, "1h 30m in the future"),
    ],
)
def test_the_ttl_holds_to_its_edge(
    family: ReleaseWorld, age: timedelta, passed: bool, told: str
) -> None:
    family.ready(1, entities=[USER])
    found = check(family, "fresh", version=1, now=T + age)
    assert found.passed is passed
    assert found.found == f"user_transra_v1 as of 2026-03-10, {told} with a ttl of 3d"


def test_lengths_of_time_are_told_in_two_units() -> None:
    assert shown(timedelta(days=1, seconds=61)) == "1d 1m"
    assert shown(timedelta(hours=2)) == "2h"


# Coverage.


def covered(mine: Rows, theirs: Rows, now: datetime) -> tuple[int, int]:
    """Go through all entities one by one; ages in days, ttls of 3 and 5 days."""

    def known(rows: Rows, ttl: timedelta) -> set[int]:
        ages = {
            key: np.array([microseconds_of(now) - microseconds_of(T - day * DAY)])
            for key, day in rows
        }
        return {key for key, age in ages.items() if usable(age, ttl)[0]}

    live = known(theirs, 5 * DAY)
    return len(live & known(mine, 3 * DAY)), len(live)


def push(world: ReleaseWorld, version: int, rows: Rows) -> None:
    for view in world.declared[version]:
        spec = spec_of(view)
        entity = USER if spec.entity == "user" else PIN
        frame = pd.DataFrame(
            {
                spec.join_key: [keys_of(entity, 1, key)[0].as_py() for key, _ in rows],
                "embedding": [[1.0] * spec.dim] * len(rows),
                "event_timestamp": [T - days * DAY for _, days in rows],
                "created_timestamp": [T] * len(rows),
            }
        )
        world.store.write_to_online_store(view.name, frame)


def test_coverage_is_counted_as_one_by_one(released: ReleaseWorld) -> None:
    """Numbers and text as keys; missing, expired and future ones on either side."""
    released.declare(1, ttl=5 * DAY)
    released.declare(2)
    released.releases.move(None, family="transra", action="promote", live=1)
    chance = random.Random(3)
    ages = [0, 1, 2.999, 3, 3.001, 4.999, 5, 5.001, 7, -0.001, -2]
    live = [(key, chance.choice(ages)) for key in range(120)]
    mine = [(key, chance.choice(ages)) for key in range(60, 200)]
    push(released, 1, live)
    push(released, 2, mine)

    kept, of = covered(mine, live, T)
    assert 5 < kept < of < 120
    found = check(released, "coverage", gates=Gates(coverage=kept / of))
    told = f"{kept} of {of} ({kept / of:.2%})"
    assert found.found == f"pin_transra_v2 {told}, user_transra_v2 {told}"
    assert found.passed
    assert not check(released, "coverage", gates=Gates(coverage=kept / of + 1e-9)).passed


def test_one_view_below_the_gate_is_enough(family: ReleaseWorld) -> None:
    family.ready(1)
    family.promote(1)
    family.declare(2)
    user, pin = family.declared[2]
    family.refresh(2, rows=ROWS - 2, views=[user])
    family.refresh(2, rows=ROWS - 3, views=[pin])
    family.materialize(2)
    found = check(family, "coverage")
    assert found == Check(
        name="coverage",
        passed=False,
        found="pin_transra_v2 37 of 40 (92.50%), user_transra_v2 38 of 40 (95.00%)",
        expected="at least 95.0% of the live version's entities",
    )


def test_a_live_version_that_has_expired_asks_for_nothing(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER], ttl=DAY)
    family.promote(1)
    family.ready(2, entities=[USER])
    found = check(family, "coverage", now=T + 2 * DAY)
    assert found.passed
    assert found.found == "user_transra_v1 has nothing to keep at 2026-03-12"


def test_a_live_version_without_a_table_can_not_be_compared(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    family.promote(1)
    family.ready(2, entities=[USER])
    family.online.execute(f"DROP TABLE `{family.online.project}_user_transra_v1`")
    found = check(family, "coverage")
    assert not found.passed
    assert found.found == ("user_transra_v2 not counted, for user_transra_v1 has no online table")


# Quality.


def judged(
    world: ReleaseWorld, mine: dict[int, float | None], theirs: dict[int, float | None]
) -> None:
    """Write refreshes of two versions with a quality, or none, by day."""
    for version, known in ((1, theirs), (2, mine)):
        world.declare(version, entities=[USER])
        for day, quality in known.items():
            world.refresh(version, T + day * DAY, rows=2, quality=quality)
    world.releases.move(None, family="transra", action="promote", live=1)


@pytest.mark.parametrize(
    ("mine", "theirs", "passed", "told"),
    [
        # The newest day on which both were judged counts, whatever came later or before.
        (
            {-2: 0.9, -1: 0.48, 0: 0.1},
            {-2: 0.1, -1: 0.5, 0: None},
            True,
            "0.48 as of 2026-03-09 against 0.5 (96.0%)",
        ),
        ({-1: 0.47}, {-1: 0.5, 0: 0.1}, False, "0.47 as of 2026-03-09 against 0.5 (94.0%)"),
        # Without such a day, the newest of each.
        (
            {0: 0.5},
            {-2: 9.0, -1: 0.5},
            True,
            "0.5 as of 2026-03-10 against 0.5 as of 2026-03-09 (100.0%)",
        ),
        # What was known only later does not count.
        ({0: 0.5, 1: 0.0}, {0: 0.5, 1: 0.5}, True, "0.5 as of 2026-03-10 against 0.5 (100.0%)"),
        # A share of nothing says nothing.
        ({0: 0.0}, {0: 0.0}, True, "0 as of 2026-03-10 against 0"),
        ({0: -0.2}, {0: -0.1}, False, "-0.2 as of 2026-03-10 against -0.1"),
    ],
)
def test_qualities_are_compared_on_the_same_day(
    family: ReleaseWorld,
    mine: dict[int, float | None],
    theirs: dict[int, float | None],
    passed: bool,
    told: str,
) -> None:
    judged(family, mine, theirs)
    found = check(family, "quality")
    assert found.found == f"user_transra_v2 {told}"
    assert found.passed is passed
    assert found.expected == "at least 95% of the live version's in the manifests"


def test_a_version_that_was_not_judged_is_to_be_refreshed(family: ReleaseWorld) -> None:
    judged(family, {0: None}, {0: 0.5})
    found = check(family, "quality")
    assert not found.passed
    assert found.found == (
        "user_transra_v2 without quality; refresh it once more, for a refresh judges the former one"
    )


def test_where_the_live_version_was_not_judged_nothing_is_asked(family: ReleaseWorld) -> None:
    judged(family, {0: 0.5}, {0: None})
    found = check(family, "quality")
    assert found.passed
    assert found.found == "user_transra_v2 0.5 as of 2026-03-10, user_transra_v1 without quality"


# The same vectors online and offline.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_a_dtype_stores_is_what_is_compared(released: ReleaseWorld, dtype: str) -> None:
    released.ready(1, dtype=dtype, dim=7)
    assert check(released, "same online and offline", version=1).passed
    view = released.declared[1][0]
    wrong = np.zeros(7, np.float32)
    wrong[3] = 0.001
    rows = released.store.get_online_features(
        [f"{view.name}:embedding"], [{"user_id": 5}]
    ).to_dict()
    pushed = pd.DataFrame(
        {
            "user_id": [5],
            "embedding": [(np.array(rows["embedding"][0]) + wrong * 20).tolist()],
            "event_timestamp": [T],
            "created_timestamp": [datetime.now(T.tzinfo) + DAY],
        }
    )
    released.store.write_to_online_store(view.name, pushed)
    found = check(released, "same online and offline", version=1)
    assert not found.passed
    assert found.found == (
        "pin_transra_v1 40 of 40 the same, "
        "user_transra_v1 39 of 40 the same; 1 with another vector, such as user_id 5"
    )


def test_a_zero_below_zero_is_another_vector(family: ReleaseWorld) -> None:
    family.declare(1, entities=[USER])
    (view,) = family.declared[1]
    run = RunInfo("zeros", "transra", "c0ffee", T, T)
    zeros = np.zeros((ROWS, 4), np.float32)
    write_snapshot(family.snapshots, spec_of(view), T, keys_of(USER), zeros, run)
    family.materialize(1)
    assert check(family, "same online and offline", version=1).passed
    frame = pd.DataFrame(
        {
            "user_id": [6],
            "embedding": [[0.0, 0.0, -0.0, 0.0]],
            "event_timestamp": [T],
            "created_timestamp": [datetime.now(T.tzinfo) + DAY],
        }
    )
    family.store.write_to_online_store(view.name, frame)
    found = check(family, "same online and offline", version=1)
    assert found.found == (
        "user_transra_v1 39 of 40 the same; 1 with another vector, such as user_id 6"
    )


def test_rows_that_are_missing_or_old_differ_and_newer_ones_are_not_compared(
    released: ReleaseWorld,
) -> None:
    released.ready(1)
    released.refresh(1, T + DAY)
    released.materialize(1, T + DAY)
    name = f"{released.online.project}_user_transra_v1"
    released.online.execute(f"DELETE FROM `{name}` WHERE `key` = 3")
    push(released, 1, [(3, 2)])  # Of before the run.
    released.online.execute(f"DELETE FROM `{name}` WHERE `key` IN (7, 8)")
    push(released, 1, [(key, -2) for key in range(10, 15)])  # Of after it.
    found = check(released, "same online and offline", version=1, now=T + DAY)
    assert not found.passed
    assert found.found == (
        "pin_transra_v1 35 of 40 the same; 5 pushed since, "
        "user_transra_v1 32 of 40 the same; 5 pushed since; 2 missing, such as user_id 7; "
        "1 of an older run, such as user_id 3"
    )


def test_where_all_were_pushed_since_nothing_is_proven(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    push(family, 1, [(key, -1) for key in range(ROWS)])
    found = check(family, "same online and offline", version=1, now=T + DAY)
    assert not found.passed
    assert found.found == "user_transra_v1 0 of 40 the same; 40 pushed since"


def test_a_damaged_row_fails_and_is_named(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    name = f"{family.online.project}_user_transra_v1"
    family.online.execute(f"UPDATE `{name}` SET checksum = checksum + 1 WHERE `key` = 9")
    found = check(family, "same online and offline", version=1)
    assert not found.passed
    assert found.found.startswith("online feature view user_transra_v1, entity user_id 9: ")


def test_a_sample_is_of_the_size_asked_for_and_finds_what_differs(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    name = f"{family.online.project}_user_transra_v1"
    family.online.execute(f"DELETE FROM `{name}` WHERE `key` = 9")
    small = Gates(sample=10)
    told = [
        check(family, "same online and offline", version=1, gates=small, seed=seed)
        for seed in range(40)
    ]
    hits = [found for found in told if not found.passed]
    assert {found.found for found in hits} == {
        "user_transra_v1 9 of 10 the same; 1 missing, such as user_id 9"
    }
    assert {found.found for found in told if found.passed} == {"user_transra_v1 10 of 10 the same"}
    # A quarter of the samples, within four deviations.
    assert 0 < len(hits) < 21
    again = check(family, "same online and offline", version=1, gates=small, seed=0)
    assert again == told[0]
    drawn = {
        check(family, "same online and offline", version=1, gates=small).passed for _ in range(60)
    }
    assert drawn == {True, False}


def test_the_hot_copy_is_compared_as_well_as_the_table(
    tmp_path: Path, family: ReleaseWorld
) -> None:
    hot = ReleaseWorld(family.online, options={"hot": "data/hot"})
    hot.ready(1, entities=[USER])
    place, aside = hot.repo / "data" / "hot", tmp_path / "aside"
    shutil.copytree(place, aside, symlinks=True)
    hot.refresh(1, T + DAY)
    hot.materialize(1, T + DAY)
    assert check(hot, "same online and offline", version=1).passed
    shutil.rmtree(place)
    shutil.copytree(aside, place, symlinks=True)
    found = check(hot, "same online and offline", version=1)
    assert not found.passed
    assert found.found == (
        "user_transra_v1 0 of 40 the same; 40 of an older run, such as user_id 0 "
        "in this machine's hot copy"
    )
    # And what only the table has wrong, though the hot copy hides it.
    hot.materialize(1, T + DAY)
    family.online.execute(f"DELETE FROM `{family.online.project}_user_transra_v1` WHERE `key` = 4")
    found = check(hot, "same online and offline", version=1)
    assert found.found == "user_transra_v1 39 of 40 the same; 1 missing, such as user_id 4"


def test_a_snapshot_that_is_gone_or_damaged_can_not_be_compared(family: ReleaseWorld) -> None:
    family.ready(1, entities=[USER])
    (snapshot,) = family.refresh(1)
    part = snapshot.path / "part-0.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    found = check(family, "same online and offline", version=1)
    assert not found.passed
    assert found.found.startswith("snapshot file ")
    (snapshot.path / MANIFEST_NAME).unlink()
    family.refresh(1, T - DAY)
    found = check(family, "same online and offline", version=1)
    assert not found.passed
    assert found.found == "user_transra_v1 of run run-1-10, whose snapshot is gone"


def test_a_snapshot_whose_vectors_can_not_be_mapped_is_decoded(family: ReleaseWorld) -> None:
    family.declare(1)
    for snapshot in family.refresh(1):
        files = [file.model_copy(update={"pages": ()}) for file in snapshot.manifest.files]
        rewrite(snapshot, files=tuple(files))
    family.materialize(1)
    found = check(family, "same online and offline", version=1)
    assert found.passed
    assert found.found == "pin_transra_v1 40 of 40 the same, user_transra_v1 40 of 40 the same"


# Files of the user's own.


def test_files_without_manifests_pass_what_can_be_told_of_them(family: ReleaseWorld) -> None:
    for version in (1, 2):
        path = family.online.root / f"own_{version}.parquet"
        rows = pd.DataFrame(
            {
                "user_id": range(5),
                "event_timestamp": [T - HOUR] * 5,
                "created_timestamp": [T] * 5,
                "embedding": [np.ones(4, np.float32)] * 5,
            }
        )
        rows.to_parquet(path, coerce_timestamps="us")
        family.declare(version, entities=[USER], snapshots=path)
        family.materialize(version)
    family.promote(1)
    found = checks(family)
    assert {name for name, each in found.items() if not each.passed} == set()
    assert found["one run"].found == "user_transra_v2 of no known run"
    assert found["fresh"].found == (
        "user_transra_v2 as of 2026-03-09 23:00, 1h old with a ttl of 3d"
    )
    assert found["quality"].found == (
        "user_transra_v2 without manifests, user_transra_v1 without manifests"
    )
    told = "user_transra_v2 without manifests, not compared"
    assert found["same online and offline"].found == told
    assert not check(family, "fresh", now=T + 3 * DAY).passed


def test_files_without_manifests_can_not_prove_an_anchor(family: ReleaseWorld) -> None:
    path = family.online.root / "own.parquet"
    family.declare(1, entities=[USER])
    family.declare(2, entities=[USER], snapshots=path, space="transra_v1", anchored_to=1)
    found = check(family, "anchored")
    assert not found.passed
    assert found.found == ("user_transra_v2 without manifests, so nothing says where it comes from")


# Anchored.


def test_the_chain_of_runs_leads_to_the_version_it_is_anchored_to(family: ReleaseWorld) -> None:
    family.ready(1)
    family.refresh(1, T + DAY, parent="run-1-10")
    family.promote(1)
    family.declare(2, space="transra_v1", anchored_to=1)
    family.refresh(2, T + DAY, parent="run-1-10")
    family.refresh(2, T + 2 * DAY, parent="run-2-11")
    family.materialize(2, T + 2 * DAY)
    found = check(family, "anchored", now=T + 2 * DAY)
    assert found == Check(
        name="anchored",
        passed=True,
        found="pin_transra_v2 from run run-1-10 of version 1, "
        "user_transra_v2 from run run-1-10 of version 1",
        expected="runs that go back to one of the version it is anchored to",
    )


@pytest.mark.parametrize(
    ("parent", "told"),
    [
        (None, "from run run-2-10, which was started from no run of version 1"),
        ("run-2-09", "from run run-2-09, which was started from no run of version 1"),
        ("run-9-99", "from run run-2-10, whose parent run-9-99 has no snapshot left"),
        # A manifest that says it comes from itself does not hang us up.
        ("run-2-10", "from run run-2-10, which was started from no run of version 1"),
    ],
)
def test_a_chain_that_does_not_lead_there(
    family: ReleaseWorld, parent: str | None, told: str
) -> None:
    family.ready(1, entities=[USER])
    family.declare(2, entities=[USER], space="transra_v1", anchored_to=1)
    family.refresh(2, T - DAY)
    family.refresh(2, T, parent=parent)
    family.materialize(2)
    found = check(family, "anchored")
    assert not found.passed
    assert found.found == f"user_transra_v2 {told}"


# Rankers.


def ranker(world: ReleaseWorld, name: str, *versions: int, accepts: bool = False) -> None:
    """Write a checkpoint that says it was trained on versions' views."""
    views = tuple(
        TrainedOn(spec=spec_of(view)) for version in versions for view in world.declared[version]
    )
    stamp = RankerStamp(
        run_id=name,
        config_hash="c",
        code_version="1",
        service="ranker",
        window_start=T,
        window_end=T,
        rows=1,
        views=views,
        dense=(),
        preprocessing="p",
        accepts_anchored=accepts,
        trained_at=T,
    )
    world.rankers.mkdir(exist_ok=True)
    path = world.rankers / f"{name}.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, path, {STAMP: stamp.model_dump_json()})


def test_without_rankers_of_the_family_nobody_has_to_follow(family: ReleaseWorld) -> None:
    family.ready(1)
    assert check(family, "rankers", version=1, rankers=family.rankers).passed
    ranker(family, "none")
    save_file({"w": np.zeros(1, np.float32)}, family.rankers / "old.safetensors")
    found = check(family, "rankers", version=1, rankers=family.rankers)
    assert (found.passed, found.found) == (True, "no rankers of this family")


def test_rankers_of_which_none_can_follow_are_named(family: ReleaseWorld) -> None:
    family.ready(1)
    family.ready(2)
    ranker(family, "b", 1)
    ranker(family, "a", 1, accepts=True)  # But version 2 is not anchored.
    found = check(family, "rankers", rankers=family.rankers)
    assert found == Check(
        name="rankers",
        passed=False,
        found="0 of 2 rankers of this family trained on it: a.safetensors, b.safetensors",
        expected="one that was trained on this version, or accepts it as anchored to its own",
    )
    ranker(family, "c", 2)
    found = check(family, "rankers", rankers=family.rankers)
    assert (found.passed, found.found) == (
        True,
        "1 of 3 rankers of this family trained on it: c.safetensors",
    )


def test_an_anchored_version_is_followed_by_who_accepts_it(family: ReleaseWorld) -> None:
    family.ready(1)
    family.ready(2, space="transra_v1", anchored_to=1)
    ranker(family, "strict", 1)
    assert not check(family, "rankers", rankers=family.rankers).passed
    ranker(family, "open", 1, accepts=True)
    found = check(family, "rankers", rankers=family.rankers)
    assert found.found == "1 of 2 rankers of this family trained on it: open.safetensors"
    assert found.passed


def test_a_ranker_of_two_versions_at_once_follows_neither_alone(family: ReleaseWorld) -> None:
    family.ready(1)
    family.ready(2)
    ranker(family, "both", 1, 2)
    assert not check(family, "rankers", rankers=family.rankers).passed
