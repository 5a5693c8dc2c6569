"""Two weeks of a family as benchmarks/release_story.py plays them, small, on each database."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.plugin.online_world import open_world

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_weeks_of_a_family(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = None if kind == "sqlite" else open_world(kind, tmp_path).url
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    story = importlib.import_module("release_story")
    # It stops by itself at anything else than what should happen.
    told = story.play(tmp_path / "home", url, users=200, requests=1_000, seeds=1, kills=1)
    read = told["under load"]
    assert read["requests"] == sum(read["versions"].values()) == 1_000
    assert read["mixed"] == read["failed"] == 0
    assert read["moves"] >= 4
    assert {view: each["dim"] for view, each in told["joined in one training set"].items()} == {
        "user_transra_v1": 64,
        "pin_transra_v1": 64,
        "user_transra_v2": 32,
        "pin_transra_v2": 32,
    }
    assert len(told["refused"]) >= 30
