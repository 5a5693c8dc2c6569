"""Where the vectors of an embedding view come from and where they went, as data.

    tracer = Tracer(store, Home(Path("demo")))
    tracer.of_view("user_transra_v1")             # its newest snapshot, back to the first run
    tracer.of_ranker(Path("demo/rankers/with-0.safetensors"))

Upstream is read from the manifests, and where snapshots are gone from what online tables and
rankers keep of them; downstream from the online store, the releases and the rankers' stamps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from feast import FeatureStore

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.errors import CheckpointError, OnlineStoreError, SnapshotError
from provender.plugin.home import Home
from provender.plugin.manifest import RunRecord
from provender.plugin.online_store import ProvenderOnlineStore, is_ours
from provender.plugin.ranker_stamp import RankerStamp, read_stamp, read_stamps
from provender.plugin.releases import Release, Releases, state_of
from provender.plugin.snapshot import Snapshot, all_snapshots
from provender.plugin.snapshot_source import snapshot_folder, source_path
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TableRecord


@dataclass(frozen=True)
class Run:
    """One run of a chain.

    Attributes:
        record: what is known of it; None where nothing is left but its id.
        snapshots: those of its snapshots that stand, ascending by view.
    """

    run_id: str
    record: RunRecord | None
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def parent(self) -> str | None:
        """The run that this one was started from, as far as that is known."""
        return self.record.parent if self.record else None

    def of_view(self, view: str) -> Snapshot | None:
        """The run's snapshot of a view, where it stands."""
        found = [each for each in self.snapshots if each.manifest.view == view]
        return found[0] if found else None


@dataclass(frozen=True)
class Chain:
    """A view's runs from one on to the first, and where its vectors are.

    Attributes:
        spec: its declaration; None where it is neither registered nor known to a ranker.
        runs: the newest first.
        older: how many runs before those were left out.
        tables: its online tables.
        release: the state of its family; None where nothing was ever released.
    """

    view: str
    spec: EmbeddingSpec | None
    runs: tuple[Run, ...]
    older: int
    tables: tuple[TableRecord, ...] = ()
    release: Release | None = None

    @property
    def state(self) -> str:
        """What the view's version is in the release of its family."""
        return state_of(self.release, self.spec.version) if self.spec else "not registered"


@dataclass(frozen=True)
class Ranker:
    """A checkpoint that is stamped."""

    path: Path
    stamp: RankerStamp

    def runs_of(self, view: str) -> tuple[RunRecord, ...]:
        """The runs of a view that it learned from."""
        return tuple(run for on in self.stamp.views if on.spec.view_name == view for run in on.runs)

    def reads(self, view: str) -> bool:
        """Whether it was trained on a view."""
        return self.stamp.reads(view)


@dataclass(frozen=True)
class Lineage:
    """What was asked for, and what was found.

    Attributes:
        of: the view and as-of time, or the checkpoint.
        chains: one; of a ranker one a view.
        notes: what is missing, and why.
    """

    of: str
    chains: tuple[Chain, ...]
    rankers: tuple[Ranker, ...]
    notes: tuple[str, ...] = ()


