"""One refresh of one version, of a producer that goes on from the version's last refresh.

What a run has made is kept before anything of it is published, so that a run which was killed, or
that a gate has refused, is published later without being made again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.publish import Gate, asked, publish, published, refused
from provender.producers.refresh import OnStage, Refresh
from provender.producers.vectors import Vectors
from provender.producers.version_job import VersionJob, run_id_of
from provender.producers.version_lineage import parent_of


class Run(Protocol):
    """What a run has made."""

    def vectors_of(self, spec: EmbeddingSpec) -> Vectors:
        """What a view holds."""
        ...

    def info(self, job: VersionJob, run_id: str, parent: Snapshot | None) -> RunInfo:
        """What the manifests say of it."""
        ...


def refresh_version(
    job: VersionJob,
    as_of: datetime,
    run_of: Callable[[Snapshot | None, Path], Run],
    on_stage: OnStage,
    gate: Gate | None = None,
    *,
    dry_run: bool = False,
) -> Refresh:
    """Make and publish one as-of time, going on where a former attempt stopped.

    A gate is asked of every view before anything is published; if it refuses one, nothing is. With
    `dry_run` nothing is published in any case.

    Args:
        run_of: makes what is to be published, or loads it where it has been made: of the snapshot
            that it goes on from, in the run's folder.
    """
    with job.home.locked("runs"):
        parent = parent_of(job, as_of)
        run_id = run_id_of(job, as_of, parent)
        standing = published(job.home.snapshots, job.specs, as_of, run_id)
        if len(standing) == len(job.specs):
            return Refresh(run_id, as_of, tuple(standing), done_before=True)
        run = run_of(parent, job.home.runs / run_id)
        findings = asked(gate, job.specs, as_of, run.vectors_of)
        snapshots: list[Snapshot] = []
        if not dry_run and not refused(findings):
            on_stage("publish", 0, 1, "")
            info = run.info(job, run_id, parent)
            snapshots = publish(
                job.home.snapshots, job.specs, as_of, run.vectors_of, info, findings
            )
            on_stage("publish", 1, 1, "")
    return Refresh(run_id, as_of, tuple(snapshots), done_before=False, findings=findings)
