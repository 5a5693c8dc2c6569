"""The two optimisers of TransRA, as plain functions on tensors, so that checkpoints hold it all."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-10


def adagrad_rows(
    table: Tensor, squares: Tensor, rows: Tensor, gradient: Tensor, *, rate: float
) -> None:
    """Row-wise Adagrad in place, on the rows named and on no others.

    `table` (N, d); `squares` (N,) sums each row's mean squared gradient; `rows` (U,) unique;
    `gradient` (U, d), which is overwritten. The cost depends on U alone.
    """
    mean = torch.linalg.vector_norm(gradient, dim=1).square_().div_(gradient.shape[1])
    squares.index_add_(0, rows, mean)
    size = squares.index_select(0, rows).sqrt_().add_(_EPSILON)
    step = gradient.mul_((-rate / size).unsqueeze(1))
    # Twice as fast as index_add_ on wide rows.
    table.scatter_add_(0, rows.unsqueeze(1).expand_as(step), step)


def adam(value: Tensor, moments: Tensor, gradient: Tensor, step: int, *, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) in place; `moments` is (2, *value)."""
    first, second, beta1, beta2 = moments[0], moments[1], 0.9, 0.999
    first.lerp_(gradient, 1 - beta1)
    second.lerp_(gradient.square(), 1 - beta2)
    size = (second / (1 - beta2**step)).sqrt_().add_(1e-8)
    value.sub_(torch.div(first, size), alpha=rate / (1 - beta1**step))
