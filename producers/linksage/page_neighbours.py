"""The neighbours of pages: the nodes that random walks from them visit most (Pixie, PinSage)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

#: What `Neighbours.types` counts through.
NEIGHBOUR_TYPES = ("pin", "page")


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most visited nodes of n pages: of all, or of those that were asked for, in that order.

    Attributes:
        offsets: int64 (n + 1,): those of page i are ``nodes[offsets[i] : offsets[i + 1]]``.
        types: uint8 (m,), indices into NEIGHBOUR_TYPES.
        nodes: int64 (m,), numbers within their types.
        visits: int32 (m,), descending within a page; ties by type, then node.
        degrees: int64 (n,), the page's edges in the graph.
    """

    offsets: Tensor
    types: Tensor
    nodes: Tensor
    visits: Tensor
    degrees: Tensor
