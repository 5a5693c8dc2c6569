"""A feature store with versions of a family: declared, refreshed, materialized, released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from feast import Entity, FeatureStore, FeatureView, ValueType

from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.manifest import RunInfo
from provender.plugin.release_moves import promote
from provender.plugin.releases import Releases
from provender.plugin.snapshot import Snapshot, write_snapshot
from tests.plugin.online_world import TYPE, OnlineWorld

DAY = timedelta(days=1)
T = datetime(2026, 3, 10, tzinfo=UTC)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
PIN = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.STRING)
ROWS = 40


def keys_of(entity: Entity, count: int = ROWS, start: int = 0) -> pa.Array:
    """Users have numbers, pins have names."""
    if entity is USER:
        return pa.array(range(start, start + count), pa.int64())
    return pa.array([f"pïn {i:05d}" for i in range(start, start + count)], pa.string())


@dataclass
class ReleaseWorld:
    """A repo on one database, with the family `transra`: views of users and of pins."""

    online: OnlineWorld
    registry: str | dict[str, Any] = "data/registry.db"
    options: dict[str, Any] = field(default_factory=dict)
    declared: dict[int, list[FeatureView]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.repo / "data").mkdir(parents=True, exist_ok=True)
        if self.online.kind == "sqlite":
            self.online.url = f"sqlite:///{self.repo / 'data' / 'online.db'}"
        settings = {
            "project": self.online.project,
            "provider": "provender.plugin.provider.ProvenderProvider",
            "registry": self.registry,
            "offline_store": {"type": "provender.plugin.offline_store.ProvenderOfflineStore"},
            "online_store": {"type": TYPE, "url": self.online.url, **self.options},
            "batch_engine": {"type": "provender.plugin.compute_engine.ProvenderEngine"},
            "entity_key_serialization_version": 3,
        }
        (self.repo / "feature_store.yaml").write_text(yaml.safe_dump(settings))
        self.store = self.open()

    @property
    def repo(self) -> Path:
        return self.online.root / "repo"

    @property
    def rankers(self) -> Path:
        return self.online.root / "rankers"

    @property
    def snapshots(self) -> Path:
        return self.online.root / "snapshots"

    @property
    def releases(self) -> Releases:
        return Releases.of(self.store)

    def open(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.repo))

    def declare(
        self, version: int, *, entities: Sequence[Entity] = (USER, PIN), **given: Any
    ) -> None:
        """Declare one version and register all of them."""
        options: dict[str, Any] = {
            "dim": 4,
            "space": f"transra_v{version}",
            "producer": "transra",
            "ttl": 3 * DAY,
            "snapshots": self.snapshots,
        }
        self.declared[version] = [
            embedding_view(
                name=f"{entity.name}_transra", version=version, entity=entity, **options | given
            )
            for entity in entities
        ]
        self.store.apply([USER, PIN, *self.declared[version]])

    def refresh(
        self,
        version: int,
        as_of: datetime = T,
        *,
        rows: int = ROWS,
        quality: float | None = 0.5,
        parent: str | None = None,
        run: str | None = None,
        views: Sequence[FeatureView] | None = None,
    ) -> list[Snapshot]:
        """Write a run's snapshots."""
        number = run or f"run-{version}-{as_of:%d}"
        made = RunInfo(
            number, "transra", "c0ffee", as_of - DAY, as_of, {"quality": quality}, parent
        )
        written = []
        for view in views or self.declared[version]:
            spec = spec_of(view)
            entity = USER if spec.entity == "user" else PIN
            seed = [version, as_of.toordinal(), len(entity.name)]
            vectors = np.random.default_rng(seed).normal(size=(rows, spec.dim))
            keys = keys_of(entity, rows)
            written.append(
                write_snapshot(self.snapshots, spec, as_of, keys, vectors.astype(np.float32), made)
            )
        return written

    def materialize(self, version: int, as_of: datetime = T, views: Sequence[str] = ()) -> None:
        """Load what is known as of a time."""
        names = list(views) or [view.name for view in self.declared[version]]
        self.store.materialize(as_of - 30 * DAY, as_of, names)

    def ready(self, version: int, as_of: datetime = T, **given: Any) -> None:
        """Declare, refresh and materialize a version."""
        self.declare(version, **given)
        self.refresh(version, as_of)
        self.materialize(version, as_of)

    def promote(self, version: int, **how: Any) -> Any:
        return promote(self.store, "transra", version, **{"now": T, **how})
