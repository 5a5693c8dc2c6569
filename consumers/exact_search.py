"""The k nearest of a table in memory to many queries, exactly: matrix products, then float64.

A block of queries is multiplied with the table in float32. What a sample of the table holds says
how near the k-th must be at least, so of all products only those that may count are looked at
again; they are measured in float64 and ordered by that, equals by their place. The answers are
those of :func:`provender.plugin.nearest.nearest_batch`, which keeps the same bound on rounding.

Legend of shapes: N rows, D floats each, Q queries, B of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from provender.plugin.errors import FetchError
from provender.plugin.nearest import Floats, Metric, Vectors, distances, nearest_batch

Ints = npt.NDArray[np.int64]
#: No row.
NONE = -1

#: Queries and rows that are multiplied at once: 4 MB of products.
_QUERIES, _ROWS = 128, 8_192
#: Rows of the sample: of a sixteenth at least this many, at most that many.
_SAMPLE, _LARGEST_SAMPLE = 8_192, 65_536
#: Candidates of a block that are held before the worse ones are dropped: 20 bytes each.
_HELD = 4_000_000
#: Within these norms no square under- or overflows float32 so far that the bound fails.
_SMALLEST, _LARGEST = 1e-15, 1e15


@dataclass(frozen=True)
class Found:
    """The nearest of each query, the nearest first.

    Attributes:
        rows: (Q, k) int64, places in the table; NONE where there are fewer.
        distances: (Q, k) float64, as :class:`provender.plugin.nearest.Neighbours` has them; inf
            where there are fewer.
    """

    rows: Ints
    distances: Floats

    @classmethod
    def nothing(cls, queries: int, k: int) -> Found:
        """Return an answer in which there is none yet."""
        return cls(np.full((queries, k), NONE, np.int64), np.full((queries, k), np.inf))


class ExactSearch:
    """A table of vectors, searched as a whole.

    Args:
        vectors: (N, D) float32; kept, not copied, save for `cosine`.
        metric: `inner_product`, `cosine` or `l2`; `l1` is possible and slow.
    """

    def __init__(self, vectors: Vectors, metric: Metric) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.metric = metric
        norms = np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors))
        within = ((norms > _SMALLEST) & (norms < _LARGEST)) | (norms == 0)
        self._sound = bool(within.all()) and metric != "l1"
        self._norms = norms
        self._longest = float(norms.max(initial=0)) if self._sound else np.nan

    def search(self, queries: npt.ArrayLike, k: int) -> Found:
        """Return the k nearest rows to each query; equals are ordered by their place.

        Args:
            queries: (Q, D) finite floats.
            k: at least 1.

        Raises FetchError: a k below 1, or queries of another shape or not finite.
        """
        asked = self._checked(queries, k)
        found = Found.nothing(len(asked), min(k, len(self.vectors)))
        if not found.rows.size:
            return found
        lengths = np.sqrt((asked * asked).sum(axis=1))
        sound = self._sound & (lengths > _SMALLEST) & (lengths < _LARGEST)
        usual = np.flatnonzero(sound)
        for start in range(0, len(usual), _QUERIES):
            block = usual[start : start + _QUERIES]
            part = self._block(asked[block], lengths[block], found.rows.shape[1])
            found.rows[block], found.distances[block] = part.rows, part.distances
        for row in np.flatnonzero(~sound):
            self._slowly(asked[row], found, int(row))
        return found

    def _checked(self, queries: npt.ArrayLike, k: int) -> Floats:
        asked = np.asarray(queries, dtype=np.float64)
        if k < 1:
            raise _refused(f"k = {k}", "at least 1")
        width = self.vectors.shape[1]
        if asked.ndim != 2 or asked.shape[1] != width or not np.isfinite(asked).all():
            raise _refused(
                f"queries of shape {asked.shape}, or not finite", f"{width} finite floats each"
            )
        return asked

    def _slowly(self, query: Floats, found: Found, row: int) -> None:
        rows = np.arange(len(self.vectors))
        (near,) = nearest_batch(
            query[None], [(rows, self.vectors)], found.rows.shape[1], self.metric
        )
        found.rows[row], found.distances[row] = near.keys, near.distances

    def _block(self, queries: Floats, lengths: Floats, k: int) -> Found:
        """Search for at most _QUERIES queries."""
        scale = lengths[:, None] if self.metric != "l2" else 1.0
        directions = torch.from_numpy((queries / scale).astype(np.float32))
        margin = (2 * self._errors(lengths)).astype(np.float32)
        candidates = _Candidates(k, margin, self._bounds(directions, k, margin))
        for start, products in self._products(directions, self._table, self._bias):
            candidates.add(start, products)
        owners, rows = candidates.kept()
        far = distances(self.vectors[rows], queries[owners], self.metric)
        return _ranked(owners, rows, far, len(queries), k)

    def _bounds(self, directions: torch.Tensor, k: int, margin: Vectors) -> Vectors:
        """(B,) what the product of one of the k nearest rows is not below: the sample's k-th."""
        best = np.empty((len(directions), 0), np.float32)
        for _, products in self._products(directions, self._sample, self._sample_bias):
            best = np.concatenate([best, products], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, -k, axis=1)[:, -k:]
        if best.shape[1] < k:
            return np.full(len(directions), -np.inf, np.float32)
        bounds: Vectors = _below(best.min(axis=1), margin)
        return bounds

    def _errors(self, lengths: Floats) -> Floats:
        """(B,) how far off a product may be: twice gamma_D, for what follows it rounds as well."""
        error = (self.vectors.shape[1] + 16) * 2.0**-23
        if self.metric == "cosine":
            return np.full(len(lengths), error)
        if self.metric == "inner_product":
            return np.full(len(lengths), error * self._longest)
        return np.asarray(error * (lengths + self._longest) ** 2 / 2)

    def _products(
        self, directions: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None
    ) -> Iterator[tuple[int, Vectors]]:
        """Yield (B, rows) float32 that are the higher the nearer, with the first row's place."""
        for start in range(0, len(table), _ROWS):
            rows = table[start : start + _ROWS].T
            if bias is None:
                yield start, torch.mm(directions, rows).numpy()
            else:
                part = bias[start : start + _ROWS]
                yield start, torch.addmm(part, directions, rows).numpy()

    @cached_property
    def _table(self) -> torch.Tensor:
        """(N, D): the vectors, or for `cosine` their directions, zero for a zero vector."""
        if self.metric != "cosine":
            # By way of Arrow, for it may be read-only, which torch's own way warns of.
            flat = from_dlpack(pa.array(self.vectors.reshape(-1)))
            return flat.reshape(self.vectors.shape)
        norms = np.where(self._norms == 0, 1, self._norms)
        return torch.from_numpy(self.vectors / norms[:, None])

    @cached_property
    def _bias(self) -> torch.Tensor | None:
        """(N,): a smaller squared distance is a larger q.v - |v|^2 / 2."""
        return torch.from_numpy(-(self._norms**2) / 2) if self.metric == "l2" else None

    @cached_property
    def _places(self) -> torch.Tensor:
        count = len(self.vectors)
        size = min(max(_SAMPLE, count // 16), _LARGEST_SAMPLE, count)
        return torch.linspace(0, count - 1, size, dtype=torch.float64).long()

    @cached_property
    def _sample(self) -> torch.Tensor:
        return self._table[self._places]

    @cached_property
    def _sample_bias(self) -> torch.Tensor | None:
        return None if self._bias is None else self._bias[self._places]


class _Candidates:
    """Products of a block of queries that may be among the k highest of each.

    Args:
        margin: (B,) float32, by how much two products may be in the wrong order.
        bounds: (B,) float32, below which none counts.
    """

    def __init__(self, k: int, margin: Vectors, bounds: Vectors) -> None:
        self._k, self._margin, self._bounds = k, margin, bounds
        self._held: list[tuple[Ints, Ints, Vectors]] = []
        self._count = 0

    def add(self, start: int, products: Vectors) -> None:
        """Take in the products (B, rows) of the rows from `start` on."""
        flat = np.flatnonzero(products >= self._bounds[:, None])
        owners, rows = np.divmod(flat, products.shape[1])
        self._held.append((owners, rows + start, products.ravel()[flat]))
        self._count += len(flat)
        if self._count > max(_HELD, 4 * len(self._bounds) * self._k):
            self._prune()

    def kept(self) -> tuple[Ints, Ints]:
        """Return (m,) queries, ascending, and (m,) rows."""
        self._prune()
        owners, rows, _ = self._held[0]
        return owners, rows

    def _prune(self) -> None:
        """Raise each query's bound to its k-th product less the margin, and drop what is below."""
        owners, rows, products = (np.concatenate(each) for each in zip(*self._held, strict=True))
        order = np.argsort(owners, kind="stable")
        owners, rows, products = owners[order], rows[order], products[order]
        starts = np.searchsorted(owners, np.arange(len(self._bounds) + 1))
        for query in range(len(self._bounds)):
            mine = products[starts[query] : starts[query + 1]]
            if len(mine) >= self._k:
                kth = np.partition(mine, len(mine) - self._k)[len(mine) - self._k]
                bound = _below(kth, self._margin[query])
                self._bounds[query] = max(self._bounds[query], bound)
        kept = products >= self._bounds[owners]
        self._held = [(owners[kept], rows[kept], products[kept])]
        self._count = int(kept.sum())


def _below(products: Any, margin: Any) -> Any:
    return np.nextafter(products - margin, np.float32(-np.inf))


def _ranked(owners: Ints, rows: Ints, far: Floats, queries: int, k: int) -> Found:
    """The k nearest of each query, by distance and then by place."""
    order = np.lexsort((rows, far, owners))
    owners, rows, far = owners[order], rows[order], far[order]
    ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
    first = ranks < k
    found = Found.nothing(queries, k)
    found.rows[owners[first], ranks[first]] = rows[first]
    found.distances[owners[first], ranks[first]] = far[first]
    return found


def _refused(found: str, expected: str) -> FetchError:
    return FetchError(
        "nearest vectors", found=found, expected=expected, remedy="Correct the request."
    )
