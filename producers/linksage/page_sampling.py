"""What is drawn in training: the order of positives, and negatives; all by counters.

A draw depends on the seed and on where training stands, not on what was drawn before it, so a run
that was stopped goes on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.chunks import generator_of
from provender.producers.linksage.matryoshka import Candidates
from provender.producers.linksage.page_graph import PageGraph

# What a draw is for, so that no two have anything in common.
_FIRST, _ORDER, _NEGATIVES, _ALONE, _DROPOUT = range(5)


@dataclass(frozen=True, eq=False)
class Positives:
    """P pairs of a page and the pin node that it is to lie near to.

    `row` int64 (P,), their places among the graph's; `page`, `pin` int64 (P,); `weight` (P,), of
    mean 1; `share` (pins,), of all pairs; `drawn` int64 (N,), pin nodes that have a vector;
    `known`, all pins of page i, whether they have one or not, are
    ``known[offsets[i] : offsets[i + 1]]``.
    """

    row: Tensor
    page: Tensor
    pin: Tensor
    weight: Tensor
    share: Tensor
    drawn: Tensor
    offsets: Tensor
    known: Tensor

    @classmethod
    def of(cls, graph: PageGraph, has_vector: Tensor | None = None) -> Positives:
        """The positives of a graph whose pin nodes have a vector: bool (pins,), None for all.

        Raises TrainingError where there is none.
        """
        pins = graph.counts["pin"]
        has = torch.ones(pins, dtype=torch.bool) if has_vector is None else has_vector
        order = graph.positive_page.argsort(stable=True)
        counts = torch.bincount(graph.positive_page, minlength=graph.counts["page"])
        kept = has[graph.positive_pin]
        if not bool(kept.any()):
            raise TrainingError(
                "positives",
                found=f"{len(kept)} pairs of a pin and a page, none of a pin with a vector",
                expected="at least one",
                remedy="Check `pairs`, and min_cohesion and the as-of date, which drop some.",
            )
        pin, weight = graph.positive_pin[kept], graph.positive_weight[kept]
        return cls(
            row=kept.nonzero().squeeze(1),
            page=graph.positive_page[kept],
            pin=pin,
            weight=weight / weight.mean(),
            share=torch.bincount(pin, minlength=pins) / len(pin),
            drawn=has.nonzero().squeeze(1),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            known=graph.positive_pin[order],
        )

    def __len__(self) -> int:
        return len(self.page)

    def order(self, seed: int, epoch: int) -> Tensor:
        """All of them, shuffled: int64 (P,)."""
        return torch.randperm(len(self), generator=generator_of(seed, _ORDER, epoch))

    def candidates(
        self, batch: Tensor, negatives: int, seed: int, step: int, *, log_q: bool
    ) -> Candidates:
        """The pins of a batch (B,) and so many others, drawn evenly from all with a vector."""
        pin, page = self.pin[batch], self.page[batch]
        generator = generator_of(seed, _NEGATIVES, step)
        others = self.drawn[torch.randint(len(self.drawn), (negatives,), generator=generator)]
        nodes, times = torch.cat([pin, others]).unique(return_counts=True)
        correction = times.float().log()
        if log_q:
            even = negatives / len(self.drawn)
            correction -= ((len(batch) - 1) * self.share[nodes] + even).clamp(min=1e-30).log()
        return Candidates(
            nodes, torch.searchsorted(nodes, pin), self._among(page, nodes), correction
        )

    def _among(self, page: Tensor, nodes: Tensor) -> Tensor:
        """Which of `nodes` (U,), ascending, belong to each page (B,): bool (B, U)."""
        counts = self.offsets[page + 1] - self.offsets[page]
        row = torch.arange(len(page)).repeat_interleave(counts)
        within = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        pin = self.known[self.offsets[page][row] + within]
        column = torch.searchsorted(nodes, pin).clamp(max=len(nodes) - 1)
        there = nodes[column] == pin
        found = torch.zeros(len(page), len(nodes), dtype=torch.bool)
        found[row[there], column[there]] = True
        return found


def shown_alone(count: int, chance: float, seed: int, step: int) -> Tensor:
    """Which of a batch's pages are shown without neighbours: bool (B,)."""
    return torch.rand(count, generator=generator_of(seed, _ALONE, step)) < chance


def first_seed(seed: int) -> int:
    """The seed of an untrained model."""
    return generator_of(seed, _FIRST).initial_seed()


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what one process drops out in a step."""
    return generator_of(seed, _DROPOUT, step, rank).initial_seed()
