"""Negatives: drawn by degree ** power mixed with uniform, from one entity type, shared by a chunk.

The cost of a draw is one binary search, whatever the number of entities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from provender.producers.losses import Hits
from provender.producers.memory import in_huge_pages
from provender.producers.neighbours import Neighbours


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
        uniform = torch.rand(count, dtype=torch.float64, generator=generator)
        # The last sum is 1 only up to rounding.
        within = torch.searchsorted(self.cumulative, uniform, right=True)
        return within.clamp_(max=len(self.cumulative) - 1) + self.offset

    def log_expected(self, drawn: Tensor) -> Tensor:
        """How often each of the K drawn entities was expected among them, as a logarithm (K,)."""
        return self.log_probability[drawn - self.offset] + math.log(len(drawn))


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


def accidental_hits(own: Tensor, negatives: Tensor) -> Hits | None:
    """Where negatives (K,) are a triple's own entity (B,): rows and columns; None where none is."""
    order = torch.argsort(negatives)
    drawn = Neighbours(negatives.index_select(0, order), order)
    near = drawn.knows(own).nonzero().squeeze(1)  # Few.
    if not len(near):
        return None
    rows, columns = drawn.expanded(own.index_select(0, near))
    return near.index_select(0, rows), columns
