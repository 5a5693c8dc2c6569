"""A home with a small LinkSage, refreshed as of yesterday and online, and a Redis stream of pages.

Pages and pins are of planted topics: titles of the topic's words, image vectors around its centre.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore
from feast.cli.cli import cli as feast_cli
from numpy.typing import NDArray

from provender.plugin.home import Home
from provender.plugin.repo import standing_in, views_in_repo
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.linksage.page_inbox import Message
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_refresh import refresh_pages
from provender.producers.linksage.page_stream import Limits, PageStream
from provender.producers.linksage.redis_pages import RedisPages
from provender.producers.online_refresh import OnlineRefresh

REDIS = os.environ.get("PROVENDER_REDIS", "redis://127.0.0.1:6379")
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
#: The refresh, and a time before it, at which all rows are known.
AS_OF, CRAWLED = TODAY - timedelta(days=1), TODAY - timedelta(days=9)
PAGES, PINS, TOPICS, IMAGE = 40, 80, 4, 6
VIEW = "page_linksage_v1"
_WORDS = [["oak", "chair", "table"], ["rose", "lily", "bed"], ["kick", "ball"], ["cake", "jam"]]

_STORE = """
project: streamed
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
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float32, Int64, String, UnixTimestamp
from provender.plugin.embedding_view import embedding_view

HOME = Path(__file__).resolve().parent.parent
page = Entity(name="page", join_keys=["page_id"], value_type=ValueType.INT64)
pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
shared = dict(
    version=1, dim=16, nested_dims=(4, 8), space="linksage_v1", producer="linksage",
    ttl=timedelta(days=30), snapshots=HOME / "snapshots",
)
pages = embedding_view(name="page_linksage", entity=page, **shared)
pins = embedding_view(name="pin_linksage", entity=pin, **shared)
crawled = PushSource(
    name="crawled", batch_source=FileSource(path=str(HOME / "crawled"), timestamp_field="at")
)
crawled_pages = FeatureView(
    name="crawled_pages", entities=[page], source=crawled, schema=[
        Field(name="title", dtype=String), Field(name="url", dtype=String),
        Field(name="image", dtype=Array(Float32)),
    ],
)
"""


@dataclass(frozen=True)
class StreamWorld:
    """A home, and the name of a Redis stream that is its own."""

    home: Home
    stream: str = "none"

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(str(self.home.repo))

    @property
    def spec(self) -> EmbeddingSpec:
        return next(spec for spec in self.job().specs if spec.entity == "page")

    @property
    def supplements(self) -> list[Snapshot]:
        found = find_snapshots(self.home.snapshots, VIEW, supplements=True)
        return [each for each in found if each.manifest.supplement_of is not None]

    def job(self) -> PageJob:
        world, views = World.load(self.home.world), views_in_repo(self.home.repo)
        return PageJob.declare(world, self.home.data, self.home, views, "cpu")

    def apply(self) -> None:
        with standing_in(self.home.repo):
            feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)

    def refresh(self, as_of: datetime) -> Snapshot:
        """Refresh, and take the pages online."""
        done = refresh_pages(self.job(), as_of, lambda *told: None)
        online = OnlineRefresh(self.home.repo)
        for spec, snapshot in zip(self.job().specs, done.snapshots, strict=True):
            online.load(spec, snapshot)
        return next(each for each in done.snapshots if each.manifest.entity == "page")

    def pages(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.home.data / "pages.parquet").to_pylist()
        return rows

    def page(self, number: int, **changed: Any) -> dict[str, Any]:
        """A page as it was crawled for the refresh, with something else about it."""
        row = self.pages()[number]
        return {name: row[name] for name in ("page_id", "title", "url", "image")} | changed

    def recrawl(self, page: dict[str, Any], at: datetime) -> None:
        """Put a page into the table that refreshes read."""
        file = self.home.data / "pages.parquet"
        rows = [*self.pages(), {**page, "crawled_at": at}]
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)

    def inbox(self, consumer: str | None = None, idle: float = 60.0) -> RedisPages:
        return RedisPages(REDIS, self.stream, "readers", consumer, idle)

    def open(self, inbox: Any, batch: int = 100) -> PageStream:
        return PageStream(self.job(), OnlineRefresh(self.home.repo), inbox, Limits(batch, 0.0))

    def send(self, *pages: Any) -> list[str]:
        """Add messages; what is no text is sent as JSON."""
        with client() as redis:
            texts = [page if isinstance(page, str) else json.dumps(page) for page in pages]
            return [redis.xadd(self.stream, {"page": text}).decode() for text in texts]

    def pending(self) -> int:
        with client() as redis:
            (group,) = redis.xinfo_groups(self.stream)
            return int(group["pending"]) + int(group["lag"])

    def bad(self) -> list[dict[str, str]]:
        with client() as redis:
            entries = redis.xrange(f"{self.stream}:bad")
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]

    def online(self, *keys: int) -> NDArray[np.float32]:
        """Vectors by Feast's own call: (n, dim)."""
        rows = [{"page_id": key} for key in keys]
        found = self.store.get_online_features([f"{VIEW}:embedding"], rows).to_dict()["embedding"]
        return np.array([row or [np.nan] * 16 for row in found], np.float32)

    def joined(self, key: int, at: datetime) -> NDArray[np.float32]:
        """The vector that a point-in-time join finds: (dim,)."""
        frame = pa.table({"page_id": [key], "event_timestamp": [at]}).to_pandas()
        found = self.store.get_historical_features(frame, [f"{VIEW}:embedding"]).to_df()
        return np.array(found["embedding"][0], np.float32)


