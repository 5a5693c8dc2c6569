"""Negatives: drawn by degree ** power mixed with uniform, from one entity type, shared by a chunk.

Some of them may be drawn among those that a relation has at an end: where relations are many and
each has few tails, those are nearly all that a softmax over all entities gives any weight to, and a
draw among all seldom meets them. The cost of a draw is one binary search, whatever the number of
entities.

Legend of shapes: n entities of a type, m of a relation's end, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provender.producers.losses import Hits
from provender.producers.memory import in_huge_pages
from provender.producers.neighbours import Neighbours


class Sampler(Protocol):
    """Draws entities by some distribution."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` global ids, int64, with replacement, on the CPU."""

    def log_probability_of(self, drawn: Tensor) -> Tensor:
        """The logarithm of each entity's probability (K,); -inf for what is never drawn."""


@dataclass(frozen=True)
class NegativeSampler:
    """Draws entities of one type, n in number, whose global ids start at `offset`.

    `cumulative` float64 (n,) on the CPU is the distribution; `log_probability` float32 (n,) its
    logarithm on the device of training.
    """

    offset: int
    cumulative: Tensor
    log_probability: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` global ids, int64, with replacement, on the CPU."""
        return _draw(self.cumulative, count, generator) + self.offset

    def log_probability_of(self, drawn: Tensor) -> Tensor:
        """The logarithm of each entity's probability (K,)."""
        return self.log_probability[drawn - self.offset]


@dataclass(frozen=True)
class EndSampler:
    """Draws entities that a relation has at one end: `ids` (m,), sorted.

    `cumulative` float64 (m,) on the CPU is the distribution; `log_probability` float32 (m,) its
    logarithm on the device of training, as are the ids.
    """

    ids: Tensor
    cumulative: Tensor
    log_probability: Tensor

    @classmethod
    def of(cls, ends: Tensor, power: float, device: torch.device) -> EndSampler:
        """Draw by how often an entity is among the ends of edges (E,), E > 0, to a power."""
        ids, counts = ends.unique(return_counts=True)
        weight = counts.to(torch.float64).pow(power)
        probability = weight / weight.sum()
        log_probability = probability.log().to(torch.float32)
        return cls(ids.to(device), probability.cumsum(0), log_probability.to(device))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` global ids, int64, with replacement, on the CPU."""
        drawn = _draw(self.cumulative, count, generator)
        return self.ids.index_select(0, drawn.to(self.ids.device)).cpu()

    def log_probability_of(self, drawn: Tensor) -> Tensor:
        """The logarithm of each entity's probability (K,); -inf for those the end does not have."""
        at = torch.searchsorted(self.ids, drawn).clamp_(max=len(self.ids) - 1)
        there = self.ids.index_select(0, at) == drawn
        return torch.where(there, self.log_probability.index_select(0, at), -torch.inf)


@dataclass(frozen=True)
class Mixture:
    """So many draws of each sampler; all are corrected for the mixture that they are."""

    parts: Sequence[tuple[Sampler, int]]

    def draw(self, generator: torch.Generator) -> Tensor:
        """Global ids int64 (K,), on the CPU."""
        drawn = [sampler.draw(count, generator) for sampler, count in self.parts]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)

    def log_expected(self, drawn: Tensor) -> Tensor:
        """How often each of the K drawn entities was expected among them, as a logarithm (K,)."""
        logs = [sampler.log_probability_of(drawn) + math.log(n) for sampler, n in self.parts]
        return logs[0] if len(logs) == 1 else torch.stack(logs).logsumexp(0)


def mixture(common: Sampler, ends: Sequence[Sampler], negatives: int, end_share: float) -> Mixture:
    """So many negatives: a share of them from the ends alike, the others from the common sampler.

    At least one is from the common sampler, so that all entities may come.
    """
    each = min(round(negatives * end_share), negatives - 1) // max(1, len(ends))
    if not each:
        return Mixture([(common, negatives)])
    return Mixture([(common, negatives - each * len(ends)), *((end, each) for end in ends)])


def build_sampler(
    degrees: Tensor,
    offset: int,
    *,
    power: float,
    uniform_share: float,
    device: torch.device | str = "cpu",
) -> NegativeSampler:
    """The sampler of the entities whose degrees (n,) are given.

    An entity's probability is u / n + (1 - u) * degree ** power / sum(degree ** power).
    """
    by_degree = degrees.to(torch.float64).pow(power)
    total = by_degree.sum()
    flat = torch.full_like(by_degree, 1.0 / len(degrees))
    by_degree = by_degree / total if total > 0 else flat
    probability = uniform_share * flat + (1.0 - uniform_share) * by_degree
    return NegativeSampler(
        offset=offset,
        cumulative=in_huge_pages(probability.cumsum(0)),
        log_probability=in_huge_pages(probability.log().to(torch.float32).to(device)),
    )


def _draw(cumulative: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions (count,) in a distribution."""
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    # The last sum is 1 only up to rounding.
    within = torch.searchsorted(cumulative, uniform, right=True)
    return within.clamp_(max=len(cumulative) - 1)


def accidental_hits(own: Tensor, negatives: Tensor) -> Hits | None:
    """Where negatives (K,) are a triple's own entity (B,): rows and columns; None where none is."""
    order = torch.argsort(negatives)
    drawn = Neighbours(negatives.index_select(0, order), order)
    near = drawn.knows(own).nonzero().squeeze(1)  # Few.
    if not len(near):
        return None
    rows, columns = drawn.expanded(own.index_select(0, near))
    return near.index_select(0, rows), columns
