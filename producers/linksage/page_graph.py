"""The heterogeneous graph of pages, pins, boards and link clusters, after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Csr:
    """Edges from n nodes of one type to nodes of another, sorted by their source.

    `offsets` int64 (n + 1,): the edges of node i are ``targets[offsets[i] : offsets[i + 1]]``.
    `targets` int64 (m,), ascending in a row. `weights` float32 (m,), above zero.
    """

    offsets: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def degrees(self) -> Tensor:
        """Edges of each node: int64 (n,)."""
        return self.offsets.diff()


@dataclass(frozen=True, eq=False)
class PageGraph:
    """Nodes by type and number, and their edges.

    Attributes:
        counts: nodes of `page`, `pin`, `board` and `link`. Pages are numbered as the rows of
            pages.parquet; a pin node is a cluster of near duplicates.
        edges: (source type, target type) -> its edges, both directions of every kind.
        cluster: int64 (raw pins,), the pin node of each row of pins.parquet.
        representative: int64 (pin nodes,), the row of pins.parquet that stands for each.
        positive_pin, positive_page: int64 (p,), nodes of the pairs to learn from, each pair once.
        positive_weight: float32 (p,), the sum of the weights of the pair's rows.
        page_hashes: int64 (pages,), of the pages' keys: what random walks are seeded by.
        report: degrees before and after pruning, sizes of clusters, dropped pairs; JSON-able.
    """

    counts: Mapping[str, int]
    edges: Mapping[tuple[str, str], Csr]
    cluster: Tensor
    representative: Tensor
    positive_pin: Tensor
    positive_page: Tensor
    positive_weight: Tensor
    page_hashes: Tensor
    report: Mapping[str, Any]
