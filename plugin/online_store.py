"""The online store: one table a view version, one row an entity, on any of three databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from provender.plugin.online_rows import OnlineRows


class ProvenderOnlineStoreConfig(FeastConfigBaseModel):
    """What `online_store:` of feature_store.yaml may say.

    Attributes:
        type: this class.
        url: a SQLAlchemy URL of SQLite, PostgreSQL or MySQL/MariaDB.
        hot: a folder for hot snapshots; none are kept without one.
    """

    type: Literal["provender.plugin.online_store.ProvenderOnlineStore"] = (
        "provender.plugin.online_store.ProvenderOnlineStore"
    )
    url: str = "sqlite:///data/online.db"
    hot: str | None = None
    enforce_ttl: bool = False


class ProvenderOnlineStore(OnlineStore):
    """Feast's online store interface, with a bulk path in and a tensor path out beside it."""

    def load(
        self,
        config: RepoConfig,
        view: FeatureView,
        batches: Iterable[pa.RecordBatch],
        *,
        timestamp_field: str,
        created_field: str | None,
        progress: Callable[[int], Any] | None = None,
    ) -> int:
        """Arrow batches into the view's table in one transaction; returns rows read."""
        raise NotImplementedError

    def read_columns(
        self,
        config: RepoConfig,
        view: FeatureView,
        keys: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        features: Sequence[str] | None = None,
        *,
        dim: int | None = None,
    ) -> OnlineRows:
        """Rows of the keys in request order, duplicates included, without any protobuf."""
        raise NotImplementedError

    def scan(
        self, config: RepoConfig, view: FeatureView, rows: int = 16_384
    ) -> Iterator[OnlineRows]:
        """All rows, ascending by key, at most `rows` at a time, with their keys."""
        raise NotImplementedError

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write pushed rows."""
        raise NotImplementedError

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read rows for Feast."""
        raise NotImplementedError

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and drop tables."""
        raise NotImplementedError

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Drop the tables of the given views."""
        raise NotImplementedError


_ = np