class Tracer:
    """Reads once what there is, then answers.

    Args:
        store: the feature store; where its online store is another than provender's, the online
            part is left out.
        home: where rankers lie, and snapshots of views that are not registered any more.
    """

    def __init__(self, store: FeatureStore, home: Home) -> None:
        self._store, self._home = store, home
        self._views = {view.name: view for view in store.list_feature_views()}
        self._notes: list[str] = []
        self._rankers = [Ranker(*each) for each in read_stamps(home.rankers).items()]
        self._tables: list[TableRecord] = []
        self._releases: dict[str, Release] = {}
        self._read_online()
        self._snapshots = [each for root in sorted(self._roots()) for each in all_snapshots(root)]

    def of_view(
        self, view: str, as_of: datetime | None = None, depth: int | None = None
    ) -> Lineage:
        """Trace a view's newest snapshot, or the newest one as of a time.

        Args:
            depth: runs to go back, at most; all by default.

        Raises:
            SnapshotError: no such view, or nothing of it as of that time.
        """
        rankers = tuple(ranker for ranker in self._rankers if ranker.reads(view))
        run, notes = self._first(view, as_of)
        of = f"{view}@{run.as_of.isoformat()}" if run else view
        return Lineage(of, (self._chain(view, run, depth),), rankers, (*self._notes, *notes))

    def of_ranker(self, path: Path, depth: int | None = None) -> Lineage:
        """Trace a checkpoint: of each view that it learned from, the newest run and those before.

        Raises CheckpointError where it bears no stamp.
        """
        stamp = read_stamp(path)
        if stamp is None:
            raise CheckpointError(
                f"ranker {path}",
                found="no stamp that says what it was trained on",
                expected="a checkpoint that `provender rank` wrote",
                remedy="Train it again; older checkpoints do not say where they come from.",
            )
        ranker = Ranker(path, stamp)
        self._rankers = [*(each for each in self._rankers if each.stamp != stamp), ranker]
        views = sorted(on.spec.view_name for on in stamp.views)
        chains = (self._chain(view, _newest(ranker.runs_of(view)), depth) for view in views)
        return Lineage(str(path), tuple(chains), (ranker,), tuple(self._notes))

    def _read_online(self) -> None:
        config = self._store.config
        if not is_ours(config):
            kind = getattr(config.online_store, "type", config.online_store)
            self._notes.append(f"Online tables and releases are not known: {kind} keeps neither.")
            return
        try:
            self._tables = list(ProvenderOnlineStore().records(config).values())
            self._releases = Releases.of(self._store).states()
        except OnlineStoreError as error:
            self._notes.append(f"Online tables and releases are not known. {error}")

    def _roots(self) -> set[Path]:
        folders = (snapshot_folder(_path(view)) for view in self._views.values())
        return {self._home.snapshots.resolve(), *(each.parent for each in folders if each)}

    def _first(self, view: str, as_of: datetime | None) -> tuple[RunRecord | None, tuple[str, ...]]:
        """The run to begin with, and what is to be said of it."""
        standing = [each.manifest.record for each in self._snapshots if each.manifest.view == view]
        if as_of is not None:
            standing = [run for run in standing if run.as_of <= as_of]
        if standing:
            gone = "It is not registered any more, or not yet."
            return _newest(standing), () if view in self._views else (gone,)
        known = [*self._kept(view)]
        if as_of is None and known:
            return _newest(known), ("None of its snapshots stands.",)
        registered = self._views.get(view)
        own = registered is not None and snapshot_folder(_path(registered)) is None
        if registered is not None and is_embedding_view(registered) and own and as_of is None:
            return None, (
                f"Its vectors are files of your own, without manifests: {_path(registered)}",
            )
        raise self._nothing(view, as_of)

    def _nothing(self, view: str, as_of: datetime | None) -> SnapshotError:
        registered = sorted(name for name, each in self._views.items() if is_embedding_view(each))
        if view not in registered:
            return SnapshotError(
                f"lineage of {view}",
                found="no embedding view, snapshot or file of that name",
                expected=f"one of {', '.join(registered) or '(the registry has none)'}",
                remedy="Correct the name, or declare the view and run `feast apply`.",
            )
        times = [each.manifest.as_of for each in self._snapshots if each.manifest.view == view]
        return SnapshotError(
            f"lineage of {view}",
            found=f"no snapshot as of {as_of.isoformat()}" if as_of else "no snapshot",
            expected=f"one of {min(times):%Y-%m-%dT%H:%M} to {max(times):%Y-%m-%dT%H:%M}"
            if times
            else "a snapshot beside its manifest",
            remedy="Give a later time."
            if times
            else "Run its producer, such as `provender produce`.",
        )

    def _chain(self, view: str, first: RunRecord | None, depth: int | None) -> Chain:
        runs = list(self._ancestors(first.run_id)) if first else []
        kept = runs if depth is None else runs[:depth]
        spec = self._spec(view)
        return Chain(
            view,
            spec,
            tuple(kept),
            len(runs) - len(kept),
            tuple(table for table in self._tables if table.view == view),
            self._releases.get(spec.family) if spec else None,
        )

    def _ancestors(self, run_id: str | None) -> Iterator[Run]:
        by_run: dict[str, list[Snapshot]] = {}
        for snapshot in self._snapshots:
            by_run.setdefault(snapshot.manifest.run_id, []).append(snapshot)
        kept = {run.run_id: run for run in self._kept()}
        seen: set[str] = set()
        while run_id is not None and run_id not in seen:
            seen.add(run_id)
            run = _run(run_id, by_run, kept)
            yield run
            run_id = run.parent

    def _kept(self, view: str | None = None) -> Iterator[RunRecord]:
        """What tables and rankers remember of runs, of one view or of all."""
        for table in self._tables:
            yield from table.runs if view in (None, table.view) else ()
        for ranker in self._rankers:
            for on in ranker.stamp.views:
                yield from on.runs if view in (None, on.spec.view_name) else ()

    def _spec(self, view: str) -> EmbeddingSpec | None:
        registered = self._views.get(view)
        if registered is not None and is_embedding_view(registered):
            return spec_of(registered)
        stamped = (on.spec for ranker in self._rankers for on in ranker.stamp.views)
        return next((spec for spec in stamped if spec.view_name == view), None)


def _run(run_id: str, by_run: Mapping[str, list[Snapshot]], kept: Mapping[str, RunRecord]) -> Run:
    snapshots = sorted(by_run.get(run_id, ()), key=lambda each: each.manifest.view)
    record = snapshots[0].manifest.record if snapshots else kept.get(run_id)
    return Run(run_id, record, tuple(snapshots))


def _newest(runs: Iterable[RunRecord]) -> RunRecord | None:
    """The newest refresh; the newest supplement only where there is no refresh."""
    return max(runs, key=lambda run: (run.supplement_of is None, run.as_of), default=None)


def _path(view: object) -> str:
    return source_path(getattr(view, "batch_source", None))
