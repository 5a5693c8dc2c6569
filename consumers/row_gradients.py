"""Gradients of some rows of a table: of several passes, and of several processes, as one.

Legend of shapes: U rows, each once, d the length of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class RowGradients(NamedTuple):
    """The rows int64 (U,), ascending, and their gradients float32 (U, d)."""

    numbers: Tensor
    gradient: Tensor


def summed(parts: Sequence[RowGradients], dim: int, device: torch.device) -> RowGradients:
    """Add up the gradients of rows that stand in several parts, in the order of the parts.

    What is returned is no part's own memory where there are several, and is where there is one.
    """
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return RowGradients(
            torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, dim, device=device)
        )
    numbers, place = torch.cat([part.numbers for part in parts]).unique(return_inverse=True)
    total = parts[0].gradient.new_zeros(len(numbers), dim)
    total.index_add_(0, place, torch.cat([part.gradient for part in parts]))
    return RowGradients(numbers, total)


def gathered(mine: RowGradients, group: ProcessGroup) -> RowGradients:
    """Sum the gradients of all processes of a group, in the order of their ranks on each of them.

    So all come to the same bits. It sends what the rows of the step are, however large the table.
    """
    ranks = dist.get_world_size(group)
    count = torch.tensor([len(mine.numbers)], device=mine.numbers.device)
    counts = [torch.zeros_like(count) for _ in range(ranks)]
    dist.all_gather(counts, count, group=group)
    most = max(int(each) for each in counts)
    dim = mine.gradient.shape[1]
    if most == 0:
        return mine
    numbers = mine.numbers.new_zeros(most)
    numbers[: len(mine.numbers)] = mine.numbers
    gradient = mine.gradient.new_zeros(most, dim)
    gradient[: len(mine.gradient)] = mine.gradient
    all_numbers = [torch.empty_like(numbers) for _ in range(ranks)]
    all_gradients = [torch.empty_like(gradient) for _ in range(ranks)]
    dist.all_gather(all_numbers, numbers, group=group)
    dist.all_gather(all_gradients, gradient, group=group)
    parts = [
        RowGradients(some[: int(own)], each[: int(own)])
        for some, each, own in zip(all_numbers, all_gradients, counts, strict=True)
    ]
    return summed(parts, dim, mine.gradient.device)
