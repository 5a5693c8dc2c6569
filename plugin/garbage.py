"""What nothing needs any more, and why: what `provender gc` drops.

A version of a family is needed where

- it is live, former or candidate, or not retired, or its family was never released;
- a ranker learned from it, whatever else;
- a feature service, or a view built on it, reads it, or the repo's files still declare it;
- another version is anchored to it and has no snapshot yet: its first run starts from this one's.

All others are dropped: their views leave the registry, and then nobody needs what was theirs.
Nobody needs, whether it was so left by that, by Feast's own commands or by a killed gc,

- the registered source of an embedding view that is not registered;
- an online table, with its hot copy, of a view that is not registered; such are also those of
  Feast's native ``@vN`` versions of deleted views;
- a snapshot of a view that is neither registered nor declared, unless a ranker learned from it;
- a snapshot that is older than the newest of its view by more than the family's ``keep_days``, save
  the newest one's parent, the newest that is loaded online, and those that rankers learned from;
- a supplement whose refresh goes or is gone, unless a ranker learned from it; till then it stays;
- a run none of whose snapshots stays, save one that may yet be gone on with;
- what killed processes left in staging areas, and a view's folder without a snapshot.

What a release holds stays even if its view has left the registry. What has no record or manifest
of provender's is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from provender.plugin.families import families_of
from provender.plugin.files import from_stamp
from provender.plugin.gates import Gates
from provender.plugin.lineage import Ranker
from provender.plugin.releases import Release, state_of
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TableRecord

Kind = Literal["version", "source", "table", "run", "snapshot", "staging", "folder"]
#: How a producer names its runs: itself, the as-of time and a hash.
RUN_ID = re.compile(r"([a-z][a-z0-9_]*)-(\d{8}T\d{6}Z)-[0-9a-f]{10}")
_VIEW = re.compile(r"(.+)_v(\d+)")
_HELD = ("live", "former", "candidate")


@dataclass(frozen=True)
class Thing:
    """Something that goes or stays.

    Attributes:
        name: a version such as ``transra v1``, a table, a run, a snapshot's view and folder.
        why: the rule that decides.
        family: whose release decides it, as far as that is known.
        views: of a version, those that leave the registry together.
        path: where it lies, of what are files.
    """

    kind: Kind
    name: str
    why: str
    family: str | None = None
    views: tuple[str, ...] = ()
    path: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What goes, in the order in which it does, and what stays."""

    gone: tuple[Thing, ...]
    kept: tuple[Thing, ...]


@dataclass(frozen=True)
class Survey:
    """All that the rules look at.

    Attributes:
        specs: the registered embedding views, by name.
        views: the project's registered views of any kind.
        declared: embedding views that Python files of the repo declare, by name.
        readers: registered view -> what else reads it, as a message names it.
        releases: family -> its state.
        rankers: the stamped checkpoints.
        gates: family -> its gates.
        sources: registered sources of embedding views -> what they declare.
        tables: what the project's online tables are.
        table_views: table -> views whose table has that name, as (project, view), of all projects
            of the registry.
        snapshots: those under the home.
        folder_readers: view -> another registered view that reads its snapshots.
        mixed: folders of snapshots in which other files lie too.
        runs: the folders of runs, by run id.
        runs_elsewhere: run ids of snapshots that lie outside of the home.
        stale: what killed processes left.
        empty: folders of snapshots in which there is nothing.
    """

    project: str
    specs: Mapping[str, EmbeddingSpec] = field(default_factory=dict)
    views: frozenset[str] = frozenset()
    declared: Mapping[str, EmbeddingSpec] = field(default_factory=dict)
    readers: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, Release] = field(default_factory=dict)
    rankers: tuple[Ranker, ...] = ()
    gates: Mapping[str, Gates] = field(default_factory=dict)
    sources: Mapping[str, EmbeddingSpec] = field(default_factory=dict)
    tables: tuple[TableRecord, ...] = ()
    table_views: Mapping[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] = ()
    folder_readers: Mapping[str, str] = field(default_factory=dict)
    mixed: frozenset[Path] = frozenset()
    runs: Mapping[str, Path] = field(default_factory=dict)
    runs_elsewhere: frozenset[str] = frozenset()
    stale: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()

    @cached_property
    def families(self) -> dict[str, str]:
        """Embedding without its version -> its family, from wherever it can be known."""
        stamped = [on.spec for ranker in self.rankers for on in ranker.stamp.views]
        known = [*self.sources.values(), *stamped, *self.declared.values(), *self.specs.values()]
        told = {
            _embedding(each.manifest.view): each.manifest.family
            for each in self.snapshots
            if each.manifest.family is not None
        }
        return {**told, **{spec.name: spec.family for spec in known}}

    def snapshots_of(self, view: str) -> list[Snapshot]:
        """A view's refreshes, ascending by as-of time."""
        found = [each for each in self._of(view) if each.manifest.supplement_of is None]
        return sorted(found, key=lambda each: each.manifest.as_of)

    def supplements_of(self, view: str) -> list[Snapshot]:
        """A view's supplements, ascending by as-of time."""
        found = [each for each in self._of(view) if each.manifest.supplement_of is not None]
        return sorted(found, key=lambda each: each.manifest.as_of)

    def _of(self, view: str) -> list[Snapshot]:
        return [each for each in self.snapshots if each.manifest.view == view]


