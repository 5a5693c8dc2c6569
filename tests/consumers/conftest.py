"""A little Feast repo of its own on provender's stores and on Feast's: embeddings and counters.

The rows are written by hand, created times too, so that ties, ttl edges and backfills are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float32, Int64

from provender.plugin.embedding_view import embedding_view

DIM = 4
TTL = timedelta(days=3)
T0 = datetime(2026, 3, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")

OURS = """offline_store: {{type: provender.plugin.offline_store.ProvenderOfflineStore}}
online_store:
  type: provender.plugin.online_store.ProvenderOnlineStore
  url: "sqlite:///{folder}/online.db"
batch_engine: {{type: provender.plugin.compute_engine.ProvenderEngine}}"""
FEASTS = """offline_store: {{type: duckdb}}
online_store: {{type: sqlite, path: "{folder}/online.db"}}"""

#: (key, event time, created time, value)
Row = tuple[int, datetime, datetime, Any]


def hours(number: float) -> datetime:
    return T0 + timedelta(hours=number)


@dataclass
class Kitchen:
    """A feature repo in a folder, and the rows that are in its files."""

    folder: Path
    dim: int = DIM
    version: int = 1
    stores: str = OURS
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def write(self, entity: str, rows: Sequence[Row], *, vectors: bool = True) -> None:
        kind = "vectors" if vectors else "counters"
        self.rows[f"{entity}_{kind}"] = list(rows)
        columns: dict[str, pa.Array] = {
            f"{entity}_id": pa.array([row[0] for row in rows], pa.int64()),
            "event_timestamp": pa.array([row[1] for row in rows], TIME),
            "created_timestamp": pa.array([row[2] for row in rows], TIME),
        }
        values = [row[3] for row in rows]
        if vectors:
            columns["embedding"] = pa.array(values, pa.list_(pa.float32()))
        else:
            columns["clicks"] = pa.array([value[0] for value in values], pa.int64())
            columns["rate"] = pa.array([value[1] for value in values], pa.float32())
        path = self.folder / kind / f"{entity}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def store(self) -> FeatureStore:
        """Apply the repo and open it."""
        (self.folder / "feature_store.yaml").write_text(
            f"project: kitchen\nprovider: local\nregistry: {self.folder}/registry.db\n"
            f"{self.stores.format(folder=self.folder)}\n"
            "entity_key_serialization_version: 3\n"
        )
        store = FeatureStore(repo_path=str(self.folder))
        entities = [
            Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
            for name in ("user", "pin")
        ]
        vectors = [self._vectors(entity) for entity in entities]
        counters = [self._counters(entity) for entity in entities]
        services = [
            FeatureService(name="plain", features=list(counters)),
            FeatureService(name="rich", features=[*counters, *vectors]),
        ]
        store.apply([*entities, *vectors, *counters, *services])
        return store

    def _vectors(self, entity: Entity) -> FeatureView:
        return embedding_view(
            name=f"{entity.name}_test",
            version=self.version,
            entity=entity,
            dim=self.dim,
            space=f"test_v{self.version}",
            producer="tests",
            ttl=TTL,
            snapshots=str(self.folder / "vectors" / f"{entity.name}.parquet"),
        )

    def _counters(self, entity: Entity) -> FeatureView:
        return FeatureView(
            name=f"{entity.name}_counters",
            entities=[entity],
            schema=[Field(name="clicks", dtype=Int64), Field(name="rate", dtype=Float32)],
            source=FileSource(
                path=str(self.folder / "counters" / f"{entity.name}.parquet"),
                file_format=ParquetFormat(),
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
            ttl=TTL,
        )


@pytest.fixture(params=[OURS, FEASTS], ids=["provender", "feast"])
def kitchen(tmp_path: Path, request: pytest.FixtureRequest) -> Kitchen:
    """Two users and three pins with a history of four days, backfills and ties among it."""
    made = Kitchen(tmp_path / "kitchen", stores=request.param)
    made.folder.mkdir()
    generator = np.random.default_rng(5)

    def vector() -> list[float]:
        return [float(x) for x in generator.normal(size=DIM).astype(np.float32)]

    def counts() -> tuple[int, float | None]:
        rate = float(np.float32(generator.random()))
        return int(generator.integers(0, 50)), rate if rate > 0.2 else None

    for entity, keys in (("user", (1, 2)), ("pin", (10, 11, 12))):
        for vectors in (True, False):
            made.write(
                entity,
                [
                    (key, hours(24 * day), created, vector() if vectors else counts())
                    for key in keys
                    for day in range(4 if key % 2 else 1)
                    # On day 2 a value was written at once and corrected five hours later.
                    for created in ([hours(24 * day)] if day != 2 else [hours(48), hours(53)])
                ],
                vectors=vectors,
            )
    return made


@pytest.fixture
def store(kitchen: Kitchen) -> FeatureStore:
    return kitchen.store()


@pytest.fixture
def impressions() -> Callable[..., pa.Table]:
    """Make a table of impressions from (user, pin, hour) rows."""

    def made(rows: Sequence[tuple[int, int, float]], **context: Sequence[Any]) -> pa.Table:
        columns = {
            "impression_id": pa.array(range(len(rows)), pa.int64()),
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "pin_id": pa.array([row[1] for row in rows], pa.int64()),
            "event_timestamp": pa.array([hours(row[2]) for row in rows], TIME),
            **{name: pa.array(values) for name, values in context.items()},
        }
        return pa.table(columns)

    return made
