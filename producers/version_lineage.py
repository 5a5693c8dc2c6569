"""Which refresh a refresh goes on from, so that a version stays in one space."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from provender.plugin.errors import ConfigError
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.producers.drift_gate import newest_before
from provender.producers.version_job import VersionJob


def parent_of(job: VersionJob, as_of: datetime) -> Snapshot | None:
    """The newest snapshot before `as_of` of any view of the version; None for its first refresh.

    The first refresh of a version that is anchored to another comes after that one's newest.

    Raises ConfigError where there is none to be anchored to.
    """
    found = _newest(job, (spec.view_name for spec in job.specs), as_of)
    if found is None and job.anchored_to is not None:
        anchors = (f"{spec.name}_v{job.anchored_to}" for spec in job.specs)
        found = _newest(job, anchors, as_of)
        if found is None:
            raise ConfigError(
                f"version {job.version} of family {job.family} as of {as_of:%Y-%m-%d %H:%M}",
                found=f"no earlier snapshot of version {job.anchored_to}, which it is anchored to",
                expected="one whose space it shares",
                remedy=f"Produce version {job.anchored_to} as of an earlier time first.",
            )
    return found


def is_own(job: VersionJob, snapshot: Snapshot) -> bool:
    """Whether a snapshot is of the job's version, and not of what it is anchored to."""
    return snapshot.manifest.view in {spec.view_name for spec in job.specs}


def check_first(job: VersionJob, as_of: datetime) -> None:
    """Raise ConfigError where a model trained as of a time would not be its version's first.

    A refresh from before all others can't use their model, which knows what came after it, and
    one of its own would have a space of its own.
    """
    views = (find_snapshots(job.home.snapshots, spec.view_name) for spec in job.specs)
    later = [each.manifest.as_of for found in views for each in found]
    if any(each > as_of for each in later):
        raise ConfigError(
            f"version {job.version} of family {job.family} as of {as_of:%Y-%m-%d %H:%M}",
            found=f"refreshes from {min(later):%Y-%m-%d %H:%M} on, and none before it",
            expected="as-of times one after the other: a version's first refresh trains the model "
            "that makes its space",
            remedy="Declare another version and produce it from this time on.",
        )


def _newest(job: VersionJob, views: Iterable[str], as_of: datetime) -> Snapshot | None:
    found = (newest_before(job.home.snapshots, view, as_of) for view in views)
    return max(filter(None, found), key=lambda each: each.manifest.as_of, default=None)
