"""The loss over the entire space of impressions (Ma et al. 2018, ESMM), with weights of rows.

Legend of shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


def entire_space_loss(
    logits: Tensor,
    click: Tensor,
    conversion: Tensor,
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the mean loss: log loss of click plus log loss of click-and-conversion (ESMM, eq. 3).

    Args:
        logits: (B, 2); click, conversion: (B,) of 0 and 1.
        weights: task -> (B,), of each row in the mean of the task's loss; what the label is where
            its weight is 0 changes nothing.

    The product of two sigmoids is kept in logarithms, so that rare events keep their gradient.
    """
    click, conversion = _known(click, weights, "click"), _known(conversion, weights, "conversion")
    log_both = functional.logsigmoid(logits).sum(1)
    log_neither = torch.log1p(-log_both.exp().clamp(max=1 - 1e-6))
    both = click * conversion
    losses = {
        "click": functional.binary_cross_entropy_with_logits(logits[:, 0], click, reduction="none"),
        "conversion": -(both * log_both + (1 - both) * log_neither),
    }
    return sum((_mean(loss, weights, task) for task, loss in losses.items()), logits.new_zeros(()))


def _known(labels: Tensor, weights: Mapping[str, Tensor] | None, task: str) -> Tensor:
    """The labels, 0 where they are not known: what stands there may be NaN."""
    if not weights or task not in weights:
        return labels
    return torch.where(weights[task] > 0, labels, 0.0)


def _mean(loss: Tensor, weights: Mapping[str, Tensor] | None, task: str) -> Tensor:
    if not weights or task not in weights:
        return loss.mean()
    weight = weights[task].to(loss.dtype)
    total = (weight * loss).sum()
    return total / weight.sum().clamp(min=torch.finfo(loss.dtype).tiny)
