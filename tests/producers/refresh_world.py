"""What the tests of refreshes stand on: a small world, a Feast repo, and several versions of views.

Users click and save pins of their own topic; a day has a few hundred events, a refresh takes a
moment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast.cli.cli import cli as feast_cli

from provender.plugin.home import Home
from provender.plugin.repo import standing_in, views_in_repo
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.world import World
from provender.producers.job import Job

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS, PINS, TOPICS, DAYS = 60, 200, 4, 6
ENTITIES = ("user", "pin")
QUICK = {"epochs": 3, "refresh_epochs": 1, "chunk_size": 64, "negatives": 16}

_STORE = """
project: refreshed
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
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
"""
_VIEW = """
{entity}_v{version} = embedding_view(
    name="{entity}_transra", version={version}, entity={entity}, dim={dim}, space="{space}",
    producer="{producer}", anchored_to={anchored_to}, ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
"""


@dataclass(frozen=True)
class Version:
    """One version of the family's two views."""

    number: int
    dim: int = 8
    anchored_to: int | None = None
    producer: str = "transra"

    @property
    def space(self) -> str:
        return f"transra_v{self.anchored_to or self.number}"


def day(number: int) -> datetime:
    """The midnight before which so many days of events lie."""
    return START + timedelta(days=number)


def quiet(stage: str, done: int, total: int, note: str) -> None:
    """An OnStage that shows nothing."""


@dataclass(frozen=True)
class RefreshWorld:
    """A home with events and a repo, and how to work in it."""

    home: Home

    @property
    def root(self) -> Path:
        return self.home.path

    def declare(self, *versions: Version) -> None:
        """Write the repo so that it declares these versions."""
        views = [
            _VIEW.format(
                entity=entity, space=version.space, **{**vars(version), "version": version.number}
            )
            for version in versions
            for entity in ENTITIES
        ]
        (self.home.repo / "views.py").write_text(_VIEWS + "".join(views))

    def apply(self) -> None:
        """Run `feast apply`."""
        with standing_in(self.home.repo):
            feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)

    def job(self, version: int | None = None, **settings: Any) -> Job:
        """The job of a version, with settings of the world's section transra replaced."""
        world = World.load(self.home.world)
        world = world.model_copy(update={"transra": {**world.transra, **settings}})
        views = views_in_repo(self.home.repo)
        return Job.declare(world, self.home.data, self.home, views, "cpu", version=version)

    def snapshots(self, view: str) -> list[Snapshot]:
        return find_snapshots(self.home.snapshots, view)

    def settings(self, **transra: Any) -> None:
        """Write the world file."""
        ends = {"head": {"user": "user_id"}, "tail": {"pin": "pin_id"}, "time": "time"}
        world = {
            "tables": {"log": {"path": "log.parquet"}},
            "entities": {"user": "int64", "pin": "int64"},
            "events": {
                kind: {"table": "log", "where": f"kind = '{kind}'", **ends}
                for kind in ("click", "save")
            },
            "counters": {"clicks": ["click"]},
            "transra": {**QUICK, **transra},
            "dates": {"first_as_of": day(2).date(), "refreshes": 2},
        }
        self.home.world.write_text(yaml.safe_dump(world))


def make_world(root: Path) -> RefreshWorld:
    """Lay out a home with events, the repo of one version, and nothing produced yet."""
    world = RefreshWorld(Home(root))
    (world.home.repo / "data").mkdir(parents=True)
    (world.home.repo / "feature_store.yaml").write_text(_STORE)
    world.home.data.mkdir(parents=True)
    write_log(world.home.data / "log.parquet")
    world.settings()
    world.declare(Version(1))
    return world


def write_log(path: Path, seed: int = 0) -> None:
    """Events of all days: nine in ten of the user's own topic, one in four a save."""
    rng = np.random.default_rng(seed)
    rows = 500 * DAYS
    user = rng.integers(0, USERS, rows)
    near = rng.integers(0, PINS // TOPICS, rows) * TOPICS + user % TOPICS
    pin = np.where(rng.random(rows) < 0.9, near, rng.integers(0, PINS, rows))
    seconds = np.sort(rng.integers(0, DAYS * 86_400, rows))
    table = pa.table(
        {
            "user_id": user,
            "pin_id": pin,
            "time": pa.array((seconds + int(START.timestamp())) * 1_000_000).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "kind": np.where(rng.random(rows) < 0.25, "save", "click"),
        }
    )
    pq.write_table(table, path)


def assert_killed(script: str, told: object, *, times: int) -> None:
    """Run a script that forks, is told something, and prints how each of its children ended."""
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(told)],
        capture_output=True,
        text=True,
        check=False,
    )
    ends = [int(line) for line in run.stdout.split()]
    assert ends == [signal.SIGKILL] * times, run.stderr[-3000:]
