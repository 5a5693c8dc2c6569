"""Finetuned rows as a new version of a view, from the ranker's file to the online store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result
from feast import FeatureStore
from feast.repo_operations import apply_total

from provender.consumers.entity_table import EntityTable
from provender.consumers.features import FeatureLayout
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig, TableConfig, save_ranker
from provender.plugin.cli import main
from provender.plugin.errors import SnapshotError
from provender.plugin.ranker_stamp import RankerStamp
from provender.plugin.repo import standing_in
from provender.plugin.snapshot import find_snapshot
from tests.consumers.kitchen import DIM, T0, TTL, Kitchen, Version, hours

DECLARED = """
from datetime import timedelta
from feast import Entity, ValueType
from provender.plugin.embedding_view import embedding_view
SNAPSHOTS = {snapshots!r}
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
user_test_v1 = embedding_view(
    name="user_test", version=1, entity=user, dim=4, space="test_v1", producer="tests",
    ttl=timedelta(days=3), snapshots=SNAPSHOTS)
"""
OLD = {1: [3.0, 0.0, 0.0, 4.0], 2: [0.0, 5.0, 0.0, 0.0], 7: [1.0, 1.0, 1.0, 1.0]}


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    made = Kitchen(tmp_path / "kitchen", snapshots=True)
    made.folder.mkdir()
    for entity in ("user", "pin"):
        made.write(entity, [(1, hours(0), hours(0), (1, 0.5))], vectors=False)
    made.snapshot(Version(1), hours(24), {"user": OLD, "pin": {10: [1.0] * DIM}})
    (made.folder / "views.py").write_text(DECLARED.format(snapshots=str(made.folder / "snapshots")))
    return made


def declare(kitchen: Kitchen, **changed: Any) -> None:
    """Add version 2 to the repo."""
    said = {"dim": DIM, "space": "'ranker_user'", "producer": "'ranker'"} | changed
    options = ", ".join(f"{name}={value}" for name, value in said.items())
    with (kitchen.folder / "views.py").open("a") as file:
        file.write(
            f"user_test_v2 = embedding_view(name='user_test', version=2, entity=user, {options}, "
            "ttl=timedelta(days=3), snapshots=SNAPSHOTS)\n"
        )


@pytest.fixture
def trained(kitchen: Kitchen) -> Ranker:
    """A ranker whose row of user 2 has learned."""
    store = kitchen.store()
    layout = FeatureLayout.of_service(store, "plain")
    batch = OnlineFetcher(store, "plain", now=hours(48)).fetch(1, [10], {"place": "home"})
    table = EntityTable.from_view(
        store, "user_test_v1", hours(24), pa.array([7, 2, 1]), seed=0, buckets=2, backfills=True
    )
    config = RankerConfig(
        tables=(TableConfig(name="user", join_key="user_id", dim=DIM, view="user_test_v1"),)
    )
    ranker = Ranker(config, layout, Preprocessing.fit(layout, batch, ["place"]), {"user": table})
    table(table.rows_of(pa.array([2]))).sum().backward()
    table.step()
    ranker.stamp = RankerStamp(
        run_id="run-of-ranker",
        config_hash="a" * 64,
        code_version="0",
        service="plain",
        window_start=hours(24),
        window_end=hours(40),
        rows=9,
        views=(),
        dense=(),
        preprocessing="b" * 64,
        trained_at=T0 + TTL,
    )
    return ranker


def run(kitchen: Kitchen, ranker: Ranker, **changed: Any) -> Result:
    path = kitchen.folder / "rankers" / "one.safetensors"
    save_ranker(path, ranker)
    said = {"table": "user", "view": "user_test", "version": 2, "as-of": hours(48).isoformat()}
    options = [f"--{name}={value}" for name, value in (said | changed).items()]
    folder = str(kitchen.folder)
    return CliRunner().invoke(
        main, ["export-table", str(path), *options, "--home", folder, "--repo", folder]
    )


def test_rows_go_out_and_come_back_from_the_online_store(kitchen: Kitchen, trained: Ranker) -> None:
    declare(kitchen)
    result = run(kitchen, trained)
    assert result.exit_code == 0, result.output
    snapshot = find_snapshot(kitchen.folder / "snapshots", "user_test_v2", hours(48))
    assert snapshot is not None
    keys, vectors = snapshot.read()
    assert keys.to_pylist() == [1, 2, 7], "and no shared rows"
    assert np.allclose(vectors[[0, 2]], [OLD[1], OLD[7]], rtol=1e-6), "as they began"
    table = trained.table("user")
    assert np.allclose(vectors[1], table.values[1] / table.scale.float(), rtol=1e-6)
    assert not np.allclose(vectors[1], OLD[2])
    manifest = snapshot.manifest
    assert (manifest.producer, manifest.parent) == ("ranker", "run-v1-0200")
    assert (manifest.space, manifest.notes["ranker"]) == ("ranker_user", "run-of-ranker")
    assert run(kitchen, trained).exit_code == 0, "the same again"

    with standing_in(kitchen.folder):
        config = FeatureStore(str(kitchen.folder)).config
        apply_total(config, kitchen.folder, skip_source_validation=False)
    store = FeatureStore(str(kitchen.folder))
    store.materialize(hours(0), hours(49), feature_views=["user_test_v2"])
    online = store.get_online_features(["user_test_v2:embedding"], [{"user_id": 2}, {"user_id": 7}])
    assert np.allclose(online.to_dict()["embedding"], vectors[[1, 2]])


def test_a_view_that_is_not_declared_is_printed(kitchen: Kitchen, trained: Ranker) -> None:
    result = run(kitchen, trained)
    assert result.exit_code == 1
    said = "embedding_view(name='user_test', version=2, entity=user, dim=4,"
    assert said in result.output
    # What is printed is a declaration that does.
    line = result.output.split("Add it: ")[1].strip()
    with (kitchen.folder / "views.py").open("a") as file:
        file.write(line + "\n")
    assert run(kitchen, trained).exit_code == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dim": 5}, "dim: found 5; expected 4"),
        ({"producer": "'tests'"}, "producer: found tests; expected ranker"),
        ({"space": "'test_v1'"}, "that of user_test_v1"),
    ],
)
def test_a_view_that_rows_do_not_fit_is_refused(
    kitchen: Kitchen, trained: Ranker, changed: dict[str, Any], said: str
) -> None:
    declare(kitchen, **changed)
    result = run(kitchen, trained)
    assert (result.exit_code, said in result.output) == (1, True), result.output
    assert not (kitchen.folder / "snapshots" / "user_test_v2").exists()


def test_other_mistakes_are_told(kitchen: Kitchen, trained: Ranker) -> None:
    declare(kitchen)
    assert "one of user" in run(kitchen, trained, table="pin").output
    early: datetime = hours(39)
    assert "or later" in run(kitchen, trained, **{"as-of": early.isoformat()}).output
    trained.table("user").values[0, 0] = torch.nan
    result = run(kitchen, trained)
    assert isinstance(result.exception, SystemExit | SnapshotError)
    assert "NaN or Inf in the vector of 1" in result.output
    trained.stamp = None
    assert "no stamp" in run(kitchen, trained).output
