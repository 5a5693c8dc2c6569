"""The gates of a release that look into snapshots: quality, vectors online, the chain of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from provender.plugin.errors import OnlineRowError, SnapshotError
from provender.plugin.instants import EARLIEST, LATEST
from provender.plugin.manifest import Manifest
from provender.plugin.online_rows import OnlineRows, microseconds_of
from provender.plugin.quantized import dequantize, quantize
from provender.plugin.release_gates import Trial, moment
from provender.plugin.releases import Check
from provender.plugin.snapshot import Snapshot, Vectors, find_snapshots
from provender.plugin.snapshot_history import SnapshotHistory
from provender.plugin.snapshot_source import is_mappable, snapshot_folder, source_path
from provender.plugin.spec import VECTOR_COLUMN
from provender.plugin.stored_views import StoredView

#: The metric by which versions are compared; higher is better.
QUALITY = "quality"


def quality(trial: Trial) -> Check:
    """As good as the live version, or nearly, by the producers' own evaluation."""
    verdicts = [_quality(view, live, trial) for view, live in trial.pairs()]
    alone = ", ".join(_alone(view, trial.now) for view in trial.views)
    return Check(
        name="quality",
        passed=all(passed for _, passed in verdicts),
        found=", ".join(told for told, _ in verdicts) or f"{alone}, and nothing to compare with",
        expected=f"at least {trial.gates.quality:.0%} of the live version's in the manifests",
    )


def same_vectors(trial: Trial) -> Check:
    """A random sample of online vectors is, bit for bit, what the newest loaded run wrote."""
    seeds = np.random.SeedSequence(trial.seed).spawn(len(trial.views))
    verdicts = [
        _sampled(view, trial.gates.sample, np.random.default_rng(seed))
        for view, seed in zip(trial.views, seeds, strict=True)
    ]
    return Check(
        name="same online and offline",
        passed=all(passed for _, passed in verdicts),
        found=", ".join(told for told, _ in verdicts),
        expected="every sampled vector online as its snapshot has it",
    )


def anchored(trial: Trial) -> Check:
    """What declares itself anchored was really started from a run of the version it names."""
    verdicts = [_anchored(view) for view in trial.views if view.spec.anchored_to is not None]
    told = ", ".join(told for told, _ in verdicts)
    return Check(
        name="anchored",
        passed=all(passed for _, passed in verdicts),
        found=told or "not anchored to another version, nor declared so",
        expected="runs that go back to one of the version it is anchored to",
    )


def newest_quality(view: StoredView, now: datetime) -> tuple[datetime, float] | None:
    """Return the as-of time and the quality of the newest snapshot that has one."""
    known = _qualities(view, now)
    return max(known.items(), default=None)


def _qualities(view: StoredView, now: datetime) -> dict[datetime, float]:
    found = {}
    for manifest in (snapshot.manifest for snapshot in view.snapshots):
        value = manifest.metrics.get(QUALITY)
        if value is not None and manifest.as_of <= now:
            found[manifest.as_of] = value
    return found


def _quality(view: StoredView, live: StoredView, trial: Trial) -> tuple[str, bool]:
    mine, theirs = _qualities(view, trial.now), _qualities(live, trial.now)
    if not theirs:
        return f"{_alone(view, trial.now)}, {_alone(live, trial.now)}", True
    if not mine:
        remedy = "; refresh it once more, for a refresh judges the former one"
        return _alone(view, trial.now) + (remedy if view.snapshots else ""), False
    common = max(mine.keys() & theirs.keys(), default=None)
    my_time, their_time = (common, common) if common else (max(mine), max(theirs))
    value, other = mine[my_time], theirs[their_time]
    # A share of nothing, or of less, says nothing: there it has to be as good.
    passed = value >= trial.gates.quality * other if other > 0 else value >= other
    share = f" ({value / other:.1%})" if other > 0 else ""
    when = "" if common else f" as of {moment(their_time)}"
    told = f"{view.view.name} {value:.4g} as of {moment(my_time)}"
    return f"{told} against {other:.4g}{when}{share}", passed


def _alone(view: StoredView, now: datetime) -> str:
    newest = newest_quality(view, now)
    if newest is None:
        return f"{view.view.name} without {QUALITY if view.snapshots else 'manifests'}"
    return f"{view.view.name} {newest[1]:.4g} as of {moment(newest[0])}"


