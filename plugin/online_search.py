"""The best rows of a view: nearest to a vector, by keywords, or both, with filters."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from feast.field import Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, String

from provender.plugin.errors import FetchError
from provender.plugin.nearest import nearest
from provender.plugin.online_database import Cursor
from provender.plugin.online_keys import Keys
from provender.plugin.online_rows import EPOCH, MICROSECOND, Column
from provender.plugin.online_view import OnlineView
from provender.plugin.row_filters import Filter, filtered_features, passed
from provender.plugin.text_search import text_ranks, words_of

#: Rows that are scored at once.
SCAN_ROWS = 8_192


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        names: the features, or join keys, to answer with.
        vector: the query vector, None for none.
        k: how many rows.
        metric: of the distances; None for the field's own, else cosine.
        text: the query text, None for none.
        filters: which rows count.
    """

    names: Sequence[str]
    vector: Sequence[float] | None
    k: int
    metric: str | None = None
    text: str | None = None
    filters: Filter | None = None


@dataclass(frozen=True)
class Hit:
    """One of the best rows.

    Attributes:
        time: its event time.
        entity: its key.
        values: what was asked for, the "distance" or "text_rank", and with a query vector the
            view's vector.
        vector: the name of the vector feature; empty without a query vector.
    """

    time: datetime
    entity: EntityKey
    values: dict[str, Value]
    vector: str


def search_rows(online: OnlineView, search: Search) -> list[Hit]:
    """The best rows, the best first, all from one state of the table.

    Raises FetchError: a request that can't be answered.
    """
    if search.vector is None and search.text is None:
        raise _refused(online, "neither an embedding nor a query_string", "one of them")
    field = None if search.vector is None else _vector_field(online)
    _check_names(online, search)

    def run(cursor: Cursor) -> list[Hit]:
        with online.database.snapshot(cursor):
            best = _best(online, cursor, search, field)
            return _hits(online, cursor, search, "" if field is None else field.name, best)

    return online.database.read(online.thing, run)


def _best(
    online: OnlineView, cursor: Cursor, search: Search, field: Field | None
) -> list[tuple[Any, dict[str, float]]]:
    """Keys and scores: by rank of text, then by distance."""
    scores: dict[Any, dict[str, float]] = {}
    if search.text is not None:
        for rank, key in _by_text(online, cursor, search):
            scores.setdefault(key, {})["text_rank"] = rank
    if field is not None:
        for key, far in _by_distance(online, cursor, search, field, search.k, None):
            scores.setdefault(key, {})["distance"] = far
        lacking = {key for key, each in scores.items() if "distance" not in each}
        for key, far in _by_distance(online, cursor, search, field, len(lacking), lacking):
            scores[key]["distance"] = far
    if search.text is not None:
        for each in scores.values():
            each.setdefault("text_rank", 0.0)
    ranked = sorted(
        scores.items(),
        key=lambda pair: (-pair[1].get("text_rank", 0.0), pair[1].get("distance", np.inf), pair[0]),
    )
    return ranked[: search.k]


def _by_text(online: OnlineView, cursor: Cursor, search: Search) -> list[tuple[float, Any]]:
    """The best ranks and keys of rows that hold all words."""
    texts = [each.name for each in online.feature_view.features if each.dtype == String]
    texts = [name for name in texts if name in search.names]
    if not texts:
        raise _refused(online, "a query_string and no string feature", "string features with it")
    query = frozenset(words_of(search.text or ""))
    best: list[tuple[float, Any]] = []
    for keys, columns in _scanned(online, cursor, search, texts):
        ranks = text_ranks(query, [columns[name].values for name in texts], len(keys))
        found = [(float(ranks[row]), keys[row]) for row in np.flatnonzero(ranks)]
        best = heapq.nsmallest(search.k, best + found, key=lambda pair: (-pair[0], pair[1]))
    return best


