"""The online store: one table a view version, one row an entity, on SQLite, PostgreSQL, MySQL.

    online_store:
      type: provender.plugin.online_store.ProvenderOnlineStore
      url: postgresql+psycopg://feast:${PASSWORD}@db/feast   # or sqlite:///data/online.db
      hot: data/hot                                          # optional, on the machine that serves

Reading needs SELECT on the tables; materializing and pushing INSERT and UPDATE as well (and on
PostgreSQL TEMPORARY on the database); only `feast apply` and `feast teardown` create and drop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa
from feast import Entity, FeatureView, RepoConfig
from feast.base_feature_view import BaseFeatureView
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.infra.infra_object import InfraObject
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from pydantic import Field

from provender.plugin.embedding_view import is_embedding_view, registered_specs, spec_of
from provender.plugin.manifest import RunRecord
from provender.plugin.online_database import OnlineDatabase
from provender.plugin.online_hot import drop_hot, hot_folder, publish_hot, read_hot
from provender.plugin.online_packing import Pushed, packed_batches, packed_push
from provender.plugin.online_rows import EPOCH, MICROSECOND, Column, OnlineRows
from provender.plugin.online_search import Search, search_rows
from provender.plugin.online_tables import LAYOUTS, OnlineTable
from provender.plugin.online_url import online_url
from provender.plugin.online_view import OnlineView
from provender.plugin.release_guard import check_unreleased
from provender.plugin.release_table import RELEASES, moves_of
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TABLES, TableRecord

#: Feast keeps a feature service's precomputed vectors in a view that nobody applies.
PRECOMPUTED = "__precomputed__"

Row = tuple[datetime | None, dict[str, Value] | None]
Hit = tuple[datetime | None, EntityKey | None, dict[str, Value] | None]
Document = tuple[datetime | None, EntityKey | None, Value | None, Value | None, Value | None]


class ProvenderOnlineStoreConfig(FeastConfigBaseModel):
    """What `online_store:` of feature_store.yaml may say.

    Attributes:
        type: the store's class.
        url: a SQLAlchemy URL of SQLite, PostgreSQL or MySQL/MariaDB; a relative SQLite file is
            taken from the repo.
        hot: a folder, relative to the repo, for memory-mapped copies of embedding views, which
            materialize builds on the machine that serves; None for none. A push through another
            machine does not reach them.
        enforce_ttl: let Feast's own reads drop rows older than their view's ttl. Off by default,
            as in Feast's SQL stores; the tensor path has `OnlineRows.fresh` instead.
        pool_size: connections kept open; as many again are opened when all are busy.
        vector_enabled: taken for the sake of repos written for Feast's vector stores, and without
            effect: every view with a vector can be searched.
    """

    type: Literal["provender.plugin.online_store.ProvenderOnlineStore"] = (
        "provender.plugin.online_store.ProvenderOnlineStore"
    )
    url: str = Field(default="sqlite:///data/online.db", repr=False)
    hot: str | None = None
    enforce_ttl: bool = False
    pool_size: int = Field(default=8, ge=1)
    vector_enabled: bool = True


def is_ours(config: RepoConfig) -> bool:
    """Return whether a repo serves from provender's online store."""
    return isinstance(config.online_store, ProvenderOnlineStoreConfig)


