"""A home with logs of ten days, a Feast repo, and views of upstream towers to be refreshed.

Users and pins are of two groups, and users click and buy pins of their own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from feast.cli.cli import cli as feast_cli

from provender.plugin.home import Home
from provender.plugin.repo import standing_in, views_in_repo
from provender.plugin.snapshot import Snapshot, find_snapshot
from provender.plugin.world import World
from provender.producers.publish import Gate
from provender.producers.refresh import OnStage, Refresh
from provender.producers.upstream.tower_job import TowerJob
from provender.producers.upstream.tower_refresh import refresh_towers

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS, PINS, DAYS = 24, 30, 10
#: A click comes within so many hours, or never.
WITHIN = 12
ENTITIES = ("user", "pin")
TINY_TOWER = {"layers": 1, "tokens": 2}
TINY = {
    "width": 8, "heads": 2, "hidden": 8, "rank": 4, "sequence_tokens": 2,
    "user": TINY_TOWER, "pin": TINY_TOWER, "interaction": TINY_TOWER,
}  # fmt: skip
_TABLES = ("impressions", "clicks", "buys", "pins")
Row = dict[str, Any]

_STORE = """
project: towers
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
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.{key_type})
pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.{key_type})
"""
_VIEW = """
{entity}_{producer} = embedding_view(
    name="{entity}_{producer}", version=1, entity={entity}, dim=8, nested_dims={nested},
    space="{producer}_v1", producer="{producer}", ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
"""


def day(number: float) -> datetime:
    """The moment before which so many days of the logs lie."""
    return START + timedelta(days=number)


def quiet(*_: object) -> None:
    """An OnStage that shows nothing."""


def alone() -> None:
    """Let torch compute by one thread, as runs that are compared bit by bit do."""
    torch.set_num_threads(1)


@dataclass
class TowerHome:
    """Rows of tables, which a test may change before they are written, and the home for them."""

    home: Home
    tables: dict[str, list[Row]]
    strings: bool = False

    @classmethod
    def planted(cls, root: Path, *, strings: bool = False) -> TowerHome:
        """Lay it out: tables, world file, a repo of the towers' views; nothing is registered."""
        made = cls(Home(root), _planted(strings), strings)
        (made.home.repo / "data").mkdir(parents=True)
        (made.home.repo / "feature_store.yaml").write_text(_STORE)
        made.home.data.mkdir(parents=True)
        made.declare("upstream")
        made.settings()
        made.write()
        return made

    def moved(self, root: Path) -> TowerHome:
        """A copy of all of it, of one's own."""
        shutil.copytree(self.home.path, root)
        tables = {name: [dict(row) for row in rows] for name, rows in self.tables.items()}
        return replace(self, home=Home(root), tables=tables)

    def key(self, number: int) -> int | str:
        """The key of a user or pin."""
        return f"k{number:03d}" if self.strings else number

    def write(self) -> None:
        """Write the tables."""
        for name in _TABLES:
            table = pa.Table.from_pylist(self.tables[name])
            for place, column in enumerate(table.schema.names):
                if column in ("time", "until"):
                    times = table[column].cast(pa.timestamp("us", "UTC"))
                    table = table.set_column(place, column, times)
            pq.write_table(table, self.home.data / f"{name}.parquet")

    def declare(self, *producers: str) -> None:
        """Declare views of users and pins by these producers."""
        key_type = "STRING" if self.strings else "INT64"
        views = [
            _VIEW.format(entity=entity, producer=each, nested=(4,) if each == "upstream" else ())
            for each in producers
            for entity in ENTITIES
        ]
        text = _VIEWS.format(key_type=key_type) + "".join(views)
        (self.home.repo / "views.py").write_text(text)

    def apply(self) -> None:
        """Run `feast apply`."""
        with standing_in(self.home.repo):
            feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)

    def settings(self, **changed: Any) -> None:
        """Write the world file, with sections or single keys of section `upstream` replaced."""
        key = "string" if self.strings else "int64"
        ends = {"head": {"user": "user_id"}, "tail": {"pin": "pin_id"}, "time": "time"}
        section = section_of(**changed)
        world = {
            "tables": {name: {"path": f"{name}.parquet"} for name in _TABLES},
            "entities": {"user": key, "pin": key},
            "events": {
                name: {"table": table, **ends}
                for name, table in (
                    ("impression", "impressions"), ("click", "clicks"), ("buy", "buys"),
                )
            },
            "transra": {"epochs": 1, "chunk_size": 64, "negatives": 8},
            "upstream": section,
            "dates": {"first_as_of": day(5).date(), "refreshes": 2},
        }  # fmt: skip
        self.home.world.write_text(yaml.safe_dump(world, sort_keys=False))

    def job(self) -> TowerJob:
        """The job of the towers' views."""
        world, views = World.load(self.home.world), views_in_repo(self.home.repo)
        job = TowerJob.declare(world, self.home.data, self.home, views, "cpu")
        return replace(job, repo=self.home.repo)

    def refresh(
        self, number: float, on_stage: OnStage = quiet, gate: Gate | None = None
    ) -> Refresh:
        """Refresh as of a day."""
        alone()
        return refresh_towers(self.job(), day(number), on_stage, gate)

    def snapshot(self, number: float, entity: str = "user") -> Snapshot:
        """What a refresh has published."""
        found = find_snapshot(self.home.snapshots, f"{entity}_upstream_v1", day(number))
        assert found is not None
        return found

    def vectors(self, number: float, entity: str = "user") -> dict[Any, np.ndarray]:
        """By key."""
        keys, rows = self.snapshot(number, entity).read()
        return dict(zip(keys.to_pylist(), rows, strict=True))

    def bytes_of(self, number: float) -> list[bytes]:
        """The files of vectors that a refresh has published."""
        found = []
        for entity in ENTITIES:
            one = self.snapshot(number, entity)
            found += [(one.path / part.name).read_bytes() for part in one.manifest.files]
        return found


