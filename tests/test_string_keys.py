"""The whole path with users keyed by text, as many companies have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from feast import FeatureStore

from provender.plugin.snapshot import find_snapshots

pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]

#: Every table with a user gets a text key in its place.
TEXT_KEYS = """
  raw_{table}: {{path: {table}}}
  {table}: {{sql: "select * replace ('user ' || user_id || ' é' as user_id) from raw_{table}"}}
"""


@pytest.fixture
def text_home(demo_home: Path, tmp_path: Path) -> Path:
    """A home on the demo's events whose users have keys like 'user 1000000007 é'."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "simulation").symlink_to(demo_home / "simulation")
    world = (demo_home / "world.yaml").read_text(encoding="utf-8")
    for table in ("impressions", "engagements", "conversions"):
        declared = f"  {table}: {{path: {table}}}\n"
        assert declared in world
        world = world.replace(declared, TEXT_KEYS.format(table=table))
    world = world.replace("user: int64", "user: string").replace("refreshes: 5", "refreshes: 2")
    (home / "world.yaml").write_text(world, encoding="utf-8")
    return home


def test_text_keys_go_all_the_way(text_home: Path, provender: Provender) -> None:
    data = text_home / "simulation" / "events"
    walk = ["demo", "--home", text_home, "--world", text_home / "world.yaml", "--data", data]
    told = provender(*walk, "--seeds", 1)
    assert told.exit_code == 1
    line = " ".join(told.output.split())
    assert "entity user of user_transra_v1: found int64 keys in the feature repo" in line
    assert "Correct value_type in entities.py" in line

    entities = text_home / "feature_repo" / "entities.py"
    entities.write_text(entities.read_text().replace("INT64", "STRING", 1))
    told = provender(*walk, "--seeds", 1)
    assert told.exit_code == 0, told.output
    keys, vectors = find_snapshots(text_home / "snapshots", "user_transra_v1")[-1].read()
    assert keys[0].as_py() == "user 1000000000 é"
    store = FeatureStore(str(text_home / "feature_repo"))
    rows = [{"user_id": keys[3].as_py()}]
    read = store.get_online_features(["user_transra_v1:embedding"], rows).to_dict()
    assert read["embedding"][0] == vectors[3].tolist()
    ranked = provender("request", "--home", text_home, "--user", "user 1000000005 é")
    assert ranked.exit_code == 0, ranked.output
