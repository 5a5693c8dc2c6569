"""A small world of pages, pins, links and boards on disk, and a job of LinkSage over it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.linksage.page_job import PageJob

TOPICS, PAGES, PINS = 6, 120, 180
WORDS = 12
Row = dict[str, Any]


def day(number: int) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=number)


def quiet(*_: object) -> None:
    pass


@dataclass
class PageWorld:
    """Rows of tables, which a test may change before they are written."""

    home: Home
    pages: list[Row]
    pins: list[Row]
    saves: list[Row]

    @classmethod
    def planted(cls, path: Path, seed: int = 0) -> PageWorld:
        rng = np.random.default_rng(seed)

        def text(topic: int) -> str:
            own = rng.integers(0, WORDS, 5) + WORDS * topic
            other = rng.integers(0, WORDS * TOPICS, 3)
            return " ".join(f"word{word}" for word in [*own, *other])

        pages = [
            {
                "page_id": n,
                "title": text(n % TOPICS),
                "url": f"https://s{n % 9}.com/{n}",
                "at": day(-n),
            }
            for n in range(PAGES)
        ]
        pins = [
            {
                "pin_id": 10_000 + n,
                "title": text(n % TOPICS),
                "page_id": int(rng.integers(0, PAGES // TOPICS)) * TOPICS + n % TOPICS,
                "at": day(-n),
            }
            for n in range(PINS)
        ]
        saves = [
            {
                "user": int(rng.integers(0, 5)) * TOPICS + n % TOPICS,
                "pin_id": 10_000 + n,
                "at": day(-1),
            }
            for n in range(PINS)
        ]
        return cls(Home(path), pages, pins, saves)

    def write(self) -> None:
        self.home.data.mkdir(parents=True, exist_ok=True)
        for name in ("pages", "pins", "saves"):
            table = pa.Table.from_pylist(getattr(self, name))
            at = table.schema.get_field_index("at")
            times = table["at"].cast(pa.timestamp("us", "UTC"))
            pq.write_table(table.set_column(at, "at", times), self.home.data / f"{name}.parquet")

    def job(self, version: int = 1, **settings: Any) -> PageJob:
        content = {
            "tables": {n: {"path": f"{n}.parquet"} for n in ("pages", "pins", "saves")},
            "entities": {"page": "int64", "pin": "int64"},
            "events": {"links": {"table": "pins"}},
            "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
            "linksage": {
                "pages": {
                    "table": "pages",
                    "key": "page_id",
                    "text": ["title"],
                    "url": "url",
                    "time": "at",
                },
                "pins": {"table": "pins", "key": "pin_id", "text": ["title"], "time": "at"},
                "pairs": {
                    "links": {"table": "pins", "pin": "pin_id", "page": "page_id", "time": "at"}
                },
                "boards": {"table": "saves", "key": "user", "pin": "pin_id", "time": "at"},
                "model": {"width": 16, "heads": 2, "feedforward": 32, "neighbours": 8},
                "training": {"epochs": 2, "batch_size": 32, "negatives": 32},
                "walks": {"walks": 20, "neighbours": 8},
                **settings,
            },
        }
        views = [
            DeclaredView(
                EmbeddingSpec.declare(
                    name=f"{entity}_linksage",
                    version=version,
                    entity=entity,
                    join_key=f"{entity}_id",
                    dim=16,
                    nested_dims=(4, 8),
                    space=f"linksage_v{version}",
                    producer="linksage",
                    ttl=timedelta(days=30),
                ),
                "int64",
            )
            for entity in ("page", "pin")
        ]
        world = World.model_validate(content)
        return PageJob.declare(world, self.home.data, self.home, views, "cpu", version=version)