def section_of(**changed: Any) -> dict[str, Any]:
    """Section `upstream`: `sources`, `features`, `pins` are replaced, others changed by key."""
    of_pins = {"table": "pins", "key": "pin_id", "time": "time"}
    section: dict[str, Any] = {
        "sources": {
            "shown": {
                "table": "impressions",
                "id": "impression_id",
                "user": "user_id",
                "pin": "pin_id",
                "time": "time",
                "context": {"numbers": {"position": {"column": "position"}}},
                "labels": {
                    "click": {
                        "table": "clicks",
                        "match": {"id": "impression_id"},
                        "time": "time",
                        "within": f"{WITHIN}h",
                    }
                },
            },
            "bought": {
                "table": "buys",
                "user": "user_id",
                "pin": "pin_id",
                "time": "time",
                "labels": {"buy": "always"},
                "negatives": 2,
            },
        },
        "features": {
            "user": {
                "counts": {"clicks": {"events": ["click"]}, "buys": {"events": ["buy"]}},
                "ids": {"dim": 4},
                "sequence": {"events": ["click", "buy"], "length": 4},
            },
            "pin": {
                "counts": {"clicks": {"events": ["click"]}},
                "numbers": {"price": {**of_pins, "column": "price"}},
                "categories": {"group": {**of_pins, "column": "group"}},
                "ids": {"dim": 4},
            },
            "pair": {"recency": {"seen": {"events": ["impression"]}}},
        },
        "pins": {**of_pins, "until": "until"},
        "model": TINY,
        "training": {"batch_size": 64, "epochs": 3, "learning_rate": 0.01},
    }
    whole = {"sources", "features", "pins"}
    for name, value in changed.items():
        section[name] = value if name in whole else {**section.get(name, {}), **value}
    return {name: value for name, value in section.items() if value is not None}


def _planted(strings: bool) -> dict[str, list[Row]]:
    """Some sixty impressions a day, of which the own group's are mostly clicked, and ten buys."""
    rng = np.random.default_rng(0)

    def key(number: int) -> int | str:
        return f"k{number:03d}" if strings else number

    def pin_of(user: int, own: float) -> int:
        group = user % 2 if rng.random() < own else 1 - user % 2
        return int(rng.integers(0, PINS // 2)) * 2 + group

    def at(number: float) -> datetime:
        return START + timedelta(microseconds=int(number * 86_400e6))

    tables: dict[str, list[Row]] = {name: [] for name in _TABLES}
    for number, when in enumerate(np.sort(rng.uniform(0, DAYS, 60 * DAYS))):
        user = int(rng.integers(0, USERS))
        pin = pin_of(user, 0.5)
        row = {"impression_id": number, "user_id": key(user), "pin_id": key(pin)}
        position = int(rng.integers(0, 5))
        tables["impressions"].append({**row, "time": at(when), "position": position})
        if rng.random() < (0.8 if user % 2 == pin % 2 else 0.1):
            hours = rng.uniform(0, WITHIN)
            tables["clicks"].append({**row, "time": at(when + hours / 24)})
    for when in np.sort(rng.uniform(0, DAYS, 10 * DAYS)):
        user = int(rng.integers(0, USERS))
        pin = pin_of(user, 0.9)
        tables["buys"].append({"user_id": key(user), "pin_id": key(pin), "time": at(when)})
    tables["pins"] = [
        {
            "pin_id": key(number),
            "time": at(-1 - number),
            "until": None,
            "price": float(rng.uniform(1, 9)),
            "group": f"g{number % 3}",
        }
        for number in range(PINS)
    ]
    return tables
