"""The gates of a release: what a version must be before requests read it.

    checks = [gate(trial) for gate in GATES]     # each says what it found and what it asks for

Those that compare vectors, runs and qualities of snapshots are in :mod:`snapshot_gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from provender.plugin.families import compatible
from provender.plugin.gates import Gates
from provender.plugin.ranker_stamp import RankerStamp
from provender.plugin.releases import Check
from provender.plugin.stored_views import StoredVersions, StoredView

Gate = Callable[["Trial"], Check]


@dataclass(frozen=True)
class Trial:
    """A version on trial, and what it is measured by.

    Attributes:
        family: its family.
        version: which.
        versions: all stored versions of the family.
        live: the version that serves now; None before the first promotion.
        gates: what is asked for.
        now: the time of judgement, with its zone.
        rankers: stamps of the rankers that would have to follow.
        seed: of the random sample; None for one from the system's entropy.
    """

    family: str
    version: int
    versions: StoredVersions
    live: int | None
    gates: Gates
    now: datetime
    rankers: Mapping[Path, RankerStamp] = field(default_factory=dict)
    seed: int | None = None

    @property
    def views(self) -> tuple[StoredView, ...]:
        """Those of the version."""
        return self.versions[self.version]

    @property
    def live_views(self) -> tuple[StoredView, ...]:
        """Those of the live version; none where nothing is live or nothing is left of it."""
        return () if self.live is None else self.versions.get(self.live, ())

    def pairs(self) -> Iterator[tuple[StoredView, StoredView]]:
        """Each view of the version, and the live version's of the same name."""
        live = {view.spec.name: view for view in self.live_views}
        for view in self.views:
            if view.spec.name in live:
                yield view, live[view.spec.name]


def complete(trial: Trial) -> Check:
    """All views of the live version; raw vectors in one space, each relation's facets in one."""
    spaces = sorted({view.spec.space for view in trial.views})
    kinds = {view.spec.relation for view in trial.views}
    own = {(view.spec.relation, view.spec.space) for view in trial.views}
    here = {(view.spec.name, view.spec.join_key) for view in trial.views}
    wanted = {(view.spec.name, view.spec.join_key) for view in trial.live_views}
    missing = [f"no {name} by {key}" for name, key in sorted(wanted - here)]
    if trial.live is not None and not wanted:
        missing.append(f"no view of version {trial.live} left to compare with")
    views = ", ".join(view.view.name for view in trial.views)
    found = f"{views} in space {', '.join(spaces)}" + "".join(f"; {each}" for each in missing)
    live = "views" if trial.live is None else f"all views that version {trial.live} has,"
    return Check(
        name="complete",
        passed=not missing and len(own) == len(kinds),
        found=found,
        expected=f"{live} in one space"
        + (", or one for each relation's facets" if kinds != {None} else ""),
    )


def materialized(trial: Trial) -> Check:
    """Every view's online table was loaded, and has rows."""
    told, passed = [], True
    for view in trial.views:
        loaded = view.record is not None and view.record.loaded_at is not None
        passed = passed and loaded and view.rows > 0
        rows = f"{view.rows:,} rows" if view.there else "no online table"
        told.append(f"{view.view.name} {rows}{'' if loaded or not view.there else ', no load'}")
    return Check(
        name="materialized",
        passed=passed,
        found=", ".join(told),
        expected="rows in each, from `feast materialize` through provender's compute engine",
    )


def one_run(trial: Trial) -> Check:
    """The newest vectors of all views come from one run: those of two runs do not fit.

    A run's supplements are computed from it, and fit it as its own vectors do.
    """
    told, runs = [], set[str | None]()
    for view in trial.views:
        if view.loaded is not None:
            runs.add(view.loaded.run_id)
        told.append(f"{view.view.name} {_run(view) if view.loaded else 'of no known run'}")
        for stray in view.record.strays if view.record else ():
            runs.add(stray.supplement_of)
            told.append(
                f"a later supplement of run {stray.supplement_of} as of {moment(stray.as_of)}; "
                f"run `provender cold` for a later time"
            )
    return Check(
        name="one run",
        passed=len(runs) <= 1,
        found=", ".join(told),
        expected="the same newest run in all online tables",
    )


