"""The gate of a refresh: its drift from the former snapshot of the same view."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from provender.plugin.drift import check_drift, drift
from provender.plugin.errors import DriftError
from provender.plugin.gates import DriftGates
from provender.plugin.releases import somebody
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.spec import EmbeddingSpec
from provender.producers.publish import Finding
from provender.producers.vectors import Vectors


@dataclass(frozen=True)
class DriftGate:
    """Measures a view's drift and refuses what is beyond its gates.

    Attributes:
        snapshots: the folder of all snapshots.
        gates: what is allowed.
        forced: the reason for which more is to be published all the same; None refuses it.
    """

    snapshots: Path
    gates: DriftGates
    forced: str | None = None

    def __call__(self, spec: EmbeddingSpec, as_of: datetime, vectors: Vectors) -> Finding:
        """Measure; a view's first snapshot passes with nothing to measure it by."""
        former = newest_before(self.snapshots, spec.view_name, as_of)
        if former is None:
            return Finding()
        found = drift(*former.read(), vectors.keys, vectors.vectors)
        try:
            check_drift(spec.view_name, found, self.gates)
        except DriftError as error:
            if self.forced is None:
                return Finding(found.metrics(), refused=error)
            notes = {"forced": self.forced, "forced_by": somebody()}
            return Finding(found.metrics(), notes | {"beyond": error.found})
        return Finding(found.metrics())


def newest_before(snapshots: Path, view_name: str, as_of: datetime) -> Snapshot | None:
    """Return the newest snapshot of a view from before a time, None where there is none."""
    found = find_snapshots(snapshots, view_name)
    former = [snapshot for snapshot in found if snapshot.manifest.as_of < as_of]
    return former[-1] if former else None