def make_world(root: Path) -> StreamWorld:
    """A home whose refresh is made; it is to be copied for each test."""
    world = StreamWorld(Home(root))
    (world.home.repo / "data").mkdir(parents=True)
    (world.home.path / "crawled").mkdir()
    (world.home.repo / "feature_store.yaml").write_text(_STORE)
    (world.home.repo / "views.py").write_text(_VIEWS)
    world.home.data.mkdir(parents=True)
    _write_tables(world.home.data)
    # Feast asks the files for their columns before it pushes.
    pages = pq.read_table(world.home.data / "pages.parquet").rename_columns({"crawled_at": "at"})
    pq.write_table(pages.slice(0, 0), world.home.path / "crawled" / "first.parquet")
    world.home.world.write_text(yaml.safe_dump(_declared()))
    world.apply()
    world.refresh(AS_OF)
    return world


def copied(world: StreamWorld, root: Path) -> StreamWorld:
    """The same home elsewhere, with a stream of its own."""
    shutil.copytree(world.home.path, root)
    other = StreamWorld(Home(root), f"provender-test-{uuid.uuid4().hex}")
    other.apply()
    return other


@contextmanager
def client() -> Iterator[Any]:
    """Redis; skips where there is none, but fails in CI."""
    redis = pytest.importorskip("redis", reason="no package redis (extra `stream`)")
    with redis.Redis.from_url(REDIS) as connection:
        try:
            connection.ping()
        except redis.RedisError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no Redis at {REDIS} (PROVENDER_REDIS): {error}")
        yield connection


def messages(*pages: dict[str, Any], order: int = 0) -> list[Message]:
    """Messages that came by no inbox."""
    return [Message(str(n), page, order, 0.0) for n, page in enumerate(pages)]


def _declared() -> dict[str, Any]:
    node = {"text": ["title"], "image_vectors": "image"}
    small = {"width": 16, "heads": 2, "feedforward": 32, "layers": 1}
    return {
        "tables": {name: {"path": f"{name}.parquet"} for name in ("pages", "pins")},
        "entities": {"page": "int64", "pin": "int64"},
        "events": {
            "links": {"table": "pins", "head": {"pin": "pin_id"}, "tail": {"page": "page_id"}}
        },
        "linksage": {
            "pages": {
                **node,
                "table": "pages",
                "key": "page_id",
                "url": "url",
                "time": "crawled_at",
            },
            "pins": {**node, "table": "pins", "key": "pin_id", "time": "at"},
            "pairs": {"links": {"table": "pins", "pin": "pin_id", "page": "page_id", "time": "at"}},
            "model": small,
            "training": {"epochs": 3, "batch_size": 32, "negatives": 32},
            "walks": {"walks": 20, "neighbours": 10, "folds": 2},
        },
        "dates": {"first_as_of": AS_OF.date(), "refreshes": 1},
    }


def _write_tables(data: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(TOPICS, IMAGE))

    def shown(topic: int) -> dict[str, Any]:
        title = " ".join(rng.choice(_WORDS[topic], 4))
        image = (centres[topic] + 0.3 * rng.normal(size=IMAGE)).astype(np.float32)
        return {"title": title, "image": image.tolist()}

    pages = [
        {"page_id": 100 + n, "url": f"https://shop{n % 8}.example/{n}", "crawled_at": CRAWLED}
        | shown(n % TOPICS)
        for n in range(PAGES)
    ]
    pins = [
        {"pin_id": n, "page_id": 100 + n % PAGES, "at": CRAWLED} | shown(n % TOPICS)
        for n in range(PINS)
    ]
    image, time = pa.list_(pa.float32()), pa.timestamp("us", tz="UTC")
    for name, rows in (("pages", pages), ("pins", pins)):
        table = pa.Table.from_pylist(rows)
        types = {"image": image, "crawled_at": time, "at": time}
        fields = [pa.field(f.name, types.get(f.name, f.type)) for f in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), data / f"{name}.parquet")