class ProvenderOnlineStore(OnlineStore):
    """Feast's online store interface, with a bulk path in and a tensor path out beside it.

    It may be used by many threads, and by a process that was forked off.
    """

    _versioned_read_supported = True

    def __init__(self) -> None:
        self._databases: dict[tuple[str, Path | None], OnlineDatabase] = {}
        self._process = os.getpid()
        self._precomputed: set[str] = set()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Both ways, in threads."""
        return SupportedAsyncMethods(read=True, write=True)

    # The bulk path in, and the tensor path out.

    def load(
        self,
        config: RepoConfig,
        view: FeatureView,
        batches: Iterable[pa.RecordBatch],
        *,
        timestamp_field: str,
        created_field: str | None,
        runs: Sequence[RunRecord] = (),
        progress: Callable[[int], Any] | None = None,
    ) -> int:
        """Write Arrow batches into the view's table in one transaction.

        Readers see the former rows until it is committed, and all of the new ones then. A row
        never replaces a newer one (by event time, then created time; of equals the last counts),
        so a load may be repeated at will. Memory is bounded by a chunk of 16 MB. The hot snapshot
        is built anew at the end. On SQLite, other writers wait until it is through.

        Args:
            config: the repo's.
            view: a registered feature view.
            batches: join keys and features as the view names them, and the two time columns.
            timestamp_field: the column of event times, of any unit.
            created_field: the column of created times; None where there is none.
            runs: of the snapshots that the rows come from, for :meth:`records`.
            progress: called with the number of rows after each chunk.

        Returns:
            The rows read from the batches.

        Raises:
            LoadLockedError: another load of the view is under way.
            OnlineValueError: a null key or event time, or a vector that the embedding view does
                not declare.
            OnlineStoreError: no such table, or no database that answers.
        """
        online = self._view(config, view)
        chunks = packed_batches(online, batches, timestamp_field, created_field, progress)
        rows = online.load(chunks, runs)
        publish_hot(online)
        return rows

    def read_columns(
        self,
        config: RepoConfig,
        view: FeatureView | OnlineView,
        keys: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        features: Sequence[str] | None = None,
        *,
        dim: int | None = None,
        hot: bool = True,
    ) -> OnlineRows:
        """Rows of the keys in request order, duplicates included, without any protobuf.

        Args:
            config: the repo's.
            view: a registered feature view, or one that was :meth:`opened`.
            keys: join key -> (n,) values.
            features: which; all by default.
            dim: a nested dim of an embedding view to cut its vectors to.
            hot: whether a hot copy may answer, where there is one.

        Raises:
            OnlineValueError: keys of other names or types, or null.
            OnlineRowError: a row that is not what was written.
            FetchError: a feature or dim that the view has not.
            OnlineStoreError: no such table, or no database that answers.
        """
        online = self.opened(config, view)
        names = [slot.name for slot in online.layout.slots] if features is None else features
        copied = read_hot(online, keys, names, dim) if hot else None
        if copied is not None:
            vectors = Column(copied.vectors, copied.present)
            return OnlineRows(copied.present, copied.event_us, dict.fromkeys(names, vectors))
        present, found = online.find(online.keys.from_columns(keys))
        rows = OnlineRows(
            np.ones(len(found.event_us), dtype=np.bool_),
            found.event_us,
            online.columns(found, names, dim),
        )
        return rows if present.all() else rows.spread(present)

    def opened(self, config: RepoConfig, view: FeatureView | OnlineView) -> OnlineView:
        """Return a view as it is read, for whoever reads it often: it takes half of a small read.

        What was opened before a fork is opened again.
        """
        if not isinstance(view, OnlineView):
            return self._view(config, view)
        mine = view.database is self.database(config)
        return view if mine else self._view(config, view.feature_view)

    def scan(
        self, config: RepoConfig, view: FeatureView, rows: int = 16_384
    ) -> Iterator[OnlineRows]:
        """All rows, ascending by key, at most `rows` at a time, with their keys.

        They are of one state of the table, whatever is written meanwhile. Strings ascend by code
        point, composite keys by their serialized form.
        """
        online = self._view(config, view)
        names = [slot.name for slot in online.layout.slots]
        for keys, found in online.scan(rows):
            yield OnlineRows(
                np.ones(len(keys), dtype=np.bool_),
                found.event_us,
                online.columns(found, names),
                online.keys.to_columns(keys),
            )

    def records(self, config: RepoConfig) -> dict[str, TableRecord]:
        """What each table of the project is, by the table's name; see :mod:`table_records`."""
        database, thing = self.database(config), _thing(config)
        if not database.has(thing, TABLES.name):  # Not applied since provender keeps them.
            return {}
        mine = sa.select(TABLES).where(TABLES.c.project == config.project)
        found = [TableRecord.of(row) for row in database.execute(thing, mine.order_by("name"))]
        return {record.name: record for record in found}

    # Feast's interface.

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Pushed],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows in one transaction; a row never replaces a newer one.

        A feature that a row leaves out becomes null. The view's hot snapshot is withdrawn until
        the next materialize.

        Raises as :meth:`load` does.
        """
        online = self._view(config, table)
        if table.name.startswith(PRECOMPUTED) and online.table.name not in self._precomputed:
            online.database.create(online.thing, [online.table])
            self._precomputed.add(online.table.name)
        online.write(packed_push(online, data))
        if progress is not None:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Pushed],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As :meth:`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[Row]:
        """Rows as Feast wants them: event time and values, (None, None) for a missing entity.

        Raises as :meth:`read_columns` does.
        """
        online = self._view(config, table)
        names = [slot.name for slot in online.layout.slots]
        if requested_features is not None:
            names = [name for name in requested_features if name in names]
        present, found = online.find(online.keys.from_protos(entity_keys))
        times = _datetimes(found.event_us)
        expired = self._expired(config, table, found.event_us)
        values = online.protos(found, names)
        held: Iterator[Row] = (
            (time, None if old else row)
            for time, old, row in zip(times, expired, values, strict=True)
        )
        return [next(held) if there else (None, None) for there in present]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[Row]:
        """As :meth:`online_read`, in a thread."""
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    def plan(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> list[InfraObject]:
        """Plan nothing, but refuse what :meth:`update` would refuse to drop."""
        views = desired_registry_proto.feature_views
        desired = {view.spec.name for view in views}
        specs = registered_specs(config)
        self._check_unreleased(config, [specs[name] for name in specs if name not in desired])
        return []

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and drop tables. Rows written before a view's features changed stay readable.

        Raises:
            ReleaseError: a view to delete is of a version that is live, a canary or the former
                one; nothing is changed then.
            OnlineStoreError: the key of a view has changed between numbers and other types, and
                its table holds rows.
        """
        database = self.database(config)
        dropped = [spec_of(view) for view in tables_to_delete if is_embedding_view(view)]
        self._check_unreleased(config, dropped)
        kept = [self._view(config, view) for view in tables_to_keep]
        if kept:
            database.create(_thing(config), [each.table for each in kept])
        for each in kept:
            database.check_key(each.thing, each.table)
            each.register()
        self._drop(config, [self._view(config, view) for view in tables_to_delete])

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Drop the tables of the views and the project's releases.

        A SQLite file in which nothing else is left is removed.
        """
        database = self.database(config)
        self._drop(config, [self._view(config, view) for view in tables])
        names = database.names(_thing(config))
        prefix = f"{config.project}_{PRECOMPUTED}"
        derived = [name for name in names if name.startswith(prefix)]
        database.drop(_thing(config), [OnlineTable(name, False) for name in derived])
        self._precomputed.clear()
        if RELEASES.name in names:
            mine = RELEASES.delete().where(moves_of(config.project))
            database.execute(_thing(config), mine)
        if set(names) - set(derived) <= {LAYOUTS, RELEASES.name, TABLES.name}:
            self._databases.pop(self._address(config), None)
            database.remove()

    def retrieve_online_documents_v2(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: ComparisonFilter | CompoundFilter | None = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[Hit]:
        """The k best rows, exactly, with their features, and a "distance" or "text_rank" or both.

        Distances are pgvector's: less is nearer, an inner product is negative. The metric is the
        argument, else the vector field's own, else cosine. A `query_string` finds the rows whose
        requested string features hold all of its words (see :mod:`text_search`). With both, the
        k nearest and the k best texts are ranked together, by text first. Filters apply before
        ranking; a null passes none. A join key may be requested like a feature.

        Raises FetchError: neither query, a view without one vector feature, a feature that it has
        not, a query of another length.
        """
        query = Search(requested_features, embedding, top_k, distance_metric, query_string, filters)
        hits = search_rows(self._view(config, table), query)
        return [(hit.time, hit.entity, hit.values) for hit in hits]

    def retrieve_online_documents(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float],
        top_k: int,
        distance_metric: str | None = None,
    ) -> list[Document]:
        """The k nearest rows: time, entity, first requested feature, vector, distance."""
        online = self._view(config, table)
        hits = search_rows(online, Search(requested_features, embedding, top_k, distance_metric))
        return [
            (
                hit.time,
                hit.entity,
                hit.values[(requested_features or [hit.vector])[0]],
                hit.values[hit.vector],
                hit.values["distance"],
            )
            for hit in hits
        ]

    async def close(self) -> None:
        """Close all connections."""
        for database in self._databases.values():
            database.dispose()
        self._databases.clear()

    def _view(self, config: RepoConfig, view: BaseFeatureView) -> OnlineView:
        table = OnlineTable.of(config, view)
        hot = hot_folder(config, table.name)
        return OnlineView.of(view, self.database(config), table, hot)

    def database(self, config: RepoConfig) -> OnlineDatabase:
        """The database of all tables; ask anew for each use, for a forked child has another."""
        if self._process != os.getpid():  # A forked child must not use its parent's connections.
            for database in self._databases.values():
                database.dispose(close=False)
            self._databases, self._process = {}, os.getpid()
        address = self._address(config)
        if address not in self._databases:
            url = online_url(config.online_store.url, config.repo_path)
            database = OnlineDatabase(url, config.online_store.pool_size)
            self._databases.setdefault(address, database)  # Another thread may have been first.
        return self._databases[address]

    def _address(self, config: RepoConfig) -> tuple[str, Path | None]:
        return config.online_store.url, config.repo_path

    def _expired(
        self, config: RepoConfig, view: BaseFeatureView, event_us: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        ttl: timedelta | None = getattr(view, "ttl", None)
        rows = OnlineRows(np.ones(len(event_us), dtype=np.bool_), event_us, {})
        if not config.online_store.enforce_ttl or not ttl:
            return ~rows.present
        return rows.ages() > ttl.total_seconds()

    def _check_unreleased(self, config: RepoConfig, specs: Sequence[EmbeddingSpec]) -> None:
        if specs:
            check_unreleased(self.database(config), _thing(config), config.project, specs)

    def _drop(self, config: RepoConfig, views: Sequence[OnlineView]) -> None:
        for each in views:
            drop_hot(each)
        if views:
            self.database(config).drop(_thing(config), [each.table for each in views])


def _thing(config: RepoConfig) -> str:
    return f"online store of project {config.project}"


def _datetimes(event_us: npt.NDArray[np.int64]) -> list[datetime]:
    made: dict[int, datetime] = {}
    for time in event_us.tolist():
        if time not in made:
            made[time] = EPOCH + time * MICROSECOND
    return [made[time] for time in event_us.tolist()]
