"""A view's vectors as something to search: as a whole or by an index, all of them or only some.

Exact answers are those of a search in float64, equals ordered by key. An index finds a part of
them at a time, and what it finds is measured in float64 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from provender.consumers.approximate_index import ApproximateIndex
from provender.consumers.exact_search import NONE, ExactSearch, Found
from provender.consumers.retrieval_vectors import Key, Vectors, ViewVectors, keys_of
from provender.plugin.errors import VersionError
from provender.plugin.nearest import Metric, distances

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Below this share of the pins that may be answered, all of them are searched exactly: a graph
#: that is mostly forbidden leads nowhere.
_FEW = 0.05


class PinSearch:
    """Pins to be searched, all of them or only some.

    Args:
        pins: their vectors.
        metric: how they are compared.
        only: keys of the pins that count, such as the live ones; unknown keys are passed over.
        index: searches in the place of an exact search; it must have been built from `pins`.

    Raises VersionError: an index of other vectors.
    """

    def __init__(
        self,
        pins: ViewVectors,
        metric: Metric,
        *,
        only: Sequence[Key] | pa.Array | None = None,
        index: ApproximateIndex | None = None,
    ) -> None:
        if index is not None and (index.card.stamp != pins.stamp or index.card.metric != metric):
            raise VersionError(
                f"index over {index.card.stamp.view}",
                found=f"runs {', '.join(index.card.stamp.runs)}, {index.card.metric}",
                expected=f"{pins.spec.view_name} of runs {', '.join(pins.runs)}, {metric}",
                remedy="Build it from the vectors that it is to answer for: open_index().",
            )
        self.pins, self.metric, self._index = pins, metric, index
        self._allowed: Bools | None = None
        if only is not None:
            found = pins.places(keys_of(only, "of the pins that count"))
            self._allowed = np.zeros(len(pins.keys), np.bool_)
            self._allowed[found[found >= 0]] = True

    def search(self, queries: npt.ArrayLike, k: int, seen: Sequence[Ints] | None = None) -> Found:
        """Return the k nearest pins of each query as places in `pins`.

        Args:
            queries: (q, dim) finite floats.
            seen: for each query the places that are not to be answered.
        """
        hidden = [np.unique(each) for each in seen] if seen else []
        most = max(map(len, hidden), default=0)
        found = self._nearest(np.asarray(queries, np.float64), k, k + most)
        return _without(found, hidden, k) if most else found

    def exactly(self, queries: npt.ArrayLike, k: int) -> Found:
        """Return the same without an index."""
        found = self._exact.search(queries, k)
        rows = np.where(found.rows >= 0, self._places[found.rows], NONE)
        return Found(rows, found.distances)

    def _nearest(self, queries: npt.NDArray[np.float64], k: int, more: int) -> Found:
        count = len(self._places)
        if self._index is None or count <= max(2 * more, _FEW * len(self.pins.keys)):
            return self.exactly(queries, more)
        rows = self._index.search(queries, min(more, count), self._allowed)
        return _measured(rows, queries, self.pins.vectors, self.metric)

    @cached_property
    def _places(self) -> Ints:
        if self._allowed is None:
            return np.arange(len(self.pins.keys))
        return np.flatnonzero(self._allowed)

    @cached_property
    def _exact(self) -> ExactSearch:
        every = self._allowed is None
        vectors = self.pins.vectors if every else self.pins.vectors[self._places]
        return ExactSearch(vectors, self.metric)


def _measured(rows: Ints, queries: npt.NDArray[np.float64], vectors: Vectors, how: Metric) -> Found:
    """Order what an index has found by its distance in float64, then by its place."""
    there = rows >= 0
    far = np.full(rows.shape, np.inf)
    owners = np.nonzero(there)[0]
    far[there] = distances(vectors[rows[there]], queries[owners], how)
    order = np.lexsort((rows, far), axis=1)
    return Found(np.take_along_axis(rows, order, 1), np.take_along_axis(far, order, 1))


def _without(found: Found, hidden: Sequence[Ints], k: int) -> Found:
    """Drop what each query has seen, and keep the first k of the rest."""
    made = Found.nothing(len(found.rows), min(k, found.rows.shape[1]))
    for query, (rows, far) in enumerate(zip(found.rows, found.distances, strict=True)):
        kept = np.flatnonzero((rows >= 0) & ~np.isin(rows, hidden[query]))[:k]
        made.rows[query, : len(kept)], made.distances[query, : len(kept)] = rows[kept], far[kept]
    return made
