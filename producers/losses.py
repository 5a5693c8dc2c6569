"""The losses of a chunk of triples against shared negatives: pure functions of scores.

B triples, K negatives. `positive` (B,) and `negative` (B, K) are scores, higher is likelier.
`log_expected` (K,) is the log of how often each negative was expected among the K draws, and
`hit` (B, K) marks accidental hits: negatives that are the triple's own entity, which count for
nothing. Every loss takes the draws' distribution out again, so that it estimates the loss against
all entities, whatever they were drawn by. Each returns the loss of every triple, (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Far below any score and still finite: a row of nothing but hits must not become NaN.
_NEVER = -1e30


def softmax_loss(positive: Tensor, negative: Tensor, log_expected: Tensor, hit: Tensor) -> Tensor:
    """The sampled softmax, -log(exp f+ / (exp f+ + sum_k exp(f_k) / expected_k)).

    With hits masked, the expectation of the denominator is that of the full softmax over all
    entities (Bengio and Senécal 2008, importance sampling).
    """
    corrected = (negative - log_expected).masked_fill(hit, _NEVER)
    logits = torch.cat([positive.unsqueeze(1), corrected], dim=1)  # (B, 1 + K)
    return torch.logsumexp(logits, dim=1) - positive


def self_adversarial_loss(
    positive: Tensor,
    negative: Tensor,
    log_expected: Tensor,
    hit: Tensor,
    *,
    margin: float,
    temperature: float,
) -> Tensor:
    """Sun et al. 2019 (RotatE), eq. 5: -log s(m + f+) - sum_k p_k log s(-f_k - m).

    p is the softmax of `temperature` * f over the negatives, corrected for the draws; no gradient
    flows through it.
    """
    share = _shares(temperature * negative.detach() - log_expected, hit)
    return -F.logsigmoid(margin + positive) - (share * F.logsigmoid(-negative - margin)).sum(1)


def margin_loss(
    positive: Tensor, negative: Tensor, log_expected: Tensor, hit: Tensor, *, margin: float
) -> Tensor:
    """Lin et al. 2015, eq. 10: max(0, margin - f+ + f_k), its mean over uniform negatives."""
    share = _shares(-log_expected.expand_as(negative), hit)
    return (share * F.relu(margin - positive.unsqueeze(1) + negative)).sum(1)


def _shares(logits: Tensor, hit: Tensor) -> Tensor:
    """A softmax over the negatives that are no hits; zeros where all are."""
    return torch.softmax(logits.masked_fill(hit, _NEVER), dim=1).masked_fill(hit, 0.0)
