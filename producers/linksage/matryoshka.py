"""The loss: a page finds its pin among others, by each prefix of its vector (Kusupati et al. 2022).

Legend of shapes: B positives (page, pin), U candidate pins, each once, d dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Candidates:
    """The pins that B pages choose from.

    `nodes` int64 (U,) ascending; `positive` int64 (B,), which of them each page is to find;
    `known` bool (B, U), pins that belong to the page too, itself among them: no negatives;
    `correction` (U,) is added to the logits of negatives: ln(how often it was drawn / how often
    that was expected), or the first alone.
    """

    nodes: Tensor
    positive: Tensor
    known: Tensor
    correction: Tensor

    def of(self, rows: Tensor) -> Candidates:
        """The same for some of the B pages."""
        return Candidates(self.nodes, self.positive[rows], self.known[rows], self.correction)

    def to(self, device: torch.device) -> Candidates:
        """The same on another device."""
        return Candidates(**{name: value.to(device) for name, value in vars(self).items()})


def nested_losses(
    pages: Tensor,
    pins: Tensor,
    candidates: Candidates,
    dims: Sequence[int],
    weights: Sequence[float] | None,
    temperature: float,
) -> Tensor:
    """The loss of each page (B,), of pages (B, d) and candidates (U, d): float32.

    For each of `dims` both prefixes are brought to norm 1, and the loss is sampled softmax over
    cosines / temperature. The positive counts as it is, since it is always there; a negative j
    counts 1/E[times drawn] for each time it was, which makes the sum an unbiased estimate of that
    over all pins (Bengio and Senécal 2008; for pins of a batch and further ones mixed: Yang et al.
    2020). `weights` are those of the dims, None for all alike; their sum does not matter.
    """
    scale = list(weights) if weights else [1.0] * len(dims)
    total = pages.new_zeros(len(pages))
    for dim, weight in zip(dims, scale, strict=True):
        if weight:
            own = F.normalize(pages[:, :dim].float(), dim=1)
            others = F.normalize(pins[:, :dim].float(), dim=1)
            logits = own @ others.T / temperature  # (B, U)
            total = total + weight / sum(scale) * sampled_softmax(logits, candidates)
    return total


def sampled_softmax(logits: Tensor, candidates: Candidates) -> Tensor:
    """-ln of the positive's share, of each row of (B, U)."""
    positive = logits.gather(1, candidates.positive.unsqueeze(1))  # (B, 1)
    negatives = (logits + candidates.correction).masked_fill(candidates.known, -math.inf)
    return torch.cat([positive, negatives], 1).logsumexp(1) - positive.squeeze(1)