def _sampled(view: StoredView, most: int, rng: np.random.Generator) -> tuple[str, bool]:
    name = view.view.name
    if not view.there:
        return f"{name} without an online table", False
    run = view.loaded
    if run is None:
        if view.snapshots:
            return f"{name} of no run that is noted; materialize it again", False
        return f"{name} without manifests, not compared", True
    snapshot = next((s for s in view.snapshots if s.manifest.record == run), None)
    if snapshot is None:
        return f"{name} of run {run.run_id}, whose snapshot is gone", False
    try:
        sample = _Sample.draw(snapshot, most, rng)
        told, passed = _compared(view, sample, view.read(sample.listed, hot=False))
        if passed and view.hot:
            told, passed = _compared(view, sample, view.read(sample.listed, hot=True))
            told += "" if passed else " in this machine's hot copy"
    except (SnapshotError, OnlineRowError) as error:
        return f"{error.thing}: {error.found}", False
    return f"{name} {told}", passed


class _Sample(NamedTuple):
    """Some rows of a snapshot: n keys, (n, dim) float32 vectors, event time in microseconds."""

    keys: pa.Array
    vectors: Vectors
    event_us: int

    @classmethod
    def draw(cls, snapshot: Snapshot, most: int, rng: np.random.Generator) -> _Sample:
        rows, event_us = snapshot.manifest.rows, microseconds_of(snapshot.manifest.as_of)
        places = np.sort(rng.choice(rows, min(most, rows), replace=False))
        if not rows or not is_mappable(snapshot):
            keys, vectors = snapshot.read()
            return cls(keys.take(pa.array(places)), vectors[places], event_us)
        history = SnapshotHistory([snapshot], snapshot.manifest.dim)
        ((keys, _),) = history.all(EARLIEST, LATEST)
        return cls(keys.take(pa.array(places)), history.vectors.take(places), event_us)

    @property
    def listed(self) -> npt.NDArray[Any] | list[Any]:
        """The keys as a request has them."""
        if pa.types.is_integer(self.keys.type):
            return np.asarray(self.keys.to_numpy(zero_copy_only=False))
        texts: list[Any] = self.keys.to_pylist()
        return texts


def _compared(view: StoredView, sample: _Sample, online: OnlineRows) -> tuple[str, bool]:
    """Say what came of a sample."""
    wanted = dequantize(quantize(sample.vectors, view.spec.dtype))
    newer = online.present & (online.event_us > sample.event_us)
    older = online.present & (online.event_us < sample.event_us)
    # Bit for bit: 0.0 is not -0.0.
    vectors = online.columns[VECTOR_COLUMN].values
    same = (vectors.view(np.int32) == wanted.view(np.int32)).all(axis=1)
    differ = {"missing": ~online.present, "of an older run": older}
    differ["with another vector"] = online.present & ~newer & ~older & ~same
    kept = online.present & ~newer & ~older & same
    told = [f"{kept.sum():,} of {len(kept):,} the same"]
    told += [f"{newer.sum():,} pushed since"] if newer.any() else []
    for kind, rows in differ.items():
        if rows.any():
            key = sample.keys[int(np.argmax(rows))].as_py()
            told.append(f"{rows.sum():,} {kind}, such as {view.spec.join_key} {key!r}")
    # If all were pushed since, nothing was compared, which proves nothing.
    proven = kept.any() or not len(kept)
    return "; ".join(told), bool(proven and not any(rows.any() for rows in differ.values()))


def _anchored(view: StoredView) -> tuple[str, bool]:
    """Follow a view's newest run back to the version that it is anchored to."""
    name, version = view.view.name, view.spec.anchored_to
    manifests = {manifest.run_id: manifest for manifest in _manifests(view)}
    newest = view.loaded or (view.snapshots[-1].manifest.record if view.snapshots else None)
    if newest is None:
        return f"{name} without manifests, so nothing says where it comes from", False
    run_id, parent, seen = newest.run_id, newest.parent, {newest.run_id}
    while parent is not None and parent not in seen:
        former = manifests.get(parent)
        if former is None:
            return f"{name} from run {run_id}, whose parent {parent} has no snapshot left", False
        if former.version == version:
            return f"{name} from run {parent} of version {version}", True
        run_id, parent = parent, former.parent
        seen.add(run_id)
    return f"{name} from run {run_id}, which was started from no run of version {version}", False


def _manifests(view: StoredView) -> list[Manifest]:
    """The manifests of a view and, after them, of the version that it is anchored to."""
    folder = snapshot_folder(source_path(view.view.batch_source))
    anchor = f"{view.spec.name}_v{view.spec.anchored_to}"
    anchors = find_snapshots(folder.parent, anchor) if folder else []
    return [snapshot.manifest for snapshot in (*view.snapshots, *anchors)]
