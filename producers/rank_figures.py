"""Figures of ranks, each the expectation over the orders that ties leave open.

With a answers above and m level, the true one included, its rank is uniform on a + 1 .. a + m. So a
scorer gains nothing by giving many candidates the same score: constant scores give chance.

Legend of shapes: L links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from provender.producers.link_ranking import Ranks

HITS = (1, 3, 10)


def reciprocal(ranks: Ranks) -> Tensor:
    """The expectation of 1 / rank: float64 (L,)."""
    return _expected(torch.reciprocal, ranks)


def hits(ranks: Ranks, k: int) -> Tensor:
    """The chance of being among the first k: float64 (L,)."""
    return ((k - ranks.above) / ranks.level.double()).clamp(0.0, 1.0)


def mean_rank(ranks: Ranks) -> Tensor:
    """The expectation of the rank: float64 (L,)."""
    return ranks.above + (ranks.level + 1) / 2.0


def discounted(ranks: Ranks, k: int) -> Tensor:
    """The expectation of 1 / log2(1 + rank) within the first k and of 0 beyond: float64 (L,)."""
    return _expected(lambda rank: (rank <= k) / torch.log2(1.0 + rank), ranks)


def link_figures(ranks: Ranks) -> dict[str, float]:
    """The number of links, MRR, Hits@1/3/10 and the mean rank."""
    return {
        "links": len(ranks),
        "mrr": float(reciprocal(ranks).mean()),
        **{f"hits@{k}": float(hits(ranks, k).mean()) for k in HITS},
        "mean_rank": float(mean_rank(ranks).mean()),
    }


def head_figures(ranks: Ranks, heads: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Recall@k and NDCG@k, the means over heads; `heads` (L,) says whose links were ranked.

    Recall@k is the share of a head's links within its first k. NDCG@k is their discounted gain
    within the first k over that of the best order. Ranks must count a head's other links as rivals:
    only one of them can be first.
    """
    _, place, counts = heads.unique(return_inverse=True, return_counts=True)

    def by_head(values: Tensor) -> Tensor:
        return torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, values)

    figures: dict[str, float] = {"heads": len(counts), "links": len(ranks)}
    best = (1.0 / torch.log2(torch.arange(2.0, max(ks) + 2, dtype=torch.float64))).cumsum(0)
    for k in ks:
        figures[f"recall@{k}"] = float((by_head(hits(ranks, k)) / counts).mean())
    for k in ks:
        ideal = best[counts.clamp(max=k) - 1]
        figures[f"ndcg@{k}"] = float((by_head(discounted(ranks, k)) / ideal).mean())
    return figures


def _expected(value: Callable[[Tensor], Tensor], ranks: Ranks) -> Tensor:
    """The mean of value(rank) over the ranks that ties leave open, by cumulative sums."""
    last = ranks.above + ranks.level
    every = torch.arange(1.0, int(last.max()) + 1, dtype=torch.float64)
    sums = torch.cat([every.new_zeros(1), value(every).cumsum(0)])
    return (sums[last] - sums[ranks.above]) / ranks.level
