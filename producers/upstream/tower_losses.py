"""The losses of the towers, as sums and counts that processes of one training can add up exactly.

A process computes the sums of its own rows, the counts of all processes are added, and its share of
the loss is its sums by these totals: the shares add up to the loss of the whole batch, and so do
their gradients.

Legend of shapes: B examples, T tasks, M rows of a tower (Mu of users, Mp of pins), P positives that
say that user and pin fit, d dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from provender.producers.upstream.config import ContrastiveConfig
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.upstream_model import UpstreamModel

#: A sum, or one a task, and of how many.
Summed = tuple[Tensor, Tensor]


def task_sums(logits: Tensor, labels: Tensor, known: Tensor, weight: Tensor) -> Summed:
    """Cross-entropies times weights and how many labels are known, (T,) each.

    Args:
        logits: float32 (B, T).
        labels: float32 (B, T), of any value where they are not known.
        known: bool (B, T).
        weight: float32 (B,).
    """
    each = F.binary_cross_entropy_with_logits(
        logits, labels.masked_fill(~known, 0), reduction="none"
    )
    return (each * (known * weight.unsqueeze(1))).sum(0), known.sum(0).float()


def task_loss(model: UpstreamModel, sums: Tensor, counts: Tensor, totals: Tensor) -> Tensor:
    """This process's share of the mean losses of all tasks, weighed as the configuration says.

    `sums` and `counts` (T,) are those of `task_sums`, `totals` the counts of all processes. Weights
    are fixed, or learned (Kendall et al. 2018, section 3.2): exp(-s) loss + s / 2. A task without
    any known label in the batch adds nothing, so that its s stays, too; of several processes each
    adds so much of s / 2 as it has of the labels.
    """
    means = sums / totals.clamp(min=1)
    s = model.towers.log_variance
    if s is None:
        return (means * means.new_tensor(model.task_weights)).sum()
    return (torch.exp(-s) * means + s / 2 * counts / totals.clamp(min=1)).sum()


@dataclass(frozen=True, eq=False)
class Matches:
    """The examples of a batch with a positive label of a task that is liked.

    `user` and `pin`, int64 (P,), are rows of the towers; `fitting` bool (P, Mp) says which rows
    are pins that the same user likes in this batch, that of the row itself among them: these are
    no negatives; `weight` float32 (P,).
    """

    user: Tensor
    pin: Tensor
    fitting: Tensor
    weight: Tensor

    @classmethod
    def of(cls, batch: Batch, liked: Sequence[int], rows: Tensor | None = None) -> Matches:
        """Those of a batch by columns of its labels, or those among its examples `rows` (n,)."""
        columns = torch.tensor(liked, dtype=torch.int64, device=batch.labels.device)
        positive = (batch.labels[:, columns] > 0) & batch.known[:, columns]
        found = positive.any(1)
        own = found.clone()
        if rows is not None:
            own = torch.zeros_like(found).index_copy_(0, rows, found[rows])
        users, who = batch.user_id.unique(return_inverse=True)
        pins, which = batch.pin_id.unique(return_inverse=True)
        likes = found.new_zeros(len(users), len(pins))
        likes[who[batch.user[found]], which[batch.pin[found]]] = True
        user, pin = batch.user[own], batch.pin[own]
        fitting = likes[who[user]].index_select(1, which)
        return cls(user, pin, fitting, batch.weight[own])


def contrastive_sum(
    users: Tensor,
    pins: Tensor,
    matches: Matches,
    log_q: Tensor,
    config: ContrastiveConfig,
    dims: Sequence[int],
    dim_weights: Sequence[float] | None,
) -> Summed:
    """The losses of positives times weights, added up, and how many there are.

    A user is to find the pin among all rows of pins (Mp, d), by each prefix of the vectors, which
    is brought to norm 1 (Kusupati et al. 2022): softmax over inner product / temperature, less
    `log_q` (Mp,) where it is asked for. `dim_weights` are of `dims`, None for all alike; what they
    add up to does not matter.
    """
    total = users.new_zeros(len(matches.user))
    weights = list(dim_weights) if dim_weights else [1.0] * len(dims)
    for dim, weight in zip(dims, weights, strict=True):
        if weight:
            own = F.normalize(users[:, :dim].float(), dim=1).index_select(0, matches.user)
            products = own @ F.normalize(pins[:, :dim].float(), dim=1).T  # (P, Mp)
            each = _softmax_loss(products, matches, log_q if config.log_q else None, config)
            total = total + weight / sum(weights) * each
    return (total * matches.weight).sum(), total.new_tensor(len(total))


def _softmax_loss(
    products: Tensor, matches: Matches, log_q: Tensor | None, config: ContrastiveConfig
) -> Tensor:
    """-ln of the positive's share (P,), of inner products (P, Mp).

    All logits, that of the positive too, are less log q, as a pin is in batches as often as it is
    in examples (Yi et al. 2019, section 4). Negatives are weighed by exp(hardness x product), by
    its mean over negatives as they are sampled and corrected for (Robinson et al. 2021, equation
    4), which as weights of a sample get no gradient.
    """
    correction = torch.zeros_like(products[:1]) if log_q is None else -log_q.unsqueeze(0)
    logits = products / config.temperature + correction
    positive = logits.gather(1, matches.pin.unsqueeze(1))  # (P, 1)
    negatives = logits.masked_fill(matches.fitting, -math.inf)
    if config.hardness:
        harder = config.hardness * products.detach()
        base = correction.expand_as(products).masked_fill(matches.fitting, -math.inf)
        mean = (base + harder).logsumexp(1, True) - base.logsumexp(1, True)
        negatives = negatives + harder - mean.nan_to_num(0)  # NaN where there is no negative.
    return torch.cat([positive, negatives], 1).logsumexp(1) - positive.squeeze(1)


def stay_sum(vectors: Tensor, former: Tensor) -> Summed:
    """1 - cosine between vectors (M, d) and those of the former towers, added up, and M."""
    cosines = F.cosine_similarity(vectors.float(), former.detach().float(), dim=1)
    return (1 - cosines).sum(), cosines.new_tensor(len(cosines))
