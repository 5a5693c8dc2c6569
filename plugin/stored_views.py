"""The versions of a family as they lie in a store: views, online tables, loads and snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy.typing as npt
import sqlalchemy as sa
from feast import FeatureStore, FeatureView

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.families import families_of
from provender.plugin.manifest import RunRecord
from provender.plugin.online_database import OnlineDatabase
from provender.plugin.online_rows import EPOCH, MICROSECOND, OnlineRows, microseconds_of
from provender.plugin.online_tables import OnlineTable
from provender.plugin.releases import Releases
from provender.plugin.snapshot import Snapshot
from provender.plugin.snapshot_source import snapshots_at, source_path
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TableRecord


@dataclass(frozen=True)
class StoredView:
    """One registered embedding view, and what there is of it offline and online.

    Attributes:
        spec: its declaration.
        view: as Feast has registered it.
        table: its online table.
        there: whether the database has that table.
        record: what the table was loaded from, where that is known.
        releases: of the project, with the online store.
    """

    spec: EmbeddingSpec
    view: FeatureView
    table: OnlineTable
    there: bool
    record: TableRecord | None
    releases: Releases

    @cached_property
    def snapshots(self) -> Sequence[Snapshot]:
        """Its refreshes, ascending by as-of time; none of files without manifests."""
        found = snapshots_at(source_path(self.view.batch_source))
        return [each for each in found if each.manifest.supplement_of is None]

    @property
    def loaded(self) -> RunRecord | None:
        """The newest refresh in the online table; None where no run is known."""
        return self.record.newest if self.record else None

    @cached_property
    def rows(self) -> int:
        """Rows of the online table."""
        return self._database.count(self._thing, self.table.name) if self.there else 0

    @cached_property
    def online_as_of(self) -> datetime | None:
        """The newest as-of time online: of the refreshes, and where none is known of the rows."""
        if self.loaded is not None:
            return self.loaded.as_of
        newest = self._one(sa.func.max(self._columns.event_us)) if self.there else None
        return None if newest is None else EPOCH + newest * MICROSECOND

    def kept_by(self, other: StoredView, now: datetime) -> tuple[int, int]:
        """Return how many entities can be used at `now`, and how many of those in `other` too.

        The database counts both in one statement, over one state of both tables.
        """
        mine, theirs = self.table.definition, other.table.definition
        kept = (mine.c.key == theirs.c.key) & _usable(theirs, other.spec.ttl, now)
        counts = sa.select(
            sa.func.count().label("usable"), sa.func.count(theirs.c.key).label("kept")
        )
        joined = counts.select_from(mine.outerjoin(theirs, kept))
        (row,) = self._execute(joined.where(_usable(mine, self.spec.ttl, now)))
        return row.usable, row.kept

    def read(self, keys: Sequence[Any] | npt.NDArray[Any], *, hot: bool) -> OnlineRows:
        """Return the rows of keys, from the hot copy of this machine where asked and there."""
        online, config = self.releases.online, self.releases.config
        return online.read_columns(config, self.view, {self.spec.join_key: keys}, hot=hot)

    @property
    def hot(self) -> bool:
        """Whether this machine is to have a hot copy of the table."""
        return self.releases.config.online_store.hot is not None

    @property
    def _columns(self) -> Any:
        return self.table.definition.c

    def _one(self, what: Any) -> Any:
        ((answer,),) = self._execute(sa.select(what).select_from(self.table.definition))
        return answer

    def _execute(self, statement: sa.Executable) -> list[sa.Row[Any]]:
        return self._database.execute(self._thing, statement)

    @property
    def _database(self) -> OnlineDatabase:
        return self.releases.online.database(self.releases.config)

    @property
    def _thing(self) -> str:
        return f"online feature view {self.view.name}"


#: Version -> its views, ascending by name.
StoredVersions = Mapping[int, tuple[StoredView, ...]]


def stored_families(store: FeatureStore, releases: Releases) -> dict[str, StoredVersions]:
    """Return family -> version -> views, of what the registry has."""
    views = {view.name: view for view in store.list_feature_views() if is_embedding_view(view)}
    config = releases.config
    records = releases.online.records(config)
    names = set(releases.online.database(config).names("online store"))

    def stored(spec: EmbeddingSpec) -> StoredView:
        view = views[spec.view_name]
        table = OnlineTable.of(config, view)
        there, record = table.name in names, records.get(table.name)
        return StoredView(spec, view, table, there, record, releases)

    families = families_of(spec_of(view) for view in views.values())
    return {
        family: {version: tuple(map(stored, specs)) for version, specs in versions.items()}
        for family, versions in families.items()
    }


def _usable(table: sa.Table, ttl: timedelta, now: datetime) -> sa.ColumnElement[bool]:
    """What is true of rows that :func:`online_rows.usable` lets pass."""
    latest = microseconds_of(now)
    return table.c.event_us.between(latest - ttl // MICROSECOND, latest)
