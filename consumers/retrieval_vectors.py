"""All vectors of a view at one moment: from its snapshots, its online table or the hot copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from pydantic import BaseModel, ConfigDict

from provender.plugin.embedding_view import spec_of
from provender.plugin.errors import FetchError, SnapshotError
from provender.plugin.hot_snapshot import HotChunk, open_hot, withdraw
from provender.plugin.online_hot import hot_folder
from provender.plugin.online_rows import microseconds_of, usable
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.online_tables import OnlineTable
from provender.plugin.snapshot import Snapshot, content_checksum
from provender.plugin.snapshot_source import snapshots_at, source_path
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Key = int | str

#: Beside snapshots, and beside hot copies: what is derived from them. No view has such a name.
INDEXES = ".indexes"


class VectorStamp(BaseModel):
    """Which vectors they are: what an index has to have been built from to answer for them.

    Attributes:
        runs: the runs whose vectors may be among them, ascending by as-of time; none where that
            is not known.
        checksum: SHA-256 over keys and vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    view: str
    version: int
    space: str
    dim: int
    rows: int
    runs: tuple[str, ...]
    checksum: str


@dataclass(frozen=True)
class ViewVectors:
    """Every entity's vector of one view, as of one moment.

    Attributes:
        spec: the view's declaration.
        keys: (n,) int64 or strings, ascending, each once.
        vectors: (n, dim) float32.
        event_us: (n,) int64, the as-of time of each, in microseconds since 1970 in UTC.
        runs: as in :class:`VectorStamp`.
        place: the folder for what is derived from them; None where they lie in no file.
    """

    spec: EmbeddingSpec
    keys: pa.Array
    vectors: Vectors
    event_us: Ints
    runs: tuple[str, ...] = ()
    place: Path | None = None

    @cached_property
    def stamp(self) -> VectorStamp:
        """Which vectors they are; takes a pass over all of them, once."""
        spec = self.spec
        return VectorStamp(
            view=spec.view_name,
            version=spec.version,
            space=spec.space,
            dim=spec.dim,
            rows=len(self.keys),
            runs=self.runs,
            checksum=content_checksum(self.keys, self.vectors),
        )

    def places(self, keys: pa.Array) -> Ints:
        """Return where each key stands, (m,) int64; -1 for one that is not there.

        Raises FetchError: keys of another type than the view's, or null.
        """
        if keys.null_count:
            raise self._refused("a null key")
        if not len(keys):
            return np.empty(0, np.int64)
        try:
            wanted = keys.cast(self.keys.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise self._refused(f"keys such as {keys[0].as_py()!r}") from None
        if pa.types.is_integer(self.keys.type) != pa.types.is_integer(keys.type):
            raise self._refused(f"keys such as {keys[0].as_py()!r}")
        found = pc.fill_null(pc.index_in(wanted, value_set=self.keys), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def _refused(self, found: str) -> FetchError:
        return FetchError(
            f"keys of {self.spec.view_name}",
            found=found,
            expected=f"{self.spec.join_key} of type {self.keys.type}",
            remedy="Give the keys as they stand in the events.",
        )


def keys_of(keys: Sequence[Key] | pa.Array, name: str) -> pa.Array:
    """Return keys, whole numbers or strings, as an Arrow array; raises FetchError for others."""
    try:
        made = keys if isinstance(keys, pa.Array) else pa.array(keys)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        made = pa.nulls(0)
    known = pa.types.is_integer(made.type) or pa.types.is_string(made.type)
    if not known and len(keys):
        raise FetchError(
            f"keys {name}",
            found=f"keys such as {keys[0]!r}",
            expected="whole numbers, or strings",
            remedy="Give the keys as they stand in the events.",
        )
    return made if known else pa.array([], pa.int64())


def vectors_at(view: FeatureView, time: datetime, *, backfills: bool = False) -> ViewVectors:
    """Return what a point-in-time join would find at a time, of every entity of a view.

    Each entity's newest vector that is not from after `time`, nor older than the view's ttl.

    Args:
        view: a registered embedding view over snapshots.
        time: with its zone.
        backfills: take snapshots that were written after `time` too.

    Raises:
        FetchError: a time without a zone.
        SnapshotError: no snapshot is in force at that time, or one is damaged.
    """
    if time.tzinfo is None:
        raise FetchError(
            "time of retrieval", found=str(time), expected="a time with its zone", remedy="Add it."
        )
    spec = spec_of(view)
    known = snapshots_at(source_path(view.batch_source))
    within = [each for each in known if time - spec.ttl <= each.manifest.as_of <= time]
    written = [each for each in within if backfills or each.manifest.created_at <= time]
    if not written:
        raise _nothing_in_force(spec, time, known, within)
    keys, vectors, events = _newest(written)
    return ViewVectors(
        spec=spec,
        keys=keys,
        vectors=vectors,
        event_us=events,
        runs=tuple(each.manifest.run_id for each in written),
        place=written[-1].path.parent.parent / INDEXES,
    )


def _newest(snapshots: Sequence[Snapshot]) -> tuple[pa.Array, Vectors, Ints]:
    """Each key once, ascending, with its newest vector; the snapshots ascend by time."""
    parts: list[tuple[pa.Array, Vectors, Ints]] = []
    for snapshot in reversed(snapshots):
        keys, vectors = snapshot.read()
        event = np.full(len(keys), microseconds_of(snapshot.manifest.as_of), np.int64)
        for newer, _, _ in parts:
            fresh = pc.invert(pc.is_in(keys, value_set=newer))
            rows = fresh.to_numpy(zero_copy_only=False)
            if not rows.all():
                keys, vectors, event = keys.filter(fresh), vectors[rows], event[rows]
        parts.append((keys, vectors, event))
    return _ascending(parts)


def _ascending(parts: Sequence[tuple[pa.Array, Vectors, Ints]]) -> tuple[pa.Array, Vectors, Ints]:
    if len(parts) == 1:
        return parts[0]
    keys = pa.concat_arrays([part[0] for part in parts])
    vectors = np.concatenate([part[1] for part in parts])
    events = np.concatenate([part[2] for part in parts])
    order = pc.sort_indices(keys)
    rows = order.to_numpy()
    return keys.take(order), vectors[rows], events[rows]


def _nothing_in_force(
    spec: EmbeddingSpec, time: datetime, known: Sequence[Snapshot], within: Sequence[Snapshot]
) -> SnapshotError:
    told = ", ".join(f"{each.manifest.as_of:%Y-%m-%d %H:%M}" for each in known[-3:])
    found = f"as of {told or '(there is none)'}"
    if within:
        found += f", written only after {time:%Y-%m-%d %H:%M}"
    days = spec.ttl.total_seconds() / 86_400
    return SnapshotError(
        f"snapshots of {spec.view_name}",
        found=found,
        expected=f"one in force at {time:%Y-%m-%d %H:%M} UTC, of the {days:g} days before it",
        remedy="Let what was written later count (--backfills)."
        if within
        else "Ask for another time, or run the producer as of one before it.",
    )


def online_vectors(
    online: ProvenderOnlineStore, config: RepoConfig, view: FeatureView, now: datetime
) -> ViewVectors:
    """Return all vectors of an online table that may be used at `now`; of one state of the table.

    Raises OnlineStoreError where the table can't be read.
    """
    spec, table = spec_of(view), OnlineTable.of(config, view).name
    # The runs first: a load in between leaves an older note beside newer vectors, and the
    # checksum tells those apart; never a newer note beside older ones.
    record = online.records(config).get(table)
    hot = hot_folder(config, table)
    chunks = _copied(hot) if hot else None
    keys, vectors, events = _usable(
        spec, _scanned(online, config, view) if chunks is None else chunks, now
    )
    runs = [run for run in (record.runs if record else ()) if now - spec.ttl <= run.as_of <= now]
    return ViewVectors(
        spec=spec,
        keys=keys,
        vectors=vectors,
        event_us=events,
        runs=tuple(run.run_id for run in runs),
        place=None if hot is None else hot / INDEXES,
    )


def _copied(folder: Path) -> list[HotChunk] | None:
    """What the hot copy holds; None where there is none that is whole."""
    try:
        snapshot = open_hot(folder)
        return None if snapshot is None else list(snapshot.chunks())
    except SnapshotError:  # It is a copy: the table has the same rows.
        withdraw(folder)
        return None


def _scanned(
    online: ProvenderOnlineStore, config: RepoConfig, view: FeatureView
) -> Iterator[HotChunk]:
    join_key = spec_of(view).join_key
    for rows in online.scan(config, view):
        column = rows.columns[VECTOR_COLUMN]
        keys = (rows.keys or {})[join_key]
        yield HotChunk(keys[column.valid], rows.event_us[column.valid], column.values[column.valid])


def _usable(
    spec: EmbeddingSpec, chunks: Iterable[HotChunk], now: datetime
) -> tuple[pa.Array, Vectors, Ints]:
    keys: list[pa.Array] = []
    vectors: list[Vectors] = [np.empty((0, spec.dim), np.float32)]
    events: list[Ints] = [np.empty(0, np.int64)]
    for chunk in chunks:
        kept = usable(microseconds_of(now) - chunk.event_us, spec.ttl)
        held = pa.array(chunk.keys)
        held = held if pa.types.is_integer(held.type) else held.cast(pa.string())
        keys.append(held.filter(pa.array(kept)))
        vectors.append(chunk.vectors[kept])
        events.append(chunk.event_us[kept])
    joined = pa.concat_arrays(keys) if keys else pa.array([], pa.int64())
    return joined, np.concatenate(vectors), np.concatenate(events)
