"""Taking what a refresh or a supplement has published online: one version's views, those alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq

from provender.plugin.embedding_view import (
    CREATED_COLUMN,
    TIME_COLUMN,
    embedding_specs,
    files_of,
)
from provender.plugin.errors import ConfigError, OnlineStoreError
from provender.plugin.online_rows import MICROSECOND
from provender.plugin.online_store import ProvenderOnlineStore, is_ours
from provender.plugin.online_tables import OnlineTable
from provender.plugin.releases import Releases
from provender.plugin.repo import open_store
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec, check_unchanged
from provender.plugin.table_records import TableRecord


@dataclass(frozen=True)
class Loaded:
    """What became of one view's online table.

    Attributes:
        rows: that it holds; None where the online store is not provender's.
        done: what was done: `loaded`, `done before`, or `newer there` where the table holds a
            later as-of time already.
    """

    rows: int | None
    done: str


class OnlineRefresh:
    """The online side of a repo."""

    def __init__(self, repo: Path) -> None:
        self.store = open_store(repo)
        self._online = ProvenderOnlineStore() if is_ours(self.store.config) else None

    def retired(self, family: str) -> tuple[int, ...]:
        """Return the versions of a family that the log of releases calls retired.

        Raises ConfigError where the online store is not provender's, which has no such log, and
        OnlineStoreError where it does not answer.
        """
        state = Releases.of(self.store).current(family)
        return state.retired if state else ()

    def check_registered(self, spec: EmbeddingSpec, snapshots: Path) -> None:
        """Check that the registry knows the view as it is declared, reading from `snapshots`.

        Raises ConfigError, or VersionError where it is registered as something else.
        """
        registered = embedding_specs(self.store).get(spec.view_name)
        if registered is None:
            raise ConfigError(
                f"embedding view {spec.view_name}",
                found="declared, but not registered",
                expected="a registered view, which has an online table",
                remedy=f"Run `feast apply` in {self.store.repo_path}.",
            )
        check_unchanged(registered, spec)
        source = self.store.get_feature_view(spec.view_name).batch_source
        path, expected = str(getattr(source, "path", source)), files_of(spec, str(snapshots))
        if path != expected:
            raise ConfigError(
                f"source of {spec.view_name} in the registry",
                found=path,
                expected=f"{expected}, where its snapshots are written",
                remedy=f"Run `feast apply` in {self.store.repo_path}, or give the --home that the "
                "repo reads from.",
            )

    def load(self, spec: EmbeddingSpec, snapshot: Snapshot) -> Loaded:
        """Materialize one view up to a snapshot, from what its table has on.

        A supplement of the refresh that the table has adds its rows, and those of former ones that
        did not get there; of any other it takes its refresh along.

        Raises OnlineStoreError where the snapshot's rows did not get there.
        """
        known = snapshot.manifest
        as_of, run_id = known.as_of, known.run_id
        start = as_of - spec.ttl
        record = self._record(spec)
        last = record.newest if record else None
        if last is not None:
            if last.as_of > as_of:
                return Loaded(self._rows(spec), "newer there")
            if _noted(record, run_id):
                return Loaded(self._rows(spec), "done before")
            # The refresh itself, all of its rows, is there already.
            after = MICROSECOND if known.supplement_of == last.run_id else timedelta(0)
            start = max(start, last.as_of + after)
        with contextlib.redirect_stdout(sys.stderr):  # Feast tells its progress in print().
            self.store.materialize(start, as_of, feature_views=[spec.view_name])
        record = self._record(spec)
        if record is not None and not _noted(record, run_id):
            raise OnlineStoreError(
                f"online table of {spec.view_name}",
                found="no rows of the new snapshot",
                expected=f"the rows of run {run_id}",
                remedy="Run the same command again, or look into what else loads the table.",
            )
        return Loaded(self._rows(spec), "loaded")

    def add(self, spec: EmbeddingSpec, snapshot: Snapshot) -> None:
        """Take the rows of one snapshot online, and no others: those before it are there already.

        It costs what its own rows cost, however many snapshots there are. It may be repeated.

        Raises OnlineStoreError where the online store does not take them.
        """
        if self._online is None:
            as_of = snapshot.manifest.as_of
            with contextlib.redirect_stdout(sys.stderr):
                self.store.materialize(as_of, as_of, feature_views=[spec.view_name])
            return
        parts = (pq.read_table(snapshot.path / part.name) for part in snapshot.manifest.files)
        self._online.load(
            self.store.config,
            self.store.get_feature_view(spec.view_name),
            (batch for part in parts for batch in part.to_batches()),
            timestamp_field=TIME_COLUMN,
            created_field=CREATED_COLUMN,
            runs=[snapshot.manifest.record],
        )

    def holds(self, spec: EmbeddingSpec, run_id: str) -> bool:
        """Whether a refresh is there: it, or one of its supplements, which come after it.

        It is never known of a store that is not provender's.
        """
        record = self._record(spec)
        runs = record.runs if record else ()
        return any(run_id in (run.run_id, run.supplement_of) for run in runs)

    def missing(self, spec: EmbeddingSpec, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Those of some snapshots that are not there, as far as that is known, and may be used."""
        record = self._record(spec)
        if record is None or not record.runs:
            return list(snapshots)
        there, oldest = {run.run_id for run in record.runs}, record.runs[-1].as_of - spec.ttl
        return [
            each
            for each in snapshots
            if each.manifest.run_id not in there and each.manifest.as_of >= oldest
        ]

    def _record(self, spec: EmbeddingSpec) -> TableRecord | None:
        if self._online is None:
            return None
        return self._online.records(self.store.config).get(self._table(spec))

    def _rows(self, spec: EmbeddingSpec) -> int | None:
        if self._online is None:
            return None
        database = self._online.database(self.store.config)
        return database.count(f"online table of {spec.view_name}", self._table(spec))

    def _table(self, spec: EmbeddingSpec) -> str:
        view = self.store.get_feature_view(spec.view_name)
        return OnlineTable.of(self.store.config, view).name


def _noted(record: TableRecord | None, run_id: str) -> bool:
    return record is not None and any(run.run_id == run_id for run in record.runs)
