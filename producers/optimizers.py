"""Adam as a plain function on tensors, so that checkpoints hold all of it."""

from __future__ import annotations

import torch
from torch import Tensor


def adam(value: Tensor, moments: Tensor, gradient: Tensor, step: int, *, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) in place; `moments` is (2, *value)."""
    first, second, beta1, beta2 = moments[0], moments[1], 0.9, 0.999
    first.lerp_(gradient, 1 - beta1)
    second.lerp_(gradient.square(), 1 - beta2)
    size = (second / (1 - beta2**step)).sqrt_().add_(1e-8)
    value.sub_(torch.div(first, size), alpha=rate / (1 - beta1**step))
