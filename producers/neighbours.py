"""Links of one relation from one end: whom an entity is linked to, by binary search.

Legend of shapes: E links, n entities asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Links sorted by the entities `own` int64 (E,) at one end; `other` (E,) are at the other."""

    own: Tensor
    other: Tensor

    @classmethod
    def of(cls, own: Tensor, other: Tensor) -> Neighbours:
        """Sort links by their own ends; those that are in order are taken as they lie."""
        if bool((own[1:] >= own[:-1]).all()):
            return cls(own, other)
        order = torch.argsort(own, stable=True)
        return cls(own[order], other[order])

    def spans(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Where the links of entities (n,) begin, and how many they are: int64 (n,) each."""
        first = torch.searchsorted(self.own, ids)
        return first, torch.searchsorted(self.own, ids, right=True) - first

    def knows(self, ids: Tensor) -> Tensor:
        """Which entities (n,) have a link: bool (n,). There is one at least."""
        at = torch.searchsorted(self.own, ids).clamp_(max=len(self.own) - 1)
        return self.own.index_select(0, at) == ids

    def expanded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """All links of entities (n,): positions in `ids` and the entities linked to, in step."""
        first, count = self.spans(ids)
        asked = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), count)
        before = count.cumsum(0) - count
        within = torch.arange(len(asked), device=ids.device) - before.index_select(0, asked)
        return asked, self.other.index_select(0, first.index_select(0, asked) + within)


@dataclass(frozen=True, eq=False)
class LinkSet:
    """Pairs of entities whose ids are below `entities`; `pairs` int64 (E,) sorted."""

    pairs: Tensor
    entities: int

    @classmethod
    def of(cls, head: Tensor, tail: Tensor, entities: int) -> LinkSet:
        """The links from heads (E,) to tails (E,)."""
        return cls((head * entities + tail).sort().values, entities)

    def contains(self, head: Tensor, tail: Tensor) -> Tensor:
        """Which of the pairs of heads and tails, of any shape, are linked: bool."""
        if not len(self.pairs):
            return torch.zeros_like(tail, dtype=torch.bool)
        wanted = head * self.entities + tail
        at = torch.searchsorted(self.pairs, wanted).clamp_(max=len(self.pairs) - 1)
        return self.pairs[at] == wanted
