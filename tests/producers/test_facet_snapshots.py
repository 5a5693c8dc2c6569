"""The whole way of facets and of a second family, on a small simulated world and by the commands.

Events in; raw vectors, facets of an onsite and of an offsite relation, and another family's vectors
out: as snapshots, in a point-in-time join, online, released, and in their second refresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from feast import FeatureStore
from feast.cli.cli import cli as feast_cli
from numpy.typing import NDArray

from provender.plugin.drift import drift
from provender.plugin.errors import CheckpointError
from provender.plugin.home import Home
from provender.plugin.repo import standing_in, views_in_repo
from provender.plugin.snapshot import Snapshot, find_snapshot, find_snapshots
from provender.plugin.world import World
from provender.producers.job import Job
from provender.producers.parent_quality import load_run
from provender.producers.refresh import refresh
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from tests.producers.refresh_world import quiet

Provender = Callable[..., Result]
FIRST, SECOND = (datetime(2026, 3, day, tzinfo=UTC) for day in (4, 5))
ROOT = Path(__file__).parents[2]
TRAINING = {"epochs": 2, "refresh_epochs": 1, "chunk_size": 64, "negatives": 16}

_STORE = """
project: seen
provider: provender.plugin.provider.ProvenderProvider
registry: data/registry.db
offline_store: {type: provender.plugin.offline_store.ProvenderOfflineStore}
online_store: {type: provender.plugin.online_store.ProvenderOnlineStore}
batch_engine: {type: provender.plugin.compute_engine.ProvenderEngine}
entity_key_serialization_version: 3
"""
_VIEWS = """
from datetime import timedelta
from pathlib import Path
from feast import Entity, ValueType
from provender.plugin.embedding_view import embedding_view

SNAPSHOTS = Path(__file__).resolve().parent.parent / "snapshots"
user, pin, item = (
    Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
    for name in ("user", "pin", "item")
)

def view(name, entity, space, dim=8, **more):
    return embedding_view(
        name=name, version=1, entity=entity, dim=dim, space=space, producer="transra",
        ttl=timedelta(days=30), snapshots=SNAPSHOTS, **more,
    )

user_raw = view("user_raw", user, "raw")
pin_raw = view("pin_raw", pin, "raw")
user_save = view("user_save", user, "save", facet="save")
pin_save = view("pin_save", pin, "save", facet="save")
user_cart = view("user_cart", user, "cart", facet="add_to_cart")
item_cart = view("item_cart", item, "cart", facet="add_to_cart/tail")
user_interest = view("user_interest", user, "interest", dim=4, family="interest")
pin_interest = view("pin_interest", pin, "interest", dim=4, family="interest")
"""
VIEWS = ("user_raw", "pin_raw", "user_save", "pin_save", "user_cart", "item_cart")


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory, provender: Provender) -> Home:
    """A home in which every family is produced, applied and materialized."""
    home = Home(tmp_path_factory.mktemp("facets") / "home")
    config = {"users": 60, "pins": 60, "days": 4, "items": 30, "advertisers": 5, "topics": 4}
    simulate(SimulatorConfig.parse({**config, "start": date(2026, 3, 1)}), home.simulation)
    world = yaml.safe_load((ROOT / "feature_repo" / "worlds" / "simulator.yaml").read_text())
    interest = {"relations": {"click": 1.0, "save": 1.0}, "versions": {1: {"seed": 5}}}
    world["transra"] |= {**TRAINING, "families": {"interest": interest}}
    world["dates"] = {"first_as_of": FIRST.date(), "refreshes": 1}
    home.world.write_text(yaml.safe_dump(world))
    (home.repo / "data").mkdir(parents=True)
    (home.repo / "feature_store.yaml").write_text(_STORE)
    (home.repo / "views.py").write_text(_VIEWS)
    result = provender("produce", "--home", home.path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    _apply(home)
    FeatureStore(str(home.repo)).materialize(FIRST - timedelta(days=1), FIRST)
    return home


@pytest.fixture
def home(produced: Home, tmp_path: Path) -> Home:
    """A copy of it of one's own, whose registry still knows the paths of the other."""
    shutil.copytree(produced.path, tmp_path / "home")
    return Home(tmp_path / "home")


