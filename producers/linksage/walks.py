"""Random walks in torch, on CPU and GPU: weighted, with restarts, the same for any sharding.

All walks of a block of starts go on by a step at a time. What a walk draws depends on the seed, the
hash of its start's key, its number and the step (counter_random.py), and all else is exact integer
arithmetic or rounds the same way everywhere, so that blocks, shards and devices change nothing.

Legend of shapes: n starts, w walks of each, r steps whose states can be neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provender.plugin.counter_random import draw, walker_keys
from provender.producers.linksage.alias_tables import UNIT
from provender.producers.linksage.config import NodeType
from provender.producers.linksage.state_graph import StateGraph

#: Draws of a step: which edge, whether its alias instead, whether to begin again.
EDGE, ALIAS, RESTART = range(3)
DRAWS = 3
#: Beyond so many edges of a state 24 bits of a draw would favour some of them.
_MOST_IN_FLOAT32 = 1 << 12


@dataclass(frozen=True)
class Step:
    """What can happen in a step.

    Attributes:
        counted: whether neighbours can be come to.
        restarts: spans of states, first and one past the last, and how likely a walk that comes
            there begins again at its start.
    """

    counted: bool
    restarts: tuple[tuple[int, int, float], ...]


class Walker(Protocol):
    """Walks over one state graph."""

    def walk(self, starts: Tensor, hashes: Tensor, walks: Tensor) -> Tensor:
        """The states that are come to in counted steps: integers (n, r * w).

        Args:
            starts: int64 (n,), pages.
            hashes: int64 (n,), of their keys.
            walks: int64 (w,), numbers of the walks.
        """


def plan(
    states: StateGraph, length: int, restart: Mapping[NodeType, float], counted: Sequence[str]
) -> list[Step]:
    """What can happen in each step, by the types of node that a walk can be at by then.

    A walk that has ended is at none and does not begin again; nothing does after the last step.
    """
    steps: list[Step] = []
    now = {states.start}
    for number in range(1, length + 1):
        now = {after for block in now for after in states.follows[block]}
        spans = tuple(
            (*states.spans[block], restart[block[0]])
            for block in sorted(now)
            if restart.get(block[0]) and number < length
        )
        steps.append(Step(any(block[0] in counted for block in now), spans))
        if spans:
            now.add(states.start)
    return steps


class TorchWalker:
    """The walker of which this module tells; it walks where the state graph's tensors are."""

    def __init__(self, states: StateGraph, steps: Sequence[Step], seed: int) -> None:
        self.steps, self.seed = steps, seed
        self.first_start = states.spans[states.start][0]
        degrees = states.offsets.diff()
        most = max(len(states.targets), len(states.offsets))
        index = torch.int32 if most < 2**31 else torch.int64
        exact = torch.float32 if int(degrees.max()) <= _MOST_IN_FLOAT32 else torch.float64
        self.degrees, self.begins = degrees.to(exact), states.offsets[:-1].to(index)
        self.targets = states.targets.to(index)
        self.alias: tuple[Tensor, Tensor] | None = None
        if states.alias is not None:
            keep, other = states.alias
            self.alias = keep - UNIT // 2, other.to(index)

    def walk(self, starts: Tensor, hashes: Tensor, walks: Tensor) -> Tensor:
        """The states that are come to in counted steps: int32 or int64 (n, r * w)."""
        count = (len(starts), len(walks))
        keys = walker_keys(self.seed, hashes, walks).view(-1)
        begin = (starts + self.first_start).to(self.begins.dtype).repeat_interleave(len(walks))
        state, work = begin.clone(), _Work(begin, keys, self.degrees.dtype)
        counted = sum(step.counted for step in self.steps)
        visited = state.new_empty((len(starts), counted, len(walks)))
        row = 0
        for number, step in enumerate(self.steps):
            self._go(state, keys, DRAWS * number, work)
            if step.counted:
                visited[:, row].copy_(state.view(count))
                row += 1
            for span in step.restarts:
                _restart(state, begin, keys, DRAWS * number, span, work)
        return visited.view(len(starts), -1)

    def _go(self, state: Tensor, keys: Tensor, counter: int, work: _Work) -> None:
        """One step of all walks, in place."""
        torch.index_select(self.degrees, 0, state, out=work.share)
        torch.index_select(self.begins, 0, state, out=work.place)
        drawn = draw(keys, counter + EDGE, work.drawn, work.spare)
        bits = 32
        if work.unit.dtype == torch.float32:  # it holds 24 bits
            drawn, bits = drawn.bitwise_right_shift_(8), 24
        # Below 1 by so much that its product with a whole number is below that after rounding too.
        work.unit.copy_(drawn).mul_(2.0**-bits).add_(0.5)
        work.place.add_(work.slot.copy_(work.share.mul_(work.unit)))
        torch.index_select(self.targets, 0, work.place, out=state)
        if self.alias is not None:
            keep, other = self.alias
            torch.index_select(keep, 0, work.place, out=work.keep)
            torch.index_select(other, 0, work.place, out=work.slot)
            drawn = draw(keys, counter + ALIAS, work.drawn, work.spare).bitwise_right_shift_(8)
            torch.where(drawn < work.keep, state, work.slot, out=state)


class _Work:
    """Room for what a step makes of all walks, so that it stays in the cache."""

    def __init__(self, state: Tensor, keys: Tensor, exact: torch.dtype) -> None:
        self.place, self.slot = torch.empty_like(state), torch.empty_like(state)
        self.drawn, self.spare, self.keep = (torch.empty_like(keys) for _ in range(3))
        self.share, self.unit = (torch.empty_like(state, dtype=exact) for _ in range(2))


def _restart(
    state: Tensor,
    begin: Tensor,
    keys: Tensor,
    counter: int,
    span: tuple[int, int, float],
    work: _Work,
) -> None:
    """Walks that are in the span go back to where they began, by chance, in place."""
    first, end, chance = span
    drawn = draw(keys, counter + RESTART, work.drawn, work.spare).bitwise_right_shift_(8)
    again = drawn < round(chance * UNIT) - UNIT // 2
    again &= (state >= first) & (state < end)
    torch.where(again, begin, state, out=state)
