"""From a tower set to features: other views pulled through Feast, id tables grown, all opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.id_table import IdTable
from provender.plugin.repo import open_store
from provender.producers.upstream.declarations import FeatureDeclarations, TowerSources
from provender.producers.upstream.feature_reader import FeatureReader, declared_views
from provender.producers.upstream.pretrained_ids import Pretrained
from provender.producers.upstream.tower_embedding import microseconds
from provender.producers.upstream.tower_set import ALWAYS, ENTITIES, TowerSet
from provender.producers.upstream.view_vectors import ViewVectors, pull_views
from provender.producers.vectors import Vectors

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class OpenedInputs:
    """Features that are ready to be read, and the id tables whose rows they name."""

    reader: FeatureReader
    tables: Mapping[str, IdTable]


def open_inputs(
    rows: TowerSet,
    declared: TowerSources,
    tables: Mapping[str, IdTable] | None,
    repo: Path | None,
    scratch: Path,
    seed: int,
    *,
    start: Pretrained | None = None,
    grow: bool = True,
) -> OpenedInputs:
    """Open the features of a tower set.

    Args:
        declared: with its features filled in.
        tables: id tables of the last refresh, by entity; None makes new ones.
        repo: the Feast repo that other views are pulled through; None only where there are none.
        scratch: a folder for vectors of other views.
        seed: of rows of id tables that start from nothing.
        start: what new rows start from, where no view is declared for that.
        grow: whether keys that the tables lack get rows.

    Raises ConfigError for views that are not there or have no vectors yet, and for id tables whose
    length is not that of the view that their rows start from.
    """
    features = declared.features
    if features is None:
        raise ValueError("declared sources whose features are not filled in")
    keys: dict[str, pa.Array] = {each: rows.keys(each) for each in ENTITIES}
    names = {**declared_views(features), **id_views(features)}
    views: dict[str, ViewVectors] = {}
    if names:
        if repo is None:
            raise ValueError("no Feast repo for declared views")
        span = (_first(rows), rows.as_of)
        views = pull_views(
            open_store(repo), names, keys, *span, scratch, backfills=declared.backfills
        )
    known = _new_tables(features, views, keys, seed) if tables is None else tables
    if grow:
        known = {
            each: table.grown(
                keys[each],
                _of_view(features, views, keys[each], rows, each)
                or (start.vectors.get(each) if start else None),
                seed,
            )
            for each, table in known.items()
        }
    numbers = {each: table.rows_of(keys[each]).numpy() for each, table in known.items()}
    since = microseconds(start.as_of) if start else ALWAYS
    return OpenedInputs(FeatureReader.open(rows, declared, views, numbers, since), known)


def id_views(features: FeatureDeclarations) -> dict[str, str]:
    """The views that rows of id tables start from: name -> whose."""
    declared = {"user": features.user.ids, "pin": features.pin.ids}
    return {ids.view: each for each, ids in declared.items() if ids is not None and ids.view}


def _new_tables(
    features: FeatureDeclarations,
    views: Mapping[str, ViewVectors],
    keys: Mapping[str, pa.Array],
    seed: int,
) -> dict[str, IdTable]:
    found = {}
    for each, ids in (("user", features.user.ids), ("pin", features.pin.ids)):
        if ids is None:
            continue
        if ids.buckets is not None:
            found[each] = IdTable.hashed(ids.buckets, ids.dim, seed)
        else:
            dim = views[ids.view].dim if ids.view else ids.dim
            found[each] = IdTable.exact(keys[each].type, dim)
    return found


def _of_view(
    features: FeatureDeclarations,
    views: Mapping[str, ViewVectors],
    keys: pa.Array,
    rows: TowerSet,
    entity: str,
) -> Vectors | None:
    """The vectors that new rows start from: those of the declared view as of the cut."""
    ids = features.user.ids if entity == "user" else features.pin.ids
    if ids is None or ids.view is None:
        return None
    view = views[ids.view]
    all_of_them = np.arange(len(keys), dtype=np.int64)
    places = view.at(all_of_them, np.full(len(keys), microseconds(rows.as_of)))
    there = places >= 0
    return Vectors(keys.filter(pa.array(there)), view.vectors[places[there]])


def _first(rows: TowerSet) -> datetime:
    """A day before the first example, whose features may be those of the day's beginning."""
    column = pq.read_table(rows.examples, columns=["time"])["time"]
    first = pc.min(column).as_py()
    time = rows.as_of if first is None else _EPOCH + timedelta(microseconds=first)
    return time - timedelta(days=1)
