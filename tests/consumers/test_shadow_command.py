"""`provender shadow` and rankers by name, on a home of their own with a second version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from feast import FeatureStore

from provender.plugin.embedding_view import embedding_specs
from provender.plugin.manifest import RunInfo
from provender.plugin.ranker_stamp import read_stamps
from provender.plugin.releases import Releases
from provender.plugin.snapshot import find_snapshots, write_snapshot

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]
LAST = datetime(2026, 3, 14, tzinfo=UTC)
VERSION = """

{entity}_transra_v{number} = embedding_view(
    name="{entity}_transra", version={number}, entity={entity}, dim=64, space="{space}",
    producer="transra", anchored_to={anchored_to}, ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
"""
SERVICE = """
from embedding_views import pin_transra_v3, user_transra_v3

ranker_v3 = FeatureService(
    name="ranker_v3", features=[user_counters, pin_counters, user_transra_v3, pin_transra_v3]
)
"""


def feast(home: Path, *words: str) -> None:
    program = Path(sys.executable).with_name("feast")
    repo = home / "feature_repo"
    done = subprocess.run([program, *words], cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(demo_home: Path, tmp_path_factory: pytest.TempPathFactory, provender: Provender) -> Path:
    """A copy of the demo, version 1 live, with two more of other meaning.

    Version 2 is anchored to version 1 and has its very vectors; version 3 has random ones in a
    space of its own. The rankers of version 1 accept anchored versions.
    """
    home = tmp_path_factory.mktemp("shadow") / "home"
    shutil.copytree(demo_home, home, symlinks=True)
    repo = home / "feature_repo"
    with (repo / "embedding_views.py").open("a") as file:
        for number, space, anchored_to in ((2, "transra_v1", 1), (3, "transra_v3", None)):
            for entity in ("user", "pin"):
                told = {"number": number, "space": space, "anchored_to": anchored_to}
                file.write(VERSION.format(entity=entity, **told))
    with (repo / "services.py").open("a") as file:
        file.write(SERVICE)
    feast(home, "apply")
    specs = embedding_specs(FeatureStore(str(repo)))
    generator = np.random.default_rng(0)
    for entity in ("user", "pin"):
        for snapshot in find_snapshots(home / "snapshots", f"{entity}_transra_v1"):
            keys, vectors = snapshot.read()
            as_of = snapshot.manifest.as_of
            run = RunInfo(f"test-{as_of:%d}", "transra", "c" * 64, as_of, as_of)
            random = generator.normal(size=vectors.shape).astype(np.float32)
            for number, values in ((2, vectors), (3, random)):
                spec = specs[f"{entity}_transra_v{number}"]
                write_snapshot(home / "snapshots", spec, as_of, keys, values, run)
    feast(home, "materialize", "2026-03-09T00:00:00", "2026-03-14T00:00:01")
    releases = Releases.of(FeatureStore(str(repo)))
    if releases.current("transra") is None:
        releases.move(None, family="transra", action="promote", live=1)
    trained = provender("rank", "--home", home, "--seeds", 1, "--backfills", "--accept-anchored")
    assert trained.exit_code == 0, trained.output
    return home


def shadow(provender: Provender, home: Path, *words: object) -> tuple[Result, dict[str, Any]]:
    path = home / "reports" / "shadow.json"
    path.unlink(missing_ok=True)
    sizes = ("--requests", 12, "--candidates", 20)
    result = provender("shadow", "transra", "--home", home, *sizes, *words)
    return result, json.loads(path.read_text()) if path.exists() else {}


def test_the_same_vectors_under_another_version_make_no_difference(
    provender: Provender, home: Path
) -> None:
    result, told = shadow(provender, home, "--version", 2)
    assert result.exit_code == 0, result.output
    assert "transra v2 beside v1: 12 requests, 240 candidates" in result.stdout
    report = told["report"]
    assert told["candidate"] == {"version": 2, "ranker": str(home / "rankers/with-0.safetensors")}
    assert report["difference"] == {"mean": 0.0, "p95": 0.0, "max": 0.0}
    assert (report["rank_correlation"], report["top_overlap"]) == (pytest.approx(1), 1.0)
    assert report["live"]["versions"] == {"transra": 1}
    assert report["candidate"]["versions"] == {"transra": 2}
    assert report["live"]["missing"] == report["candidate"]["missing"]
    assert report["failures"] == 0


def test_a_candidate_without_a_ranker_is_refused(provender: Provender, home: Path) -> None:
    result, _ = shadow(provender, home, "--version", 3)
    assert result.exit_code == 1
    assert " ".join(result.output.split()) == (
        f"Error: shadow of family transra: found no ranker in {home / 'rankers'} that reads "
        "version 3; expected one that was trained on it, or that accepts it and may read it. Train "
        "one with `provender rank --service SERVICE`, or name it with --candidate-ranker."
    )


def test_without_a_candidate_it_says_how_to_get_one(provender: Provender, home: Path) -> None:
    result, _ = shadow(provender, home)
    assert result.exit_code == 1
    assert "found no candidate; expected a version to compare" in result.output
    assert "`provender release canary transra VERSION`" in result.output
    result, _ = shadow(provender, home, "--version", 9)
    assert "version 9 of family transra: found no embedding view" in result.output
    missing = provender("shadow", "nothing", "--home", home, "--version", 1)
    assert "family nothing: found no embedding view of it in the registry" in missing.output


def test_rankers_of_two_services_lie_side_by_side_and_are_found_by_their_stamps(
    provender: Provender, home: Path
) -> None:
    before = (home / "reports" / "lift.json").read_bytes()
    options = ("--seeds", 1, "--epochs", 1, "--backfills")
    trained = provender("rank", "--home", home, "--service", "ranker_v3", *options)
    assert trained.exit_code == 0, trained.output
    stamps = read_stamps(home / "rankers")
    names = {path.name: {on.spec.version for on in told.views} for path, told in stamps.items()}
    # The seeds that were not trained again are the demo's own.
    assert names == {
        "with-0.safetensors": {1},
        "with-1.safetensors": {1},
        "without-0.safetensors": set(),
        "without-1.safetensors": set(),
        "ranker_v3-0.safetensors": {3},
    }
    of_3 = stamps[home / "rankers" / "ranker_v3-0.safetensors"]
    assert [run.as_of.day for run in of_3.views[0].runs] == [10, 11, 12, 13]
    assert (home / "reports" / "lift.json").read_bytes() == before
    assert (home / "reports" / "lift-ranker_v3.json").exists()
    releases = Releases.of(FeatureStore(str(home / "feature_repo")))
    state = releases.current("transra")
    canary = releases.move(state, action="canary", candidate=3, share=0.1)
    result, told = shadow(provender, home)
    releases.move(canary, action="canary", candidate=None, share=0.0)
    (home / "rankers" / "ranker_v3-0.safetensors").unlink()
    assert result.exit_code == 0, result.output
    report = told["report"]
    assert told["candidate"]["ranker"] == str(home / "rankers" / "ranker_v3-0.safetensors")
    assert report["difference"]["max"] > 0
    assert -1 <= report["rank_correlation"] <= 1
    assert list(report["candidate"]["missing"]) == ["user_transra_v3", "pin_transra_v3"]


def test_rankers_are_named_as_asked_but_not_like_those_without(
    provender: Provender, home: Path
) -> None:
    options = ("--seeds", 1, "--epochs", 1, "--backfills", "--name")
    assert provender("rank", "--home", home, *options, "weekly").exit_code == 0
    path = home / "rankers" / "weekly-0.safetensors"
    answered = provender("request", "--home", home, "--ranker", path, "--repeat", 1)
    assert answered.exit_code == 0, answered.output
    path.unlink()
    refused = provender("rank", "--home", home, *options, "without")
    assert refused.exit_code == 1
    assert "--name: found 'without'; expected another name" in refused.output


def test_without_a_live_version_there_is_nothing_to_compare_with(
    provender: Provender, home: Path
) -> None:
    releases = Releases.of(FeatureStore(str(home / "feature_repo")))
    live = releases.current("transra")
    none = releases.move(live, action="retire", live=None)
    result, _ = shadow(provender, home, "--version", 2)
    releases.move(none, action="promote", live=1)
    assert result.exit_code == 1
    assert "found no version live; expected one to compare version 2 with" in result.output
