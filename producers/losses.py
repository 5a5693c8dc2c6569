"""The losses of a chunk of triples against shared negatives, with their gradients in closed form.

B triples, K negatives. `positive` (B,) and `negative` (B, K) are scores, higher is likelier.
`log_expected` (K,) is the log of how often each negative was expected among the K draws, and
`hit` (B, K) marks accidental hits: negatives that are the triple's own entity, or known to be true,
which count for nothing; None means that there are none. Every loss takes the draws' distribution
out again, so that it estimates the loss against all entities, whatever they were drawn by. Each
returns the loss of every triple (B,) and its derivatives by `positive` (B,) and `negative` (B, K).
The last may be written where `negative` was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["softmax", "self_adversarial", "margin"]
Derived = tuple[Tensor, Tensor, Tensor]
#: (positive, negative, log_expected, hit) -> (loss, by positive, by negative)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Derived]
#: Far below any score and still finite: a row of nothing but hits must not become NaN.
_NEVER = -1e30
#: Its exponential is nothing beside 1, and still a normal number: where one in ten arguments is so
#: low that the result is not, MKL's exp takes 13 to 75 times as long.
_LEAST = -80.0


def softmax_loss(
    positive: Tensor, negative: Tensor, log_expected: Tensor, hit: Tensor | None
) -> Derived:
    """The sampled softmax, -log(exp f+ / (exp f+ + sum_k exp(f_k) / expected_k)).

    With hits masked, the expectation of the denominator is that of the full softmax over all
    entities (Bengio and Senécal 2008, importance sampling).
    """
    logits = _masked(negative.sub_(log_expected), hit)
    most = torch.maximum(logits.amax(1), positive)
    share = logits.sub_(most.unsqueeze(1)).clamp_(min=_LEAST).exp_()
    own = torch.exp(positive - most)
    total = share.sum(1).add_(own)
    loss = total.log().add_(most).sub_(positive)
    return loss, torch.expm1(-loss), share.div_(total.unsqueeze(1))


def self_adversarial_loss(
    positive: Tensor,
    negative: Tensor,
    log_expected: Tensor,
    hit: Tensor | None,
    *,
    margin: float,
    temperature: float,
) -> Derived:
    """Sun et al. 2019 (RotatE), eq. 5: -log s(m + f+) - sum_k p_k log s(-f_k - m).

    p is the softmax of `temperature` * f over the negatives, corrected for the draws; no gradient
    flows through it.
    """
    share = _shares(temperature * negative - log_expected, hit)
    loss = -F.logsigmoid(margin + positive) - (share * F.logsigmoid(-negative - margin)).sum(1)
    return loss, -torch.sigmoid(-margin - positive), share * torch.sigmoid(negative + margin)


def margin_loss(
    positive: Tensor,
    negative: Tensor,
    log_expected: Tensor,
    hit: Tensor | None,
    *,
    margin: float,
) -> Derived:
    """Lin et al. 2015, eq. 10: max(0, margin - f+ + f_k), its mean over uniform negatives."""
    share = _shares((-log_expected).expand_as(negative), hit)
    above = F.relu(margin - positive.unsqueeze(1) + negative)
    by_negative = share * (above > 0)
    return (share * above).sum(1), -by_negative.sum(1), by_negative


def pick_loss(name: LossName, margin: float, temperature: float) -> Loss:
    """The named loss with its settings."""
    if name == "softmax":
        return softmax_loss
    if name == "margin":
        return partial(margin_loss, margin=margin)
    return partial(self_adversarial_loss, margin=margin, temperature=temperature)


def _shares(logits: Tensor, hit: Tensor | None) -> Tensor:
    """A softmax over the negatives that are no hits; zeros where all are."""
    shares = torch.softmax(_masked(logits.clone(), hit), dim=1)
    return shares if hit is None else shares.masked_fill_(hit, 0.0)


def _masked(logits: Tensor, hit: Tensor | None) -> Tensor:
    return logits if hit is None else logits.masked_fill_(hit, _NEVER)
