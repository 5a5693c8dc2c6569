"""Negatives that are true: what training knows to be linked does not count as a negative.

Negatives are shared by a chunk, so the tail that is wrong for one head may be right for the next.
What a chunk costs is the number of links of its entities, and two integers a link are remembered.

Legend of shapes: B triples, K shared negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.losses import Hits
from provender.producers.neighbours import Neighbours


@dataclass(frozen=True, eq=False)
class KnownLinks:
    """By relation, the tails of each head and the heads of each tail."""

    tails: Sequence[Neighbours]
    heads: Sequence[Neighbours]

    @classmethod
    def of(cls, graph: TripleGraph, head: Tensor, tail: Tensor) -> KnownLinks:
        """Index a graph's edges, their ends `head` and `tail` (E,) on the device of training."""
        spans = [graph.edges_of(relation) for relation in range(len(graph.relations))]
        return cls(
            [Neighbours.of(head[of], tail[of]) for of in spans],
            [Neighbours.of(tail[of], head[of]) for of in spans],
        )

    def hit_tails(self, relation: int, head: Tensor, negatives: Tensor) -> Hits | None:
        """Which tails (K,) the heads (B,) are linked to: rows and columns; None where none is."""
        return linked(self.tails[relation], head, negatives)

    def hit_heads(self, relation: int, tail: Tensor, negatives: Tensor) -> Hits | None:
        """Which heads (K,) are linked to the tails (B,), likewise."""
        return linked(self.heads[relation], tail, negatives)


def linked(neighbours: Neighbours, own: Tensor, others: Tensor) -> Hits | None:
    """Where others (K,) are neighbours of `own` (B,): rows and columns; None where none is.

    Twins are looked up once: an entity may be there often, and have many neighbours.
    """
    rows, row = own.unique(return_inverse=True)
    columns, column = others.unique(return_inverse=True)
    asked, found = neighbours.expanded(rows)
    at = torch.searchsorted(columns, found).clamp_(max=len(columns) - 1)
    met = columns.index_select(0, at) == found
    if not bool(met.any()):
        return None
    by_row = Neighbours(asked[met], at[met])
    place, near = by_row.expanded(row)
    within, other = Neighbours.of(column, torch.arange(len(column), device=own.device)).expanded(
        near
    )
    return place.index_select(0, within), other
