"""Vectors of one embedding view by key and time, for many small questions.

    lookup = open_lookup(store, "pin_transra_v1", keys, backfills=False)
    positions = lookup.find(numbers, times)            # places in `keys`, nanoseconds
    vectors = lookup.take(positions[positions != MISSING])

What is found is what Feast's point-in-time join gives (DESIGN.md, "Point in time"). Snapshots are
read where they lie, mapped; views of other files are pulled once through Feast's offline store.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException

from provender.plugin.embedding_view import embedding_specs, is_embedding_view, spec_of
from provender.plugin.errors import ConfigError
from provender.plugin.history import MISSING, History, Positions
from provender.plugin.instants import Instants, duration, to_nanoseconds
from provender.plugin.key_index import NO_RANK
from provender.plugin.mapped_vectors import Vectors
from provender.plugin.snapshot import Snapshot
from provender.plugin.snapshot_history import NumberedKeys, SnapshotHistory
from provender.plugin.snapshot_source import is_mappable, snapshots_at, source_path
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec
from provender.plugin.view_rows import key_numbers, rows_between, whole_vectors

#: Between these times a pulled view's rows are asked for: Feast wants two.
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


class ViewLookup(Protocol):
    """Finds vectors of one view; may be pickled, and shared by threads."""

    @property
    def spec(self) -> EmbeddingSpec:
        """The view's declaration."""

    def find(self, numbers: Positions, times: Instants) -> Positions:
        """Return the position of the vector that holds for each key at its time, or MISSING.

        Args:
            numbers: int64 (m,), places in the keys that the lookup was opened with; -1 is none.
            times: int64 (m,), nanoseconds since 1970 in UTC.
        """

    def take(self, positions: Positions) -> Vectors:
        """Return the vectors at positions, none of which is MISSING: (m, dim) float32."""

    def event(self, positions: Positions) -> Instants:
        """Return the event times of positions, none MISSING: int64 (m,), nanoseconds."""


def open_lookup(
    store: FeatureStore, view: str, keys: pa.Array, *, backfills: bool = False
) -> ViewLookup:
    """Open a registered embedding view for the keys that will be asked for.

    Args:
        store: where it is registered.
        view: its name, with its version.
        keys: int64 or string, each once; integers ascend.
        backfills: whether a vector counts from its event time on though it was created later.

    Raises:
        ConfigError: no such embedding view, or its keys are of another type.
        SnapshotError: a vector of another length than declared, or a damaged snapshot.
    """
    registered = _view(store, view)
    spec, path = spec_of(registered), source_path(registered.batch_source)
    snapshots = tuple(snapshots_at(path))
    if not snapshots or not all(map(is_mappable, snapshots)):
        return _pulled(store, registered, keys, strict=not backfills)
    lookup = SnapshotLookup(spec, snapshots, keys, strict=not backfills)
    lookup.check_type()
    return lookup


@dataclass(frozen=True, eq=False)
class SnapshotLookup:
    """As :class:`ViewLookup`, over mapped snapshots: those that there were when it was opened."""

    spec: EmbeddingSpec
    snapshots: tuple[Snapshot, ...]
    keys: pa.Array
    strict: bool

    def find(self, numbers: Positions, times: Instants) -> Positions:
        """As :class:`ViewLookup`."""
        ttl = duration(self.spec.ttl)
        return self._numbered.find(numbers, times, ttl, strict=self.strict)

    def take(self, positions: Positions) -> Vectors:
        """As :class:`ViewLookup`."""
        return self._history.vectors.take(positions, again=True)

    def event(self, positions: Positions) -> Instants:
        """As :class:`ViewLookup`."""
        return self._history.event(positions)

    def check_type(self) -> None:
        """Refuse, with ConfigError, keys of another type than the snapshots have."""
        kind = self._history.key_type
        if len(self.keys) and not pa.types.is_null(kind) and kind != self.keys.type:
            raise ConfigError(
                _thing(self.spec),
                found=f"keys of type {kind}",
                expected=f"{self.keys.type}, as the world declares those of {self.spec.entity}",
                remedy="Correct the entity's type in the world, or in the feature repo.",
            )

    @cached_property
    def _history(self) -> SnapshotHistory:
        return SnapshotHistory(self.snapshots, self.spec.dim)

    @cached_property
    def _numbered(self) -> NumberedKeys:
        return self._history.among(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        """What is mapped is mapped again by another process."""
        return {name: self.__dict__[name] for name in ("spec", "snapshots", "keys", "strict")}


@dataclass(frozen=True, eq=False)
class PulledLookup:
    """As :class:`ViewLookup`, over rows in memory.

    Attributes:
        history: which row holds when; ranks are places in the keys.
        places: int64 (r,), the vector of each row, -1 where it is null or not finite.
        vectors: float32 (v, dim); events: int64 (v,), their event times.
    """

    spec: EmbeddingSpec
    history: History
    places: Positions
    vectors: npt.NDArray[np.float32]
    events: Instants

    def find(self, numbers: Positions, times: Instants) -> Positions:
        """As :class:`ViewLookup`."""
        found = self.history.find(numbers, times, duration(self.spec.ttl))
        if not len(self.places):
            return found
        return np.where(found == MISSING, MISSING, self.places[np.maximum(found, 0)])

    def take(self, positions: Positions) -> Vectors:
        """As :class:`ViewLookup`."""
        return self.vectors[positions]

    def event(self, positions: Positions) -> Instants:
        """As :class:`ViewLookup`."""
        return self.events[positions]


def _pulled(
    store: FeatureStore, view: FeatureView, keys: pa.Array, *, strict: bool
) -> PulledLookup:
    """Pull all rows of the keys; those of others are let go batch by batch."""
    spec, source = spec_of(view), view.batch_source
    names = [
        getattr(source, "timestamp_field", ""),
        getattr(source, "created_timestamp_column", ""),
    ]
    parts: list[tuple[Positions, Instants, Instants, npt.NDArray[np.bool_], Vectors]] = []
    for batch in rows_between(store, view, *_ALWAYS):
        ids = key_numbers(_thing(spec), spec, batch[spec.join_key], keys)
        kept = np.flatnonzero(ids != NO_RANK)
        batch = batch.take(pa.array(kept))
        vectors, whole = whole_vectors(spec, batch[VECTOR_COLUMN])
        event, created = (to_nanoseconds(batch[name]) for name in names)
        parts.append((ids[kept], event, created, whole, vectors))
    ids, event, created, whole, vectors = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    history = History(ids, event, created, strict=strict)
    places = np.where(whole, np.cumsum(whole) - 1, MISSING)
    return PulledLookup(spec, history, places, vectors, event[whole])


def _view(store: FeatureStore, name: str) -> FeatureView:
    try:
        view = store.get_feature_view(name)
    except FeastObjectNotFoundException:
        found = "no such feature view"
    else:
        if is_embedding_view(view):
            return view
        found = "another feature view"
    raise ConfigError(
        f"embedding view {name}",
        found=found,
        expected=f"one of {', '.join(sorted(embedding_specs(store))) or '(there is none)'}",
        remedy="Correct the name, or declare the view in embedding_views.py and `feast apply`.",
    )


def _thing(spec: EmbeddingSpec) -> str:
    return f"embedding view {spec.view_name}"