def _apply(home: Home) -> None:
    with standing_in(home.repo):
        feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)


def _snapshot(home: Home, name: str, as_of: datetime = FIRST) -> Snapshot:
    found = find_snapshot(home.snapshots, f"{name}_v1", as_of)
    assert found is not None
    return found


def _vectors(home: Home, name: str) -> NDArray[np.float64]:
    return _snapshot(home, name).read()[1].astype(np.float64)


def _job(home: Home, *names: str) -> Job:
    """The job of a repo that declares nothing but these views."""
    world = World.load(home.world)
    views = [view for view in views_in_repo(home.repo) if view.spec.name in names]
    world = world.model_copy(update={"transra": {**world.transra, "families": {}}})
    return Job.declare(world, home.data, home, views, "cpu")


def test_the_similarity_of_two_facets_is_the_score_of_the_raw_vectors(produced: Home) -> None:
    """By the formula, from what the run keeps: not by anything that made the facets."""
    run = load_run(_job(produced, *VIEWS), _snapshot(produced, "user_raw").manifest.run_id)
    for relation, head, tail, facets in (
        ("save", "user", "pin", ("user_save", "pin_save")),
        ("add_to_cart", "user", "item", ("user_cart", "item_cart")),
    ):
        h, t = (run.vectors[each].vectors.astype(np.float64) for each in (head, tail))
        r, deviation = (
            run.relations[relation][each].double().numpy() for each in ("translation", "deviation")
        )
        assert np.abs(deviation).max() > 1e-3
        m = np.eye(8) + deviation
        expected = -(((h @ m + r)[:, None] - (t @ m)[None]) ** 2).sum(-1)
        left, right = (_vectors(produced, each) for each in facets)
        found = -((left[:, None] - right[None]) ** 2).sum(-1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_all_views_of_a_family_are_of_one_run(produced: Home) -> None:
    manifests = [_snapshot(produced, name).manifest for name in VIEWS]
    assert len({each.run_id for each in manifests}) == 1
    assert [each.facet for each in manifests] == [
        *(None, None, "save", "save", "add_to_cart", "add_to_cart/tail")
    ]
    raw = _snapshot(produced, "user_raw")
    run = load_run(_job(produced, *VIEWS), raw.manifest.run_id)
    np.testing.assert_array_equal(raw.read()[1], run.vectors["user"].vectors)
    other = _snapshot(produced, "pin_interest").manifest
    assert (other.dim, other.family, other.run_id == raw.manifest.run_id) == (4, "interest", False)


def test_offline_and_online_they_are_what_the_snapshots_hold(produced: Home) -> None:
    store = FeatureStore(str(produced.repo))
    features = [f"{name}_v1:embedding" for name in ("user_raw", "user_save", "user_interest")]
    keys = _snapshot(produced, "user_raw").read()[0].to_pylist()[:5]
    asked = pd.DataFrame({"user_id": keys, "event_timestamp": FIRST + timedelta(hours=1)})

    offline = store.get_historical_features(asked, features, full_feature_names=True).to_df()
    rows = [{"user_id": key} for key in keys]
    online = store.get_online_features(features, rows, full_feature_names=True).to_dict()

    for name in ("user_raw", "user_save", "user_interest"):
        expected = _snapshot(produced, name).read()[1][:5]
        column = f"{name}_v1__embedding"
        np.testing.assert_array_equal(np.stack(list(offline[column])), expected)
        np.testing.assert_array_equal(np.float32(online[column]), expected)
    save, raw = (_vectors(produced, name) for name in ("user_save", "user_raw"))
    assert np.abs(save - raw).max() > 1e-3


def test_a_refresh_is_of_one_family_and_measures_each_view_by_itself(
    home: Home, provender: Provender
) -> None:
    _apply(home)
    day = ["--as-of", SECOND.isoformat(), "--device", "cpu"]
    gates = "transra: {drift: {cosine: 0, neighbours: 1, coverage: 0.5, norm: 9}}"
    (home.repo / "releases.yaml").write_text(gates)
    result = provender("refresh", "transra", "--home", home.path, *day)
    assert result.exit_code == 0, result.output

    parent = _snapshot(home, "user_raw").manifest.run_id
    for name in VIEWS:
        former, now = _snapshot(home, name), _snapshot(home, name, SECOND)
        assert now.manifest.parent == parent
        cosine = drift(*former.read(), *now.read()).cosine_mean
        assert now.manifest.metrics["drift/cosine_mean"] == pytest.approx(cosine)
    assert len(find_snapshots(home.snapshots, "user_interest_v1")) == 1


def test_a_lost_facet_is_written_again_and_the_rest_is_left(
    home: Home, provender: Provender
) -> None:
    lost, kept = _snapshot(home, "pin_save"), _snapshot(home, "pin_raw")
    written = kept.path.stat().st_mtime_ns
    shutil.rmtree(lost.path)
    result = provender("produce", "--home", home.path, "--family", "transra", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert _snapshot(home, "pin_save").manifest.checksum == lost.manifest.checksum
    assert kept.path.stat().st_mtime_ns == written


def test_families_are_released_traced_and_kept_apart(produced: Home, provender: Provender) -> None:
    """It moves releases and changes nothing else."""
    at = ["--at", (FIRST + timedelta(hours=1)).isoformat()]
    for family in ("transra", "interest"):
        result = provender("release", "promote", family, 1, "--home", produced.path, *at)
        assert result.exit_code == 0, result.output
    for name in ("item_cart", "user_interest"):
        traced = provender("lineage", f"{name}_v1", "--home", produced.path)
        assert traced.exit_code == 0, traced.output
        assert _snapshot(produced, name).manifest.run_id in traced.output
    before = set(produced.snapshots.rglob("*.parquet"))
    assert len(before) == 8
    assert provender("gc", "--apply", "--home", produced.path).exit_code == 0
    assert set(produced.snapshots.rglob("*.parquet")) == before
    assert len(list(produced.runs.glob("transra-*"))) == 2


def test_produce_takes_the_families_that_are_named(home: Home, provender: Provender) -> None:
    day = ["--as-of", SECOND.isoformat(), "--device", "cpu"]
    result = provender("produce", "--home", home.path, "--family", "interest", *day)
    assert result.exit_code == 0, result.output
    counts = [
        len(find_snapshots(home.snapshots, f"{name}_v1")) for name in ("pin_raw", "pin_interest")
    ]
    assert counts == [1, 2]
    result = provender("produce", "--home", home.path, "--version", 2)
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert "version 2 of family interest: found no embedding view of it" in told
    result = provender("produce", "--home", home.path, "--family", "interests")
    assert "family interests: found no embedding view of it" in " ".join(result.output.split())


def test_facets_alone_are_refreshed_from_what_their_run_keeps(home: Home) -> None:
    """Facets are projections: no refresh may take them for the raw vectors to start from."""
    shutil.rmtree(home.snapshots)
    job = _job(home, "user_save", "pin_save")
    first = refresh(job, FIRST, quiet).run_id
    shutil.move(home.runs / first / "model", home.path / "model")
    with pytest.raises(CheckpointError, match="found no model, and of its snapshots only facets"):
        refresh(job, SECOND, quiet)
    shutil.move(home.path / "model", home.runs / first / "model")
    assert refresh(job, SECOND, quiet).snapshots[0].manifest.parent == first
