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

    def hit_tails(self, relation: int, head: Tensor, negatives: Tensor) -> Tensor | None:
        """Which tails (K,) the heads (B,) are linked to: bool (B, K); None where none is."""
        return linked(self.tails[relation], head, negatives)

    def hit_heads(self, relation: int, tail: Tensor, negatives: Tensor) -> Tensor | None:
        """Which heads (K,) are linked to the tails (B,): bool (B, K); None where none is."""
        return linked(self.heads[relation], tail, negatives)


def linked(neighbours: Neighbours, own: Tensor, others: Tensor) -> Tensor | None:
    """Which of `others` (K,) are neighbours of `own` (B,): bool (B, K); None where none is."""
    rows, row = own.unique(return_inverse=True)
    columns, column = others.unique(return_inverse=True)
    asked, found = neighbours.expanded(rows)
    at = torch.searchsorted(columns, found).clamp_(max=len(columns) - 1)
    met = columns.index_select(0, at) == found
    if not bool(met.any()):
        return None
    hit = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=own.device)
    hit[asked[met], at[met]] = True
    return hit.index_select(0, row).index_select(1, column)
