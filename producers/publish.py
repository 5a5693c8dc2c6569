"""Publishing: the vectors of one run become snapshots, one for each view, all of the same run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from provender.plugin.errors import ConfigError, DriftError, SnapshotError
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import Snapshot, find_snapshot, write_snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.vectors import Vectors


@dataclass(frozen=True)
class Finding:
    """What a gate says of one view's vectors before they are published.

    Attributes:
        metrics: what it measured, for the view's manifest.
        notes: what is to be remembered beside it.
        refused: why they may not be published, None where they may.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    refused: DriftError | None = None


#: A view, the as-of time and the vectors that it would hold -> what is to be said of them.
Gate = Callable[[EmbeddingSpec, datetime, Vectors], Finding]


def publish(
    root: Path,
    specs: Sequence[EmbeddingSpec],
    as_of: datetime,
    vectors_of: Callable[[EmbeddingSpec], Vectors],
    run: RunInfo,
    findings: Mapping[str, Finding],
) -> list[Snapshot]:
    """Write the snapshot of every view, one after the other: its vectors are asked for then.

    A view whose snapshot this run has written before is left as it is, so that a run which was
    killed between two views is completed by running it again. What a gate found of a view, by the
    view's name, goes into its manifest.
    """
    snapshots = []
    for spec in specs:
        found, rows = findings.get(spec.view_name, Finding()), vectors_of(spec)
        told = replace(
            run, metrics={**run.metrics, **found.metrics}, notes={**run.notes, **found.notes}
        )
        snapshots.append(write_snapshot(root, spec, as_of, rows.keys, rows.vectors, told))
    return snapshots


def asked(
    gate: Gate | None,
    specs: Sequence[EmbeddingSpec],
    as_of: datetime,
    vectors_of: Callable[[EmbeddingSpec], Vectors],
) -> dict[str, Finding]:
    """Ask a gate of every view before anything is published; without one nothing is found."""
    if gate is None:
        return {}
    return {spec.view_name: gate(spec, as_of, vectors_of(spec)) for spec in specs}


def refused(findings: Mapping[str, Finding]) -> bool:
    """Whether a gate refuses any view, for then none may be published."""
    return any(found.refused for found in findings.values())


def check_entities(specs: Sequence[EmbeddingSpec], entities: Collection[str]) -> None:
    """Raise ConfigError for a view of an entity that a run has no vectors of."""
    for spec in specs:
        if spec.entity not in entities:
            raise ConfigError(
                f"embedding view {spec.view_name}",
                found=f"no vectors of entity {spec.entity}",
                expected=f"one of {', '.join(sorted(entities))}",
                remedy="Declare the entity in the world file, or take the view out of the repo.",
            )


def published(
    root: Path, specs: Sequence[EmbeddingSpec], as_of: datetime, run_id: str
) -> list[Snapshot]:
    """Return the snapshots that a run has written already.

    Raises SnapshotError where another run's snapshot stands in a place: the events or the
    configuration have changed since, and one version does not mean two things.
    """
    found = [find_snapshot(root, spec.view_name, as_of) for spec in specs]
    standing = [snapshot for snapshot in found if snapshot is not None]
    for snapshot in standing:
        if snapshot.manifest.run_id != run_id:
            raise SnapshotError(
                f"snapshot {snapshot.path}",
                found=f"run {snapshot.manifest.run_id}, of another configuration or parent",
                expected=f"run {run_id}",
                remedy="Declare the change as a new version of the view, or remove the snapshots "
                "from this date on to compute them again.",
            )
    return standing
