"""What each of several processes does of a batch, and how they get what the others have computed.

Of W processes the one of rank r takes rows r, r + W, ... of whatever is shared out. All do equally
many: where they run out, one does the first row again, which then counts for nothing.

Legend of shapes: W processes, M rows shared out, S = ceil(M / W) of them to each, L actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from provender.producers import ranks
from provender.producers.upstream.inputs import Actions, Bag, Gathered, Inputs


@dataclass(frozen=True)
class Place:
    """This process among all that train together."""

    rank: int = 0
    ranks: int = 1

    @classmethod
    def here(cls) -> Place:
        """As joined (producers/ranks.py), or alone."""
        found = ranks.current()
        return cls(found.rank, found.count) if found else cls()

    def rows(self, count: int) -> Tensor:
        """This process's own of so many rows, int64: S of them, or S - 1."""
        return torch.arange(count)[self.rank :: self.ranks]

    def filled(self, count: int) -> Tensor:
        """The same, with the first row where others have one more: int64 (S,)."""
        rows, size = self.rows(count), -(-count // self.ranks)
        return torch.cat([rows, rows.new_zeros(size - len(rows))])


def some_rows(inputs: Inputs, rows: Tensor) -> Inputs:
    """The inputs of rows int64 (n,), in their order."""
    return Inputs(
        inputs.numbers[rows],
        {name: _bag(each, rows) for name, each in inputs.categories.items()},
        {name: _gathered(each, rows) for name, each in inputs.vectors.items()},
        None if inputs.ids is None else inputs.ids[rows],
        None if inputs.sequence is None else _actions(inputs.sequence, rows),
    )


def _bag(bag: Bag, rows: Tensor) -> Bag:
    first = bag.offsets[rows]
    counts = bag.offsets[rows + 1] - first
    ends = counts.cumsum(0)
    place = (first - ends + counts).repeat_interleave(counts)
    place += torch.arange(len(place), device=place.device)
    return Bag(bag.values[place], torch.cat([ends.new_zeros(1), ends]))


def _gathered(given: Gathered, rows: Tensor) -> Gathered:
    return Gathered(given.table, given.index[rows])


def _actions(given: Actions, rows: Tensor) -> Actions:
    vectors = {name: _gathered(each, rows) for name, each in given.vectors.items()}
    return Actions(
        given.event[rows], given.age[rows], given.pin[rows], given.present[rows], vectors
    )


def from_all(place: Place, counts: Sequence[int], *own: Tensor) -> tuple[Tensor, ...]:
    """All rows (M, ...) of tensors of which each process has computed its S, in one exchange.

    Gradients go back to where rows were computed, added up over the processes in order of rank.

    Args:
        counts: M of each tensor.
        own: float32 (S, ...), of the rows `Place.filled`.
    """
    if place.ranks == 1:
        return own
    found: tuple[Tensor, ...] = _FromAll.apply(place.ranks, counts, *own)  # type: ignore[no-untyped-call]
    return found


class _FromAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, among: int, counts: Sequence[int], *own: Tensor) -> tuple[Tensor, ...]:
        ctx.among, ctx.shapes, ctx.device = among, [each.shape for each in own], own[0].device
        flat = torch.cat([each.detach().flatten() for each in own]).cpu()
        parts = ranks.all_gather(flat).split([each.numel() for each in own], 1)  # (W, S * ...)
        return tuple(
            part.view(among, *each.shape).transpose(0, 1).flatten(0, 1)[:count].to(each.device)
            for part, each, count in zip(parts, own, counts, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        parts = []
        for each, shape in zip(given, ctx.shapes, strict=True):
            filled = each.new_zeros(shape[0] * ctx.among, *shape[1:])
            filled[: len(each)] = each
            shares = filled.view(shape[0], ctx.among, -1).transpose(0, 1)  # (W, S, ...)
            parts.append(shares.flatten(1))
        flat = torch.cat(parts, 1).cpu()
        back = torch.empty_like(flat)
        ranks.all_to_all(back, flat)
        own = back.sum(0).to(ctx.device).split([shape.numel() for shape in ctx.shapes])
        return None, None, *(part.view(at) for part, at in zip(own, ctx.shapes, strict=True))
