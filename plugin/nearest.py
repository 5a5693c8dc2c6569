"""The k nearest vectors, exactly, of a table that is read in chunks.

    found = nearest(query, ((rows.keys, rows.vectors) for rows in scan()), k=10, metric="cosine")

Every row is scored by a matrix product in float32. Its rounding error has a bound (Higham 2002,
section 3.1: gamma_d |q| |v|), so whatever may be among the k nearest is scored again in float64,
and by that alone it is ranked. So neither chunks nor threads nor BLAS change an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from provender.plugin.errors import FetchError

Metric = Literal["l2", "cosine", "inner_product", "l1"]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
#: (n,) keys that can be compared, as an array, an Arrow array or a list; (n, dim) float32.
Chunk: TypeAlias = tuple[Sequence[Any] | npt.NDArray[Any], Vectors]

#: What Feast's online stores call them, in lower case.
_ALIASES: dict[str, Metric] = {
    "euclidean": "l2",
    "l2_norm": "l2",
    "dot": "inner_product",
    "dot_product": "inner_product",
    "ip": "inner_product",
    "manhattan": "l1",
}
#: Queries that are multiplied at once: 4 MB of products with a chunk of 16,384 rows.
_BLOCK = 64
#: Within these norms no square under- or overflows float32 so far that the bound fails.
_SMALLEST, _LARGEST = 1e-15, 1e15


@dataclass(frozen=True)
class Neighbours:
    """The nearest first, at most k.

    Attributes:
        keys: their keys.
        distances: (k,) float64, less is nearer; as pgvector reports them, so `l2` is not squared,
            `cosine` is 1 - cosine (1 for a zero vector), `inner_product` the negative product.
    """

    keys: list[Any]
    distances: Floats


def metric_of(name: str | None) -> Metric:
    """Return the metric that Feast's stores know by a name, of any case; l2 for none.

    Raises FetchError for a name that none of them knows.
    """
    lowered = (name or "l2").lower()
    metric: Metric | None = _ALIASES.get(lowered)
    metric = metric or next((each for each in get_args(Metric) if each == lowered), None)
    if metric is None:
        raise _refused(f"the metric {name!r}", f"one of {', '.join(get_args(Metric))}")
    return metric


def nearest(
    query: npt.ArrayLike, chunks: Iterable[Chunk], k: int, metric: str | None = "l2"
) -> Neighbours:
    """Return the k nearest of all chunks to one query, (dim,) finite floats.

    See :func:`nearest_batch`.
    """
    return nearest_batch(np.asarray(query, dtype=np.float64)[None], chunks, k, metric)[0]


def nearest_batch(
    queries: npt.ArrayLike, chunks: Iterable[Chunk], k: int, metric: str | None = "l2"
) -> list[Neighbours]:
    """Return the k nearest of all chunks to each query; memory is bounded by a chunk and k.

    Equal distances are ordered by key. A vector with a NaN in it is farther than any other.

    Args:
        queries: (q, dim) finite floats.
        chunks: keys and vectors, in any order.
        k: how many; fewer are returned where there are fewer rows.
        metric: `l2`, `cosine`, `inner_product` or `l1`, or an alias of :func:`metric_of`.

    Raises:
        FetchError: k below 1, a query that is not finite, a metric or dim that can't be.
    """
    known, exact = metric_of(metric), np.asarray(queries, dtype=np.float64)
    if k < 1:
        raise _refused(f"k = {k}", "at least 1")
    if exact.ndim != 2 or not np.isfinite(exact).all():
        raise _refused(f"a query of shape {exact.shape[1:]}, or not finite", "finite floats")
    searches = [_Search(query, k, known) for query in exact]
    approximate = np.stack([each.direction for each in searches]) if searches else exact
    for keys, vectors in chunks:
        if vectors.shape != (len(keys), exact.shape[1]):
            raise _refused(f"a query of {exact.shape[1]} floats", f"{vectors.shape[-1]}")
        if not len(keys):
            continue
        rows = _Rows.of(keys, vectors)
        for start in range(0, len(searches), _BLOCK):
            block = slice(start, start + _BLOCK)
            with np.errstate(over="ignore", invalid="ignore"):
                products = approximate[block] @ rows.vectors.T
            for search, product in zip(searches[block], products, strict=True):
                search.add(rows, product)
    return [each.found() for each in searches]


@dataclass(frozen=True)
class _Rows:
    """A chunk with the norm of each vector, and the share of it that rounding may make up."""

    keys: npt.NDArray[Any]
    vectors: Vectors
    norms: Vectors
    error: float

    @classmethod
    def of(cls, keys: Any, vectors: Vectors) -> _Rows:
        if isinstance(keys, pa.Array):
            keys = keys.to_numpy(zero_copy_only=False)
        elif not isinstance(keys, np.ndarray):
            keys = np.array(keys, dtype=object)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        # Twice gamma_d, for the norms and the few sums after the product round as well.
        return cls(keys, vectors, norms, (vectors.shape[1] + 16) * 2.0**-23)


class _Search:
    """One query and the nearest found so far."""

    def __init__(self, query: Floats, k: int, metric: Metric) -> None:
        self._query, self._k, self._metric = query, k, metric
        self._norm = float(np.sqrt((query * query).sum()))
        self._sound = _SMALLEST < self._norm < _LARGEST and metric != "l1"
        scale = self._norm if metric in ("cosine", "inner_product") and self._norm else 1.0
        #: (dim,) float32: what is multiplied; its length does not matter but to l2.
        self.direction = (query / scale).astype(np.float32)
        self._keys: list[Any] = []
        self._distances = np.zeros(0)

    def add(self, rows: _Rows, products: Vectors) -> None:
        """Take in a chunk, given the product of `direction` with each of its vectors."""
        chosen = self._candidates(rows, products)
        distances = np.append(self._distances, self._measure(rows.vectors[chosen]))
        keys = np.append(np.array(self._keys, dtype=rows.keys.dtype), rows.keys[chosen])
        last = np.partition(distances, self._k - 1)[self._k - 1] if len(keys) > self._k else np.nan
        kept = np.flatnonzero(~(distances > last))
        # NaN is last for NumPy, and unordered for Python.
        ranks = np.unique(distances[kept], return_inverse=True)[1].tolist()
        order = kept[_by_rank_and_key(ranks, keys[kept].tolist())[: self._k]]
        self._keys, self._distances = keys[order].tolist(), distances[order]

    def found(self) -> Neighbours:
        return Neighbours(self._keys, self._distances)

    def _candidates(self, rows: _Rows, products: Vectors) -> npt.NDArray[np.int64]:
        """The rows that may be among the k nearest, whichever way their scores were rounded."""
        if not self._sound:
            return np.arange(len(rows.keys))
        unsure = ~((rows.norms > _SMALLEST) & (rows.norms < _LARGEST))
        limit = self._limit()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scores, errors = self._scores(rows, products)
            if len(scores) >= self._k:
                highest = np.where(unsure, np.inf, scores + errors)
                limit = min(limit, float(np.partition(highest, self._k - 1)[self._k - 1]))
            return np.flatnonzero(unsure | (scores - errors <= limit))

    def _scores(self, rows: _Rows, products: Vectors) -> tuple[Vectors, Any]:
        """Scores that order as the distances do, and how far off they may be."""
        if self._metric == "inner_product":
            return -products, rows.error * rows.norms
        if self._metric == "cosine":
            return -products / rows.norms, rows.error
        squares = rows.norms**2 - 2 * products + self._norm**2
        return squares, rows.error * (rows.norms + self._norm) ** 2

    def _limit(self) -> float:
        """The score of the k-th so far."""
        if len(self._distances) < self._k or np.isnan(self._distances[-1]):
            return np.inf
        farthest = float(self._distances[-1])
        if self._metric == "inner_product":
            return farthest / self._norm
        return farthest - 1 if self._metric == "cosine" else farthest**2

    def _measure(self, vectors: Vectors) -> Floats:
        return distances(vectors, self._query, self._metric)


def distances(vectors: Vectors, queries: Floats, metric: Metric) -> Floats:
    """Return (m,) float64: how far each vector is from its query, as :class:`Neighbours` says.

    Each row is summed by itself, so equal rows have equal distances, however many are asked for.

    Args:
        vectors: (m, dim) float32.
        queries: (dim,) for all, or (m, dim), one for each.
    """
    rows = vectors.astype(np.float64)
    if metric == "l1":
        return np.asarray(np.abs(rows - queries).sum(axis=1))
    if metric == "l2":
        return np.asarray(np.sqrt(((rows - queries) ** 2).sum(axis=1)))
    products = (rows * queries).sum(axis=1)
    if metric == "inner_product":
        return np.asarray(0.0 - products)
    norms = np.sqrt((rows * rows).sum(axis=1)) * np.sqrt((queries * queries).sum(axis=-1))
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(1 - np.clip(cosines, -1, 1))


def _by_rank_and_key(ranks: list[int], keys: list[Any]) -> list[int]:
    return sorted(range(len(keys)), key=lambda i: (ranks[i], keys[i]))


def _refused(found: str, expected: str) -> FetchError:
    return FetchError(
        "nearest vectors", found=found, expected=expected, remedy="Correct the request."
    )
