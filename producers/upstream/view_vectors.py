"""Embedding views of others as inputs: pulled through Feast once, looked up as of any time.

What is found is what Feast's point-in-time join gives (DESIGN.md, "Point in time"). The rows come
from Feast's offline store with both their times, for what is known when only backfills count can
not be told from a join's result, which lacks the created time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from numpy.typing import NDArray

from provender.plugin.embedding_view import embedding_specs, is_embedding_view, spec_of
from provender.plugin.errors import ConfigError
from provender.plugin.history import MISSING, History
from provender.plugin.instants import NO_INSTANT, duration, instant, to_nanoseconds
from provender.plugin.key_index import NO_RANK
from provender.plugin.snapshot_source import snapshot_folder, snapshots_at, source_path
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec
from provender.plugin.view_rows import key_numbers, rows_between, whole_vectors
from provender.producers.upstream.spool import Spool

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ViewVectors:
    """Vectors of one view by entity number and time.

    Attributes:
        spec: the view's declaration.
        history: which row holds when; ranks are entity numbers, times nanoseconds.
        places: int64 (r,), the vector of each row, -1 where the row has none.
        vectors: float32 (v, dim), mapped.
        ttl: nanoseconds for which a row holds; None is without limit.
    """

    spec: EmbeddingSpec
    history: History
    places: Ints
    vectors: NDArray[np.float32]
    ttl: int | None

    @property
    def dim(self) -> int:
        """The length of one vector."""
        return self.spec.dim

    def at(self, ids: Ints, times: Ints) -> Ints:
        """The rows in `vectors` of entities at times (microseconds): int64 (m,), -1 for none.

        A number of -1 is nobody's and has none.
        """
        found = self.history.find(ids, times * 1000, self.ttl)
        if not len(self.places):
            return found
        return np.where(found == MISSING, MISSING, self.places[np.maximum(found, 0)])


def pull_views(
    store: FeatureStore,
    names: Mapping[str, str],
    keys: Mapping[str, pa.Array],
    start: datetime,
    end: datetime,
    folder: Path,
    *,
    backfills: bool,
) -> dict[str, ViewVectors]:
    """The vectors that may hold between two times, by view.

    Args:
        store: where the views are registered.
        names: view -> entity whose it has to be.
        keys: entity -> its keys (int64 or string) by number, ascending.
        start: nothing is asked before it.
        end: the cut; a vector counts if its event time is not later.
        folder: where vectors take their space; nothing of it outlives them.
        backfills: whether a vector counts from its event time on, though it was created later.

    Raises:
        ConfigError: a view that is not registered, no embedding view, or another entity's; one
            without vectors by then.
        SnapshotError: a vector of another length than declared.
    """
    return {
        name: _pulled(
            store, _view(store, name, entity), keys[entity], (start, end), folder, backfills
        )
        for name, entity in names.items()
    }


def _view(store: FeatureStore, name: str, entity: str) -> FeatureView:
    known = sorted(name for name, spec in embedding_specs(store).items() if spec.entity == entity)
    expected = f"an embedding view of {entity}: {', '.join(known) or 'there is none'}"
    try:
        view = store.get_feature_view(name)
    except FeastObjectNotFoundException:
        found = "no such feature view"
    else:
        if is_embedding_view(view) and spec_of(view).entity == entity:
            return view
        found = "another feature view"
        if is_embedding_view(view):
            found = f"an embedding view of {spec_of(view).entity}"
    raise ConfigError(
        f"upstream.features, view {name}",
        found=found,
        expected=expected,
        remedy="Correct the name, or declare the view in embedding_views.py and `feast apply`.",
    )


def _pulled(
    store: FeatureStore,
    view: FeatureView,
    keys: pa.Array,
    span: tuple[datetime, datetime],
    folder: Path,
    backfills: bool,
) -> ViewVectors:
    spec, spool = spec_of(view), Spool("f4", folder)
    path = source_path(view.batch_source)
    if snapshot_folder(path) is not None and not snapshots_at(path):
        raise _nothing(spec, "no snapshot")
    start = span[0] - view.ttl if view.ttl else datetime(1970, 1, 1, tzinfo=span[0].tzinfo)
    parts: list[tuple[Ints, Ints, Ints, NDArray[np.bool_]]] = []
    rows = 0
    for batch in rows_between(store, view, start, span[1]):
        rows += batch.num_rows
        ids = key_numbers(_thing(spec), spec, batch[spec.join_key], keys)
        kept = np.flatnonzero(ids != NO_RANK)
        batch = batch.take(pa.array(kept))
        vectors, whole = whole_vectors(spec, batch[VECTOR_COLUMN])
        spool.append(vectors)
        source: Any = view.batch_source
        event, created = (
            to_nanoseconds(batch[name])
            for name in (source.timestamp_field, source.created_timestamp_column)
        )
        parts.append((ids[kept], event, created, whole))
    ids, event, created, whole = (np.concatenate(each) for each in zip(*parts, strict=True))
    _check_known(spec, rows, (event, created), span[1], backfills)
    history = History(ids, event, created, strict=not backfills)
    places = np.where(whole, np.cumsum(whole) - 1, MISSING)
    vectors = spool.mapped().reshape(-1, spec.dim)
    return ViewVectors(spec, history, places, vectors, duration(view.ttl))


def _check_known(
    spec: EmbeddingSpec, rows: int, times: tuple[Ints, Ints], end: datetime, backfills: bool
) -> None:
    """Refuse a view of which nothing can be used: it would be all missing, without a word."""
    event, created = times
    if not len(event):
        by = f"{end:%Y-%m-%d %H:%M}"
        raise _nothing(spec, f"no vector by {by}" if not rows else "only vectors of other keys")
    if not backfills and not ((created != NO_INSTANT) & (created <= instant(end))).any():
        raise _nothing(spec, "only vectors that were computed later, and `backfills: false`")


def _nothing(spec: EmbeddingSpec, found: str) -> ConfigError:
    return ConfigError(
        _thing(spec),
        found=found,
        expected=f"vectors of {spec.entity}, computed as of the refresh's time or before",
        remedy="Produce it first, as of a date that is not later, or leave the view out.",
    )


def _thing(spec: EmbeddingSpec) -> str:
    return f"upstream.features, view {spec.view_name}"
