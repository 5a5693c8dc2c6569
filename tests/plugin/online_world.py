"""What the tests of the online store stand on: views, rows, and a store on a real database."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import FeastType, Int64, from_value_type

from provender.plugin.databases import shown
from provender.plugin.embedding_view import embedding_view
from provender.plugin.online_database import OnlineDatabase
from provender.plugin.online_store import ProvenderOnlineStore

SERVERS = {
    "postgres": os.environ.get(
        "PROVENDER_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get("PROVENDER_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
}
DATABASES = ["sqlite", "postgres", "mariadb"]
TYPE = "provender.plugin.online_store.ProvenderOnlineStore"
START = datetime(2026, 1, 1, tzinfo=UTC)
PIN = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)


@dataclass
class OnlineWorld:
    """A store on one database, and the views whose tables it drops in the end."""

    kind: str
    root: Path
    url: str
    project: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")
    store: ProvenderOnlineStore = field(default_factory=ProvenderOnlineStore)
    views: list[FeatureView] = field(default_factory=list)

    def config(self, *, versioning: bool = False, **options: Any) -> RepoConfig:
        return RepoConfig(
            project=self.project,
            provider="local",
            registry={
                "path": str(self.root / "registry.db"),
                "enable_online_feature_view_versioning": versioning,
            },
            repo_path=self.root,
            entity_key_serialization_version=3,
            online_store={"type": TYPE, "url": self.url, **options},
        )

    def apply(self, *views: FeatureView, config: RepoConfig | None = None) -> None:
        self.views += views
        self.store.update(config or self.config(), [], views, [], [], True)

    def load(
        self,
        view: FeatureView,
        batch: pa.RecordBatch | Iterable[pa.RecordBatch],
        config: RepoConfig | None = None,
    ) -> int:
        return self.store.load(
            config or self.config(),
            view,
            [batch] if isinstance(batch, pa.RecordBatch) else batch,
            timestamp_field="event_timestamp",
            created_field="created_timestamp",
        )

    def database(self, config: RepoConfig | None = None) -> OnlineDatabase:
        return self.store.database(config or self.config())

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Behind the store's back; `?` stands for a value."""
        marked = sql.replace("?", "%s") if self.kind != "sqlite" else sql
        if self.kind != "mariadb":
            marked = marked.replace("`", '"')
        connection = self.database().engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(marked, values)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def tear_down(self) -> None:
        config = self.config()
        names = self.database().names("test")
        engine = self.database().engine
        with engine.begin() as connection:
            for name in names:
                if name.startswith(self.project):
                    sa.Table(name, sa.MetaData()).drop(connection)
        self.store.database(config).dispose()


def open_world(kind: str, tmp_path: Path) -> OnlineWorld:
    """A world on a real database; skipped, or on CI failed, where there is none."""
    url = SERVERS.get(kind, "sqlite:///data/online.db")
    if kind != "sqlite":
        try:
            sa.create_engine(url).connect().close()
        except sa.exc.OperationalError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no {kind} at {shown(sa.make_url(url))}: {error.orig}")
    return OnlineWorld(kind, tmp_path, url)


def vector_view(tmp_path: Path, **options: Any) -> FeatureView:
    """An embedding view of four floats by pin."""
    given: dict[str, Any] = {
        "name": "pin_test",
        "version": 1,
        "entity": PIN,
        "dim": 4,
        "nested_dims": (2,),
    }
    fixed = {"space": "s", "producer": "p", "ttl": timedelta(days=2), "snapshots": tmp_path / "s"}
    return embedding_view(**(given | fixed | options))


def plain_view(name: str, features: dict[str, FeastType], *entities: Entity) -> FeatureView:
    """A stock feature view as Feast has registered it."""
    used = entities or (PIN,)
    keys = [Field(name=e.join_key, dtype=from_value_type(e.value_type)) for e in used]
    return FeatureView(
        name=name,
        entities=list(used),
        schema=[*keys, *(Field(name=n, dtype=kind) for n, kind in features.items())],
        source=FileSource(path="none.parquet", timestamp_field="event_timestamp"),
    )


def number_view(name: str = "numbers") -> FeatureView:
    return plain_view(name, {"number": Int64})


def times(days: Sequence[float | None]) -> pa.Array:
    made = [None if day is None else START + timedelta(days=day) for day in days]
    return pa.array(made, pa.timestamp("us", "UTC"))


def vector_batch(
    keys: Sequence[Any], vectors: Any, event: float = 0, created: float | None = 0
) -> pa.RecordBatch:
    """Rows of :func:`vector_view`, times in days from START."""
    rows = np.asarray(vectors, dtype=np.float32).tolist()
    return pa.record_batch(
        {
            "pin_id": pa.array(keys),
            "embedding": pa.array(rows, pa.list_(pa.float32())),
            "event_timestamp": times([event] * len(keys)),
            "created_timestamp": times([created] * len(keys)),
        }
    )


def entity(**keys: Value) -> EntityKey:
    return EntityKey(join_keys=list(keys), entity_values=list(keys.values()))


def pin(number: int) -> EntityKey:
    return entity(pin_id=Value(int64_val=number))


def floats(values: Sequence[float]) -> Value:
    made = Value()
    made.float_list_val.val.extend(values)
    return made
