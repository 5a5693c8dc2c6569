"""Supplements of crawled pages: snapshots of the page view beside a refresh, a batch each.

What a supplement's vectors were made from stays in ``<home>/runs/<run id>/crawled.parquet``, so
that a page is known again, and is embedded again where a refresh with another model follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import ConfigError
from provender.plugin.files import from_stamp, stamp, whole_folder
from provender.plugin.manifest import MANIFEST_NAME, Manifest, RunInfo
from provender.plugin.snapshot import Snapshot, content_checksum, find_snapshot, write_snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.linksage.crawled_pages import ORDER
from provender.producers.linksage.fresh_pages import SHOWN, FreshPages
from provender.producers.linksage.page_job import PRODUCER, PageJob
from provender.producers.vectors import Vectors

CRAWLED = "crawled.parquet"
_SUPPLEMENT = "-supplement"


def page_view(job: PageJob) -> EmbeddingSpec:
    """The view of pages of a job; raises ConfigError where it has none, or several."""
    found = [spec for spec in job.specs if spec.entity == "page"]
    if len(found) != 1:
        raise ConfigError(
            f"version {job.version} of family {job.family}",
            found=f"{len(found)} views of pages",
            expected="one, whose vectors are to be renewed",
            remedy="Declare it in embedding_views.py, or choose another version.",
        )
    return found[0]


def newest_refresh(job: PageJob) -> Manifest:
    """The manifest of the newest refresh that has written all views of a job.

    Raises ConfigError where there is none.
    """
    root, spec = job.home.snapshots, page_view(job)
    for as_of in sorted(refresh_times(job), reverse=True):
        first = find_snapshot(root, spec.view_name, as_of)
        found = [find_snapshot(root, each.view_name, as_of) for each in job.specs]
        if first and all(s and s.manifest.run_id == first.manifest.run_id for s in found):
            return first.manifest
    raise ConfigError(
        f"version {job.version} of family {job.family}",
        found="no refresh with all its views",
        expected="a model to embed pages with",
        remedy=f"Run `provender refresh {job.family}` first.",
    )


def refresh_times(job: PageJob) -> list[datetime]:
    """The as-of times of the page view's refreshes, without a look into any."""
    names = _snapshot_names(job)
    return [from_stamp(name) for name in names if not name.endswith(_SUPPLEMENT)]


def _snapshot_names(job: PageJob) -> list[str]:
    folder = job.home.snapshots / page_view(job).view_name
    found = folder.iterdir() if folder.is_dir() else ()
    return [each.name for each in found if each.name[:8].isdigit()]


def write_supplement(fresh: FreshPages, as_of: datetime, rows: pa.Table, of: Vectors) -> Snapshot:
    """Write the vectors of rows as a supplement of the refresh, and beside it the rows.

    The rows are written first: a supplement always has them.
    """
    job, base = fresh.job, fresh.base
    told = f"{job.config_hash} {base.run_id} {content_checksum(of.keys, of.vectors)}"
    told += " ".join(map(str, (*rows[SHOWN].to_pylist(), *rows[ORDER].to_pylist())))
    run = RunInfo(
        run_id=f"{PRODUCER}-{stamp(as_of)}-{hashlib.sha256(told.encode()).hexdigest()[:10]}",
        producer=PRODUCER,
        config_hash=job.config_hash,
        window_start=base.window_end,
        window_end=as_of,
        metrics={"pages/streamed": float(len(rows))},
        parent=base.run_id,
        supplement_of=base.run_id,
    )
    place = job.home.runs / run.run_id
    with suppress(FileExistsError), whole_folder(job.home.runs, place) as staged:
        pq.write_table(rows, staged / CRAWLED)
    return write_snapshot(job.home.snapshots, page_view(job), as_of, of.keys, of.vectors, run)


@dataclass(frozen=True)
class Told:
    """What was told of a page last: what it showed, the ORDER of that, and by which supplement."""

    shown: str
    order: int
    snapshot: Snapshot


class Supplements:
    """The supplements since a refresh, and what they tell of pages.

    Each one is read once; all processes that stream see the same ones.
    """

    def __init__(self, fresh: FreshPages) -> None:
        self._fresh = fresh
        self._job = fresh.job
        self._seen: set[str] = set()
        self._told: dict[Any, Told] = {}
        self.newest = fresh.base.as_of

    def update(self) -> list[Snapshot]:
        """Read those that are new, ascending by as-of time, and return those of the refresh."""
        root, view = self._job.home.snapshots, page_view(self._job).view_name
        since = stamp(self._fresh.base.as_of)
        names = {n for n in _snapshot_names(self._job) if n.endswith(_SUPPLEMENT) and n > since}
        found = []
        for name in sorted(names - self._seen):
            if not (root / view / name / MANIFEST_NAME).is_file():
                continue
            snapshot = Snapshot(root / view / name, Manifest.read(root / view / name))
            self._seen.add(name)
            found.append(snapshot)
            self.note(snapshot, self._rows(snapshot))
        return [each for each in found if self._is_own(each)]

    def note(self, snapshot: Snapshot, rows: pa.Table) -> None:
        """Take notice of a supplement of some rows."""
        self._seen.add(snapshot.path.name)
        self.newest = max(self.newest, snapshot.manifest.as_of)
        columns = (rows[name].to_pylist() for name in ("key", SHOWN, ORDER))
        for key, shown, order in zip(*columns, strict=True):
            self._told[key] = Told(shown, order, snapshot)

    def judge(self, rows: pa.Table) -> list[str]:
        """What each row that was read is: `changed`, `unchanged`, or `older` than what was told."""
        seen = self._fresh.known(rows["key"])
        columns = (rows[name].to_pylist() for name in ("key", SHOWN, ORDER))
        verdicts = []
        for known, key, shown, order in zip(seen, *columns, strict=True):
            told = self._told.get(key)
            if shown == (told.shown if told else known):
                verdicts.append("unchanged")
            else:
                verdicts.append("older" if told and order < told.order else "changed")
        return verdicts

    def foreign(self) -> pa.Table | None:
        """Rows of pages that were told last by a supplement of another refresh; None without any.

        This refresh's model may be another one, so they are to be told again.
        """
        keys = {key: told.snapshot for key, told in self._told.items() if not self._is_own(told)}
        parts = []
        for snapshot in {each.path: each for each in keys.values()}.values():
            mine = [key for key, of in keys.items() if of.path == snapshot.path]
            rows = self._rows(snapshot)
            chosen = pc.is_in(rows["key"], value_set=pa.array(mine, rows["key"].type))
            parts.append(rows.filter(chosen))
        if not parts:
            return None
        return self._fresh.again(pa.concat_tables(parts, promote_options="default"))

    def _is_own(self, one: Snapshot | Told) -> bool:
        snapshot = one.snapshot if isinstance(one, Told) else one
        return snapshot.manifest.supplement_of == self._fresh.base.run_id

    def _rows(self, snapshot: Snapshot) -> pa.Table:
        """What a supplement was made from; nothing where it has not kept it."""
        file = self._job.home.runs / snapshot.manifest.run_id / CRAWLED
        if not file.is_file():
            return self._fresh.nothing
        return pq.read_table(file)


def next_second(time: datetime) -> datetime:
    """The first full second after a time: what is known at the time is known before it."""
    return datetime.fromtimestamp(int(time.timestamp()) + 1, UTC)


def taken(rows: pa.Table, verdicts: Iterable[str], wanted: str) -> pa.Table:
    """The rows of one verdict."""
    return rows.filter(pa.array([each == wanted for each in verdicts], pa.bool_()))
