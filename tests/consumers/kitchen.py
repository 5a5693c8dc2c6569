"""A little Feast repo of its own on provender's stores and on Feast's: embeddings and counters.

The rows are written by hand, created times too, so that ties, ttl edges and backfills are exact.
Any number of versions lie side by side; those of one repo are one family, `tests`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float32, Int64

from provender.consumers.features import FeatureLayout
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig
from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot

DIM = 4
TTL = timedelta(days=3)
T0 = datetime(2026, 3, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")

OURS = """offline_store: {{type: provender.plugin.offline_store.ProvenderOfflineStore}}
online_store:
  type: provender.plugin.online_store.ProvenderOnlineStore
  url: "{url}"
batch_engine: {{type: provender.plugin.compute_engine.ProvenderEngine}}"""
FEASTS = """offline_store: {{type: duckdb}}
online_store: {{type: sqlite, path: "{folder}/online.db"}}"""

#: (key, event time, created time, value)
Row = tuple[int, datetime, datetime, Any]


def hours(number: float) -> datetime:
    return T0 + timedelta(hours=number)


@dataclass(frozen=True)
class Version:
    """A version of both views, user and pin, in a space of its own or of another version."""

    number: int
    dim: int = DIM
    anchored_to: int | None = None
    space: int | None = None

    @property
    def suffix(self) -> str:
        return "" if self.number == 1 else f"_v{self.number}"


@dataclass
class Kitchen:
    """A feature repo in a folder, and the rows that are in its files.

    Service `rich` has the counters and the vectors of version 1, `rich_v2` those of version 2,
    `both` all versions; `plain` has the counters alone. With `snapshots` the vectors of the views
    come from snapshots with their manifests, else from a file of our own.
    """

    folder: Path
    stores: str = OURS
    url: str = ""
    project: str = "kitchen"
    snapshots: bool = False
    versions: list[Version] = field(default_factory=lambda: [Version(1)])
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def write(
        self, entity: str, rows: Sequence[Row], *, vectors: bool = True, version: int = 1
    ) -> None:
        kind = "vectors" if vectors else "counters"
        file = entity if version == 1 else f"{entity}_v{version}"
        self.rows[f"{file}_{kind}"] = list(rows)
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
        path = self.folder / kind / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def snapshot(
        self, version: Version, as_of: datetime, vectors: Mapping[str, Mapping[int, list[float]]]
    ) -> RunInfo:
        """Write a refresh of both views: entity -> key -> vector."""
        run = RunInfo(
            f"run-v{version.number}-{as_of:%d%H}", "tests", "c" * 64, T0 - TTL, as_of, {}, None
        )
        for entity, rows in vectors.items():
            keys = sorted(rows)
            values = np.array([rows[key] for key in keys], dtype=np.float32)
            spec = spec_of(self._vectors(self.entity(entity), version))
            keyed = pa.array(keys, pa.int64())
            write_snapshot(self.folder / "snapshots", spec, as_of, keyed, values, run)
        return run

    @staticmethod
    def entity(name: str) -> Entity:
        return Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)

    def store(self) -> FeatureStore:
        """Apply the repo and open it."""
        url = self.url or f"sqlite:///{self.folder}/online.db"
        (self.folder / "feature_store.yaml").write_text(
            f"project: {self.project}\nprovider: local\nregistry: {self.folder}/registry.db\n"
            f"{self.stores.format(folder=self.folder, url=url)}\n"
            "entity_key_serialization_version: 3\n"
        )
        store = FeatureStore(repo_path=str(self.folder))
        entities = [self.entity(name) for name in ("user", "pin")]
        views = {v: [self._vectors(each, v) for each in entities] for v in self.versions}
        counters = [self._counters(entity) for entity in entities]
        services = [
            FeatureService(name="plain", features=list(counters)),
            *(
                FeatureService(name=f"rich{version.suffix}", features=[*counters, *vectors])
                for version, vectors in views.items()
            ),
        ]
        every = [view for vectors in views.values() for view in vectors]
        if len(views) > 1:
            services.append(FeatureService(name="both", features=[*counters, *every]))
        store.apply([*entities, *every, *counters, *services])
        return store

    def _vectors(self, entity: Entity, version: Version) -> FeatureView:
        file = self.folder / "vectors" / f"{entity.name}{version.suffix}.parquet"
        return embedding_view(
            name=f"{entity.name}_test",
            version=version.number,
            entity=entity,
            dim=version.dim,
            space=f"test_v{version.space or version.anchored_to or version.number}",
            producer="tests",
            anchored_to=version.anchored_to,
            ttl=TTL,
            snapshots=str(self.folder / "snapshots" if self.snapshots else file),
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


def stocked(folder: Path, stores: str) -> Kitchen:
    """Two users and three pins with a history of four days, backfills and ties among it."""
    made = Kitchen(folder, stores=stores)
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


def some_ranker(store: FeatureStore, service: str, **config: Any) -> Ranker:
    """A ranker of random weights, its gate open, for features as of two days in."""
    layout = FeatureLayout.of_service(store, service)
    rows = OnlineFetcher(store, service, now=hours(48)).fetch(1, [10, 11, 12], {"place": "home"})
    torch.manual_seed(0)
    query = layout.embeddings[-1].view_name if layout.embeddings else None
    sizes = RankerConfig(query=query, head_width=8, attention_heads=2, **config)
    ranker = Ranker(sizes, layout, Preprocessing.fit(layout, rows, ["place"]))
    if ranker.head is not None:
        torch.nn.init.ones_(ranker.head.gate)
    return ranker.eval()
