"""The data and the feature stores of benchmarks/stores.py: seeded, and the same files for all.

A world is a folder of snapshots, or one Parquet file of a deep history. A contestant is a set of
stores in one `RepoConfig`; whatever it is, it gets the same embedding views over the same files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from feast import Entity, FeatureStore, FeatureView, RepoConfig, ValueType

from provender.plugin.embedding_view import embedding_view
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot
from provender.plugin.spec import EmbeddingSpec

POSTGRES = os.environ.get(
    "PROVENDER_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/test"
)
MARIADB = os.environ.get("PROVENDER_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test")
REDIS = os.environ.get("PROVENDER_TEST_REDIS", "127.0.0.1:6379,db=9")
START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(days=10_000)


@dataclass(frozen=True)
class Table:
    """One embedding view's data: `days` values of each of `keys` entities, a day apart.

    `deep` lays them in one Parquet file, ordered by key, as a user's own history may be.
    """

    entity: str
    keys: int
    dim: int
    days: int
    deep: bool = False

    @property
    def name(self) -> str:
        return f"{self.entity}_{self.keys}x{self.dim}x{self.days}"

    @property
    def view_name(self) -> str:
        return f"{self.name}_v1"

    @property
    def feature(self) -> str:
        return f"{self.view_name}:embedding"

    @property
    def join_key(self) -> str:
        return f"{self.entity}_id"

    def view(self, work: Path) -> FeatureView:
        folder = work / "worlds" / self.name
        entity = Entity(name=self.entity, join_keys=[self.join_key], value_type=ValueType.INT64)
        return embedding_view(
            name=self.name,
            version=1,
            entity=entity,
            dim=self.dim,
            nested_dims=tuple(d for d in (64, 128) if d < self.dim),
            space="bench",
            producer="bench",
            ttl=TTL,
            snapshots=str(folder / "history.parquet") if self.deep else folder,
        )

    def write(self, work: Path) -> None:
        """Write the data if it is not there; a file says that it is whole."""
        folder = work / "worlds" / self.name
        whole = folder / "whole"
        if whole.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        random = np.random.default_rng(self.keys * 1_000 + self.dim)
        if self.deep:
            self._write_history(folder / "history.parquet", random)
        else:
            self._write_snapshots(folder, random)
        os.sync()  # Or else the pages are dirty and a cold run could not drop them.
        whole.touch()

    def _write_snapshots(self, folder: Path, random: np.random.Generator) -> None:
        spec = EmbeddingSpec.from_tags(self.view(folder.parent.parent).tags)
        keys = pa.array(np.arange(self.keys))
        for day in range(self.days):
            as_of = START + timedelta(days=day)
            run = RunInfo(f"bench-{day}", "bench", "none", as_of - timedelta(days=1), as_of)
            vectors = random.standard_normal((self.keys, self.dim), dtype=np.float32)
            write_snapshot(folder, spec, as_of, keys, vectors, run)

    def _write_history(self, path: Path, random: np.random.Generator) -> None:
        keys = np.repeat(np.arange(self.keys), self.days)
        times = np.tile(_day_us(np.arange(self.days)), self.keys)
        stamps = pa.array(times, pa.timestamp("us", tz="UTC"))
        floats = random.standard_normal(len(keys) * self.dim, dtype=np.float32)
        offsets = pa.array(np.arange(len(keys) + 1, dtype=np.int32) * self.dim)
        vectors = pa.ListArray.from_arrays(offsets, pa.array(floats))
        columns = {
            self.join_key: pa.array(keys),
            "event_timestamp": stamps,
            "created_timestamp": stamps,
            "embedding": vectors,
        }
        pq.write_table(pa.table(columns), path)


def _day_us(days: Any) -> Any:
    return int(START.timestamp() * 1e6) + np.asarray(days) * 86_400_000_000


def entity_rows(tables: Sequence[Table], rows: int) -> pd.DataFrame:
    """Entity rows at random times in the tables' days, numbered, so that order can be compared."""
    random = np.random.default_rng(rows)
    last = min(table.days for table in tables)
    times = _day_us(0) + random.integers(0, last * 86_400_000_000, rows)
    frame = {table.join_key: random.integers(0, table.keys, rows) for table in tables}
    stamps = pd.Series(times.astype("datetime64[us]")).dt.tz_localize("UTC")
    return pd.DataFrame({**frame, "event_timestamp": stamps, "row": np.arange(rows)})


OFFLINE = {
    "feast": {"type": "duckdb"},
    "provender": {"type": "provender.plugin.offline_store.ProvenderOfflineStore"},
}
ENGINES = {
    "feast": {"type": "local"},
    "provender": {"type": "provender.plugin.compute_engine.ProvenderEngine"},
}


def online_section(who: str, database: str, home: Path) -> dict[str, Any]:
    """Return the `online_store` section of a contestant."""
    if who == "provender":
        urls = {"postgres": POSTGRES, "mariadb": MARIADB}
        url = urls.get(database, f"sqlite:///{home}/online.db")
        section = {"type": "provender.plugin.online_store.ProvenderOnlineStore", "url": url}
        return section | ({"hot": str(home / "hot")} if database == "hot" else {})
    if database == "postgres":
        url = sa.make_url(POSTGRES)
        return {
            "type": "postgres",
            "host": url.host,
            "port": url.port or 5432,
            "database": url.database,
            "user": url.username,
            "password": url.password or "",
            "sslmode": "prefer",
        }
    if database == "redis":
        return {"type": "redis", "connection_string": REDIS}
    return {"type": "sqlite", "path": str(home / "online.db")}


def open_store(who: str, home: Path, database: str | None = None) -> FeatureStore:
    """Return a contestant's store whose registry, and databases that are files, lie in `home`.

    Without a database the joins are what is measured: then the rest is Feast's for all.
    """
    home.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project=f"bench_{home.name}",
        registry={"path": str(home / "registry.db"), "cache_ttl_seconds": 3600},
        provider="local",
        offline_store=OFFLINE[who],
        online_store=online_section(who if database else "feast", database or "sqlite", home),
        batch_engine=ENGINES[who if database else "feast"],
        entity_key_serialization_version=3,
        repo_path=home,
    )
    return FeatureStore(config=config)


def apply(store: FeatureStore, tables: Sequence[Table], work: Path) -> None:
    objects: list[Any] = []
    for table in tables:
        view = table.view(work)
        entity = Entity(name=table.entity, join_keys=[table.join_key], value_type=ValueType.INT64)
        objects += [entity, view]
    store.apply(objects)


def last_day(table: Table) -> tuple[datetime, datetime]:
    """Return the window in which a table's newest snapshot lies, and no other."""
    newest = START + timedelta(days=table.days - 1)
    return newest - timedelta(hours=1), newest + timedelta(hours=1)


def files_of(table: Table, work: Path) -> list[Path]:
    return sorted((work / "worlds" / table.name).rglob("*.parquet"))