def fresh(trial: Trial) -> Check:
    """What is online may still be used: it is not older than its ttl, nor of the future."""
    told, passed = [], True
    for view in trial.views:
        as_of, ttl = view.online_as_of, view.spec.ttl
        if as_of is None:
            passed = False
            told.append(f"{view.view.name} nothing")
            continue
        age = trial.now - as_of
        passed = passed and timedelta(0) <= age <= ttl
        old = f"{shown(age)} old" if age >= timedelta(0) else f"{shown(-age)} in the future"
        told.append(f"{view.view.name} as of {moment(as_of)}, {old} with a ttl of {shown(ttl)}")
    return Check(
        name="fresh",
        passed=passed,
        found=", ".join(told),
        expected=f"as-of times within the ttl at {moment(trial.now)}",
    )


def coverage(trial: Trial) -> Check:
    """Of the live version's entities, few enough are lost."""
    told, passed = [], True
    for view, live in trial.pairs():
        shares, enough = _coverage(view, live, trial)
        told.append(shares)
        passed = passed and enough
    return Check(
        name="coverage",
        passed=passed,
        found=", ".join(told) or _nothing_live(trial),
        expected=f"at least {trial.gates.coverage:.1%} of the live version's entities",
    )


def rankers(trial: Trial) -> Check:
    """Some ranker can follow, where rankers read this family at all."""
    reading = {path: each for path, each in trial.rankers.items() if each.specs_of(trial.family)}
    following = [path for path, stamp in reading.items() if follows(stamp, trial)]
    return Check(
        name="rankers",
        passed=bool(following) or not reading,
        found=f"{len(following)} of {len(reading)} rankers of this family trained on it: "
        f"{', '.join(path.name for path in following or reading)}"
        if reading
        else "no rankers of this family",
        expected="one that was trained on this version, or accepts it as anchored to its own",
    )


def follows(stamp: RankerStamp, trial: Trial) -> bool:
    """Whether a ranker may read the version in the place of what it was trained on."""
    specs = {view.spec.name: view.spec for view in trial.views}
    for trained in stamp.specs_of(trial.family):
        spec = specs.get(trained.name)
        if spec is None:
            return False
        same = spec.version == trained.version
        if not same and not (stamp.accepts_anchored and compatible(trained, spec)):
            return False
    return True


def _coverage(view: StoredView, live: StoredView, trial: Trial) -> tuple[str, bool]:
    """Say how many of the live view's entities a view has, and whether they are enough."""
    name = view.view.name
    for each in (view, live):
        if not each.there:
            return f"{name} not counted, for {each.view.name} has no online table", False
    if view.table.integer != live.table.integer:
        return f"{name} has keys of another type than {live.view.name}", False
    entities, kept = live.kept_by(view, trial.now)
    if not entities:
        return f"{live.view.name} has nothing to keep at {moment(trial.now)}", True
    share = kept / entities
    return f"{name} {kept:,} of {entities:,} ({share:.2%})", share >= trial.gates.coverage


def _run(view: StoredView) -> str:
    assert view.loaded is not None
    return f"run {view.loaded.run_id} as of {moment(view.loaded.as_of)}"


def _nothing_live(trial: Trial) -> str:
    if trial.live is None:
        return "no live version to compare with"
    return f"no view that version {trial.live} has too"


def moment(time: datetime) -> str:
    """A time as messages show it."""
    return f"{time:%Y-%m-%d %H:%M}" if (time.hour or time.minute) else f"{time:%Y-%m-%d}"


def shown(length: timedelta) -> str:
    """A length of time as messages show it, in its two largest units."""
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    left, parts = int(length.total_seconds()), []
    for name, seconds in units:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2]) or "0s"