def plan(survey: Survey) -> Plan:
    """Decide of everything; nothing is done."""
    return _Rules(survey).plan()


class _Rules:
    """One survey's decisions; each is a reason to stay, or None."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._gone: list[Thing] = []
        self._kept: list[Thing] = []
        #: Views that are registered and stay so.
        self._staying = set(survey.views)
        self._runs_staying = set(survey.runs_elsewhere)

    def plan(self) -> Plan:
        self._versions()
        self._sources()
        self._tables()
        snapshots = self._snapshots()
        self._runs()  # Before snapshots: those tell, to the end, that the run is over.
        for thing, why in snapshots:
            self._decide(thing, why)
        left = "left by a process that was killed"
        self._gone += [Thing("staging", each.name, left, path=each) for each in self._survey.stale]
        self._gone += [Thing("folder", e.name, "empty", path=e) for e in self._survey.empty]
        return Plan(tuple(self._gone), tuple(self._kept))

    def _decide(self, thing: Thing, why_kept: str | None) -> bool:
        """Sort a thing, which says why it would go, by the reason for which it stays."""
        if why_kept is None:
            self._gone.append(thing)
        else:
            self._kept.append(
                Thing(thing.kind, thing.name, why_kept, thing.family, thing.views, thing.path)
            )
        return why_kept is None

    # Versions and what is registered of them.

    def _versions(self) -> None:
        for family, versions in families_of(self._survey.specs.values()).items():
            for version, specs in versions.items():
                views = tuple(spec.view_name for spec in specs)
                gone = Thing("version", f"{family} v{version}", "retired", family, views)
                if self._decide(gone, self._version_reason(family, version, views)):
                    self._staying -= set(views)

    def _version_reason(self, family: str, version: int, views: tuple[str, ...]) -> str | None:
        release = self._survey.releases.get(family)
        state = state_of(release, version)
        if state != "retired":
            return state
        return (
            next((reason for view in views if (reason := self._ranker_reason(view))), None)
            or next((f"retired, but {self._survey.readers[view]} reads it"
                     for view in views if view in self._survey.readers), None)
            or self._declared_reason(views)
            or self._anchor_reason(views)
        )  # fmt: skip

    def _declared_reason(self, views: tuple[str, ...]) -> str | None:
        if set(views).isdisjoint(self._survey.declared):
            return None
        return "retired; take its declaration out of the repo and run `feast apply`"

    def _anchor_reason(self, views: tuple[str, ...]) -> str | None:
        known = {**self._survey.declared, **self._survey.specs}
        for spec in known.values():
            anchor = f"{spec.name}_v{spec.anchored_to}"
            if anchor in views and not self._survey.snapshots_of(spec.view_name):
                return f"{spec.view_name} is anchored to it and has no snapshot yet"
        return None

    def _ranker_reason(self, view: str) -> str | None:
        readers = [ranker.path for ranker in self._survey.rankers if ranker.reads(view)]
        return f"ranker {readers[0].name} learned from it" if readers else None

    def _release_reason(self, view: str) -> str | None:
        """Whether a release holds the version of a view that need not be registered."""
        matched = _VIEW.fullmatch(view)
        if matched is None:
            return None
        embedding, version = matched[1], int(matched[2])
        family = self._survey.families.get(embedding)
        # Of a view of which no family is known, any release may be the one.
        for each, release in self._survey.releases.items():
            state = state_of(release, version)
            if family in (None, each) and state in _HELD:
                return f"version {version} of {each} is {state}: register it by `feast apply`"
        return None

    def _absent_reason(self, view: str) -> str | None:
        """Why what belongs to a view that is not registered stays all the same."""
        if view in self._survey.declared:
            return "declared and not registered yet: run `feast apply`"
        return self._release_reason(view)

    def _sources(self) -> None:
        for name, spec in self._survey.sources.items():
            view = spec.view_name
            if view in self._survey.specs:
                continue  # It goes, or stays, with its view.
            thing = Thing("source", name, f"{view} is not registered", spec.family)
            self._decide(thing, self._absent_reason(view))

    def _tables(self) -> None:
        for table in self._survey.tables:
            family = self._survey.families.get(_embedding(table.view))
            thing = Thing("table", table.name, f"{table.view} is not registered", family)
            self._decide(thing, self._table_reason(table))

    def _table_reason(self, table: TableRecord) -> str | None:
        if table.view in self._staying:
            return f"{table.view} is registered"
        for project, view in sorted(self._survey.table_views.get(table.name, ())):
            if project != self._survey.project or view in self._staying:
                return f"it is the table of {view} in project {project}"
        return self._absent_reason(table.view)

    # Snapshots and the runs that wrote them.

    def _snapshots(self) -> list[tuple[Thing, str | None]]:
        decided = []
        for view in sorted({each.manifest.view for each in self._survey.snapshots}):
            for snapshot, why_gone, why_kept in self._of_view(view):
                if why_kept is not None:
                    self._runs_staying.add(snapshot.manifest.run_id)
                family = self._survey.families.get(_embedding(view))
                name = f"{view}/{snapshot.path.name}"
                decided.append(
                    (Thing("snapshot", name, why_gone, family, path=snapshot.path), why_kept)
                )
        return decided

    def _of_view(self, view: str) -> Iterator[tuple[Snapshot, str, str | None]]:
        """A view's refreshes, then its supplements, why each would go, and why it stays if so."""
        survey = self._survey
        snapshots = survey.snapshots_of(view)
        oldest, staying = datetime.min.replace(tzinfo=UTC), set[str]()
        registered = f"{view} is registered" if view in self._staying else None
        why_gone, reason = f"{view} is not registered", registered or self._absent_reason(view)
        if view in survey.folder_readers:
            reason = f"{survey.folder_readers[view]} reads it"
        elif reason is not None:
            family = survey.families.get(_embedding(view), "")
            days = survey.gates.get(family, Gates()).keep_days
            if days is not None and snapshots:
                oldest = snapshots[-1].manifest.as_of - timedelta(days=days)
                why_gone = f"more than {days} days older than the newest"
        for snapshot in snapshots:
            within = reason if snapshot.manifest.as_of >= oldest else None
            held = self._held(snapshot, snapshots[-1]) if reason is not None else None
            why_kept = within or held or self._always(snapshot)
            if why_kept is not None:
                staying.add(snapshot.manifest.run_id)
            yield snapshot, why_gone, why_kept
        for snapshot in survey.supplements_of(view):
            refresh = snapshot.manifest.supplement_of
            kept = f"its refresh, {refresh}, stays" if refresh in staying else None
            yield snapshot, "its refresh goes or is gone", kept or self._always(snapshot)

    def _held(self, snapshot: Snapshot, newest: Snapshot) -> str | None:
        """Why a snapshot beyond its days stays."""
        run_id = snapshot.manifest.run_id
        if run_id == newest.manifest.parent:
            return "the newest one was started from it"
        view = snapshot.manifest.view
        loaded = (table.newest for table in self._survey.tables if table.view == view)
        return (
            "it is loaded online" if any(run and run.run_id == run_id for run in loaded) else None
        )

    def _always(self, snapshot: Snapshot) -> str | None:
        """Why a snapshot stays, whatever becomes of its view."""
        if snapshot.path in self._survey.mixed:
            return "other files lie in its folder"
        view, run_id = snapshot.manifest.view, snapshot.manifest.run_id
        for ranker in self._survey.rankers:
            runs = [run.run_id for run in ranker.runs_of(view)]
            # Of a ranker that does not say which runs it saw, it may be all.
            if ranker.reads(view) and (run_id in runs or not runs):
                return f"ranker {ranker.path.name} learned from it"
        return None

    def _runs(self) -> None:
        written = {each.manifest.run_id for each in self._survey.snapshots}
        newest: dict[str, datetime] = {}
        for each in self._survey.snapshots:
            if each.manifest.supplement_of is not None:
                continue  # A refresh as of an earlier time may yet be gone on with.
            producer, as_of = each.manifest.producer, each.manifest.as_of
            newest[producer] = max(as_of, newest.get(producer, as_of))
        for run_id, path in self._survey.runs.items():
            matched = RUN_ID.fullmatch(run_id)
            if matched is None:
                continue
            as_of = from_stamp(matched[2])
            over = matched[1] in newest and as_of < newest[matched[1]]
            reason = "it may yet be gone on with" if run_id not in written and not over else None
            if run_id in self._runs_staying:
                reason = "its snapshots stay"
            why = "its snapshots go" if run_id in written else "it has no snapshots"
            self._decide(Thing("run", run_id, why, path=path), reason)


def _embedding(view: str) -> str:
    matched = _VIEW.fullmatch(view)
    return matched[1] if matched else view
