"""The feature repo that ships, used as a newcomer uses it: copied, with Feast's own commands."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from provender.plugin.embedding_view import embedding_specs
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot

T = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
COUNTERS = [
    name + period for name in ("impressions", "clicks", "conversions") for period in ("", "_7d")
]


def feast(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Feast's command line from some other folder than the repo."""
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repo), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)


def write_refreshes(home: Path, store: FeatureStore) -> None:
    """Write two daily refreshes of every view: vectors and counts say whose and which they are."""
    for day in (0, 1):
        for spec in embedding_specs(store).values():
            keys = pa.array([1, 2, 3])
            vectors = np.repeat(np.array([[1], [2], [3]], np.float32), spec.dim, axis=1) + 10 * day
            run = RunInfo(f"run-{day}", spec.producer, "c0ffee", T, T + day * DAY)
            write_snapshot(home / "snapshots", spec, T + day * DAY, keys, vectors, run)
        for entity in ("user", "pin"):
            folder = home / "features" / f"{entity}_counters"
            folder.mkdir(parents=True, exist_ok=True)
            times = pa.array([T + day * DAY] * 3, pa.timestamp("us", tz="UTC"))
            columns: dict[str, Any] = {
                f"{entity}_id": [1, 2, 3],
                "event_timestamp": times,
                "created_timestamp": times,
            } | {name: [100 * day + 1, 100 * day + 2, 100 * day + 3] for name in COUNTERS}
            pq.write_table(pa.table(columns), folder / f"{day}.parquet")


def first(vector: Any) -> float | None:
    """Return a vector's first float, having checked that it is whole; None of no vector."""
    if vector is None:
        return None
    assert len(vector) == 64
    assert len(set(vector)) == 1
    return float(vector[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home laid out as the README says, applied by `feast apply` before any data exists."""
    home = tmp_path_factory.mktemp("home")
    shipped = Path(__file__).parents[2] / "feature_repo"
    (home / "feature_repo" / "data").mkdir(parents=True)
    for path in [*shipped.glob("*.py"), shipped / "feature_store.yaml"]:
        if path.name != "__init__.py":
            (home / "feature_repo" / path.name).write_bytes(path.read_bytes())
    done = feast(home / "feature_repo", "apply")
    assert done.returncode == 0, done.stderr
    assert "Could not validate" not in done.stderr
    write_refreshes(home, FeatureStore(repo_path=str(home / "feature_repo")))
    return home


@pytest.fixture(scope="module")
def store(home: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(home / "feature_repo"))


def test_apply_registers_views_and_services(store: FeatureStore) -> None:
    assert sorted(view.name for view in store.list_feature_views()) == [
        "page_linksage_v1",
        "pin_counters",
        "pin_linksage_v1",
        "pin_transra_v1",
        "pin_upstream_v1",
        "user_counters",
        "user_transra_v1",
        "user_upstream_v1",
    ]
    names = {
        service.name: [projection.name for projection in service.feature_view_projections]
        for service in store.list_feature_services()
    }
    assert names == {
        "ranker_baseline": ["user_counters", "pin_counters"],
        "ranker_transra": ["user_counters", "pin_counters", "user_transra_v1", "pin_transra_v1"],
    }
    for entity in ("user", "pin"):
        spec = embedding_specs(store)[f"{entity}_transra_v1"]
        assert (spec.entity, spec.join_key) == (entity, f"{entity}_id")
        assert (spec.dim, spec.nested_dims, spec.space) == (64, (16, 32), "transra_v1")


def test_a_row_gets_the_refresh_that_its_time_had(store: FeatureStore) -> None:
    hour = timedelta(hours=1)
    expected = [  # user, pin, time, their vectors' first float, the user's clicks
        (1, 2, T - hour, None, None, None),  # before the first refresh
        (1, 2, T, 1.0, 2.0, 1),  # exactly at it
        (1, 2, T + 23 * hour, 1.0, 2.0, 1),
        (1, 3, T + 25 * hour, 11.0, 13.0, 101),
        (9, 3, T + 25 * hour, None, 13.0, None),  # a user nobody knows
        (3, 1, T + DAY + timedelta(days=31), None, None, None),  # after the ttl
    ]
    rows = pd.DataFrame(
        {
            "row": range(len(expected)),
            "user_id": [row[0] for row in expected],
            "pin_id": [row[1] for row in expected],
            "event_timestamp": pd.to_datetime([row[2] for row in expected], utc=True),
        }
    )
    service = store.get_feature_service("ranker_transra")
    job = store.get_historical_features(entity_df=rows, features=service, full_feature_names=True)
    joined = sorted(job.to_arrow().to_pylist(), key=lambda row: int(row["row"]))
    assert [
        (
            row["user_id"],
            row["pin_id"],
            row["event_timestamp"],
            first(row["user_transra_v1__embedding"]),
            first(row["pin_transra_v1__embedding"]),
            row["user_counters__clicks"],
        )
        for row in joined
    ] == expected


def test_materialize_serves_the_last_refresh(home: Path, store: FeatureStore) -> None:
    start, end = (T - DAY).isoformat(), (T + 2 * DAY).isoformat()
    done = feast(home / "feature_repo", "materialize", start, end)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    assert "Deprecation" not in done.stderr
    answer = store.get_online_features(
        store.get_feature_service("ranker_transra"),
        [{"user_id": 1, "pin_id": 2}, {"user_id": 9, "pin_id": 3}],
        full_feature_names=True,
    ).to_dict()
    assert [first(vector) for vector in answer["user_transra_v1__embedding"]] == [11.0, None]
    assert [first(vector) for vector in answer["pin_transra_v1__embedding"]] == [12.0, 13.0]
    assert answer["pin_counters__conversions_7d"] == [102, 103]


def test_a_refusal_is_one_line_of_feast_apply(home: Path) -> None:
    """Last in this file: it edits the repo, puts it back, and must have changed nothing else."""
    repo = home / "feature_repo"
    views = repo / "embedding_views.py"
    declared, registry = views.read_text(), (repo / "data" / "registry.db").read_bytes()
    views.write_text(declared.replace("dim=64", "dim=48", 1))
    done = feast(repo, "apply", "--skip-source-validation", "--skip-feature-view-validation")
    views.write_text(declared)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: embedding view user_transra_v1: found dim 48; expected dim 64, as registered. "
        "Declare it as version 2; both can live side by side.\n"
    )
    assert (repo / "data" / "registry.db").read_bytes() == registry