def _by_distance(
    online: OnlineView,
    cursor: Cursor,
    search: Search,
    field: Field,
    k: int,
    only: set[Any] | None,
) -> list[tuple[Any, float]]:
    """Keys and distances of the k nearest rows, of these keys only if there are any given."""
    if only is not None and not only:
        return []
    metric = search.metric or field.vector_search_metric or "cosine"

    def vectors() -> Iterator[tuple[Any, Any]]:
        for keys, columns in _scanned(online, cursor, search, [field.name]):
            column = columns[field.name]
            rows = np.flatnonzero(column.valid)
            if only is not None:
                rows = rows[[keys[row] in only for row in rows]]
            if len(rows):
                yield _objects(keys)[rows], _stacked(online, column.values[rows])

    found = nearest(np.asarray(search.vector, dtype=np.float64), vectors(), k, metric)
    return list(zip(found.keys, found.distances.tolist(), strict=True))


def _scanned(
    online: OnlineView, cursor: Cursor, search: Search, names: Sequence[str]
) -> Iterator[tuple[list[Any], dict[str, Column]]]:
    """Keys and columns of the rows that pass the filters, a chunk at a time."""
    wanted = list({*names, *filtered_features(search.filters)})
    for keys, found in online.scan_by(cursor, SCAN_ROWS):
        columns = online.columns(found, wanted)
        listed = keys if isinstance(keys, list) else keys.tolist()
        if search.filters is not None:
            kept = passed(search.filters, columns, len(listed))
            listed = [key for key, keep in zip(listed, kept, strict=True) if keep]
            columns = {n: Column(c.values[kept], c.valid[kept]) for n, c in columns.items()}
        yield listed, columns


def _hits(
    online: OnlineView,
    cursor: Cursor,
    search: Search,
    vector: str,
    best: Sequence[tuple[Any, dict[str, float]]],
) -> list[Hit]:
    if not best:
        return []
    listed = [key for key, _ in best]
    keys: Keys = np.array(listed, dtype=np.int64) if online.table.integer else listed
    _, found = online.find_by(cursor, keys)
    known = {slot.name for slot in online.layout.slots}
    names = [name for name in dict.fromkeys([*search.names, vector]) if name in known]
    hits = []
    rows = zip(
        found.event_us.tolist(),
        online.keys.to_protos(keys),
        online.protos(found, names),
        best,
        strict=True,
    )
    for time, entity, values, (_, scores) in rows:
        joined = zip(entity.join_keys, entity.entity_values, strict=True)
        values |= {name: value for name, value in joined if name in search.names}
        values |= {name: Value(float_val=score) for name, score in scores.items()}
        hits.append(Hit(EPOCH + time * MICROSECOND, entity, values, vector))
    return hits


def _check_names(online: OnlineView, search: Search) -> None:
    known = [slot.name for slot in online.layout.slots]
    strange = {*search.names} - {*known, *online.keys.types}
    strange |= filtered_features(search.filters) - {*known}
    if strange:
        found = f"the features {', '.join(sorted(strange))}"
        raise _refused(online, found, f"of {', '.join(known)}")


def _stacked(online: OnlineView, vectors: Any) -> Any:
    if vectors.dtype != object:
        return vectors
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise _refused(online, f"vectors of the lengths {sorted(lengths)}", "one length")
    return np.stack(vectors).astype(np.float32)


def _objects(keys: Sequence[Any]) -> Any:
    made = np.empty(len(keys), dtype=object)
    made[:] = keys
    return made


def _vector_field(online: OnlineView) -> Field:
    """The view's vector: the indexed one, else its only list of floats."""
    fields = list(online.feature_view.features)
    indexed = [each for each in fields if each.vector_index]
    vectors = indexed or [each for each in fields if each.dtype == Array(Float32)]
    if len(vectors) != 1:
        raise _refused(online, f"{len(vectors)} vector features", "one, with vector_index=True")
    return vectors[0]


def _refused(online: OnlineView, found: str, expected: str) -> FetchError:
    return FetchError(online.thing, found=found, expected=expected, remedy="Correct the request.")
