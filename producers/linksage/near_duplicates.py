"""Clusters of near duplicates: vectors of at least so high a cosine, and what these link.

Few vectors are compared all with all. Many go into faiss's inverted lists (k-means cells, Jégou et
al. 2011), where each is compared with those of the nearest cells; near duplicates are almost always
there. Every pair that is found is then checked exactly, and pairs become clusters by union-find, so
that the ends of a cluster may be less alike than the threshold: `largest` tells when that got out
of hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provender.plugin.errors import ConfigError

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
#: Up to so many distinct vectors are compared all with all.
FEW = 20_000
#: Cells that a vector's duplicates are looked for in.
PROBES = 8
#: float32 products differ by less from the exact cosine, which decides.
_SLACK = 1e-4
#: Similarities, or pairs, at a time.
_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class Clusters:
    """`labels` int64 (n,), numbered by their first members, and a JSON-able `report` of sizes."""

    labels: Ints
    report: dict[str, Any]


def find_clusters(vectors: Vectors, threshold: float, *, few: int = FEW) -> Clusters:
    """Cluster rows (n, d) of norm 1 whose cosine is at least the threshold; zero rows stay alone.

    Raises ConfigError where there are more than `few` distinct rows and no faiss.
    """
    n = len(vectors)
    shown = np.flatnonzero(np.any(vectors != 0, axis=1))
    first, copy_of = _distinct(vectors[shown])
    distinct = np.ascontiguousarray(vectors[shown[first]])
    exact = len(distinct) <= few
    pairs = _all_pairs(distinct, threshold) if exact else _listed_pairs(distinct, threshold)
    parents = np.arange(len(distinct))
    for a, b in pairs:
        _unite(parents, *_checked(distinct, a, b, threshold))
    labels = np.arange(n)
    labels[shown] = shown[first[_roots(parents, copy_of)]]
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Clusters(labels, _report(labels, threshold, "all pairs" if exact else "inverted lists"))


def _report(labels: Ints, threshold: float, method: str) -> dict[str, Any]:
    sizes = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    several = sizes[sizes > 1]
    return {
        "threshold": threshold,
        "method": method,
        "clusters": len(several),
        "pins_in_clusters": int(several.sum()),
        "nodes": len(sizes),
        "largest": int(sizes.max(initial=0)),
        "sizes": {str(size): count for size, count in sorted(Counter(several.tolist()).items())},
    }


def _distinct(vectors: Vectors) -> tuple[Ints, Ints]:
    """The first of each group of equal rows, ascending, and each row's group.

    Equal rows cost nothing then, be it a million copies of one placeholder.
    """
    if not len(vectors):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.ascontiguousarray(vectors + np.float32(0))  # -0.0 becomes 0.0
    names = rows.view(np.dtype((np.void, rows.strides[0]))).ravel()
    _, first, group = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[group]


def _all_pairs(vectors: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows that may reach the threshold, a block at a time."""
    size = max(1, _AT_ONCE // max(len(vectors), 1))
    for begin in range(0, len(vectors), size):
        block = vectors[begin : begin + size] @ vectors[begin:].T
        a, b = np.nonzero(block >= threshold - _SLACK)
        later = b > a
        yield a[later] + begin, b[later] + begin


def _listed_pairs(vectors: Vectors, threshold: float) -> Iterator[tuple[Ints, Ints]]:
    """The same from faiss's inverted lists; a pair in no common cell is missed."""
    faiss = _faiss()
    n, width = vectors.shape
    lists = max(1, round(4 * n**0.5))
    quantizer = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.max_points_per_centroid = 1, 64
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(PROBES, lists)
    lengths = sorted((index.invlists.list_size(one) for one in range(lists)), reverse=True)
    size = min(4096, max(1, _AT_ONCE // sum(lengths[: index.nprobe])))
    for begin in range(0, n, size):
        limits, _, found = index.range_search(vectors[begin : begin + size], threshold - _SLACK)
        counts = np.diff(limits.astype(np.int64))
        a, b = np.repeat(np.arange(begin, begin + len(counts)), counts), found
        # Not only b > a: whether a finds b and b finds a need not be the same.
        yield np.minimum(a, b)[a != b], np.maximum(a, b)[a != b]


def _checked(vectors: Vectors, a: Ints, b: Ints, threshold: float) -> tuple[Ints, Ints]:
    """The pairs whose exact cosine is at least the threshold."""
    kept = np.zeros(len(a), bool)
    size = max(1, _AT_ONCE // (4 * max(vectors.shape[1], 1)))
    for begin in range(0, len(a), size):
        part = slice(begin, begin + size)
        one, other = (vectors[rows[part]].astype(np.float64) for rows in (a, b))
        cosine = np.einsum("ij,ij->i", one, other)
        # Norms are 1 to float32 only, by which a threshold of 1 would miss equal directions.
        norms = np.sqrt(np.einsum("ij,ij->i", one, one) * np.einsum("ij,ij->i", other, other))
        kept[part] = cosine >= threshold * norms - 1e-7
    return a[kept], b[kept]


def _unite(parents: Ints, a: Ints, b: Ints) -> None:
    """Union-find of many pairs at once: higher roots are hung below lower ones."""
    while len(a):
        a, b = _roots(parents, a), _roots(parents, b)
        apart = a != b
        a, b = a[apart], b[apart]
        np.minimum.at(parents, np.maximum(a, b), np.minimum(a, b))


def _roots(parents: Ints, nodes: Ints) -> Ints:
    """The roots of nodes, to which they then point themselves."""
    roots = parents[nodes]
    while True:
        above = parents[roots]
        if np.array_equal(above, roots):
            parents[nodes] = roots
            return roots
        roots = above


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "section linksage, graph.near_duplicates",
            found=f"more than {FEW} distinct pins and no faiss",
            expected="faiss, which finds near duplicates among many",
            remedy="Run `pip install 'provender[duplicates]'`, or set near_duplicates to null.",
        ) from None
    return faiss
