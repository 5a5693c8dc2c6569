"""The losses of a chunk of triples against their negatives, with their gradients in closed form.

Each triple has a row of `scores` (B, n + 1), higher is likelier: those of its n negatives, then its
own. `log_expected` (n,) is the log of how often each negative was expected among the draws, and
`hits` are the rows and columns of negatives that count for nothing: they are the triple's own
entity, or known to be true; None means that there are none. Every loss takes the draws'
distribution out again, so that it estimates the loss against all entities, whatever they were drawn
by. Each returns the loss of every triple (B,), its derivatives by all scores (B, n + 1), and the
sum (B,) of those by its negatives; it may write into `scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["softmax", "self_adversarial", "margin"]
#: Rows and columns, int64 (n,) each.
Hits = tuple[Tensor, Tensor]
Derived = tuple[Tensor, Tensor, Tensor]
#: (scores, log_expected, hits) -> (loss, derivatives, their sum over negatives)
Loss = Callable[[Tensor, Tensor, Hits | None], Derived]
#: Far below any score and still finite: a row of nothing but hits must not become NaN.
_NEVER = -1e30


def softmax_loss(scores: Tensor, log_expected: Tensor, hits: Hits | None) -> Derived:
    """The sampled softmax, -log(exp f+ / (exp f+ + sum_k exp(f_k) / expected_k)).

    With hits masked, the expectation of the denominator is that of the full softmax over all
    entities (Bengio and Senécal 2008, importance sampling). A loss of more than 87 is told as 87:
    the triple's share is no normal float32 then.
    """
    negative = scores[:, :-1].sub_(log_expected)
    _put(negative, hits, _NEVER)
    share = torch.softmax(scores, dim=1)
    own = share[:, -1]
    loss = own.clamp_min(torch.finfo(own.dtype).tiny).log_().neg_()
    return loss, share, -own.sub_(1)


def self_adversarial_loss(
    scores: Tensor,
    log_expected: Tensor,
    hits: Hits | None,
    *,
    margin: float,
    temperature: float,
) -> Derived:
    """Sun et al. 2019 (RotatE), eq. 5: -log s(m + f+) - sum_k p_k log s(-f_k - m).

    p is the softmax of `temperature` * f over the negatives, corrected for the draws; no gradient
    flows through it.
    """
    negative, positive = scores[:, :-1], scores[:, -1]
    share = _shares(temperature * negative - log_expected, hits)
    loss = -F.logsigmoid(margin + positive) - (share * F.logsigmoid(-negative - margin)).sum(1)
    by_positive = -torch.sigmoid(-margin - positive)
    by_negative = share.mul_(torch.sigmoid(negative + margin))
    slopes = torch.cat([by_negative, by_positive.unsqueeze(1)], dim=1)
    return loss, slopes, by_negative.sum(1)


def margin_loss(
    scores: Tensor, log_expected: Tensor, hits: Hits | None, *, margin: float
) -> Derived:
    """Lin et al. 2015, eq. 10: max(0, margin - f+ + f_k), its mean over uniform negatives."""
    negative, positive = scores[:, :-1], scores[:, -1:]
    share = _shares((-log_expected).expand_as(negative), hits)
    above = F.relu(margin - positive + negative)
    loss = (share * above).sum(1)
    by_negative = share.mul_(above > 0)
    total = by_negative.sum(1)
    return loss, torch.cat([by_negative, -total.unsqueeze(1)], dim=1), total


def pick_loss(name: LossName, margin: float, temperature: float) -> Loss:
    """The named loss with its settings."""
    if name == "softmax":
        return softmax_loss
    if name == "margin":
        return partial(margin_loss, margin=margin)
    return partial(self_adversarial_loss, margin=margin, temperature=temperature)


def _shares(logits: Tensor, hits: Hits | None) -> Tensor:
    """A softmax over the negatives that are no hits; zeros where all are."""
    if hits is not None:
        logits = _put(logits.clone(), hits, _NEVER)
    return _put(torch.softmax(logits, dim=1), hits, 0.0)


def _put(values: Tensor, hits: Hits | None, value: float) -> Tensor:
    return values if hits is None else values.index_put_(hits, values.new_tensor(value))
