"""Which snapshots stand behind a feature view's glob, opened as one history."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from provender.plugin.manifest import RunRecord
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.snapshot_history import SnapshotHistory
from provender.plugin.spec import EmbeddingSpec


def snapshot_folder(path: str) -> Path | None:
    """Return a view's folder of snapshots, or None for a file or glob of the user's own."""
    pattern = Path(path)
    is_ours = pattern.name == "part-*.parquet" and pattern.parent.name == "*"
    return pattern.parent.parent if is_ours and "://" not in path else None


def source_path(source: object) -> str:
    """Return the path of a Feast source, empty where it has none."""
    return str(getattr(source, "path", None) or "")


def snapshots_at(path: str) -> list[Snapshot]:
    """Return a view's snapshots and supplements, ascending by as-of time: all that joins read.

    There are none of a file or glob of the user's.
    """
    folder = snapshot_folder(path)
    return find_snapshots(folder.parent, folder.name, supplements=True) if folder else []


def runs_within(source: object, start: datetime, end: datetime) -> list[RunRecord]:
    """Return the runs of the snapshots behind a source with as-of times of a span, ends included.

    They ascend by as-of time; there are none behind files without manifests.
    """
    records = [snapshot.manifest.record for snapshot in snapshots_at(source_path(source))]
    return [run for run in records if _aware(start) <= run.as_of <= _aware(end)]


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def history_of(spec: EmbeddingSpec, path: str) -> SnapshotHistory | None:
    """Open an embedding view's snapshots; None where its files can't be mapped.

    That is so of files without manifests, and of snapshots from before manifests told where the
    vectors lie: both are read as any Parquet is.
    """
    snapshots = snapshots_at(path)
    if not snapshots or not all(map(is_mappable, snapshots)):
        return None
    return SnapshotHistory(snapshots, spec.dim)


def is_mappable(snapshot: Snapshot) -> bool:
    """Return whether a snapshot's manifest says where all of its vectors lie."""
    files = snapshot.manifest.files
    return all(sum(page.rows for page in file.pages) == file.rows for file in files)
