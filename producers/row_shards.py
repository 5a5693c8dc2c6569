"""A table whose rows are spread over the ranks.

Row i lies on rank i % W, so that rows of neighbouring numbers, which are alike in type, age and
degree, do not gather on one rank. Beside each row lies its sum of row-wise Adagrad. A step makes
three exchanges, whose sizes depend on the rows of the step and not on the table: the rows' numbers
to their owners, the rows back, and the gradients to the owners, which sum what several ranks send
for one row before the one step of Adagrad. So the table moves as that of a single process that
sees the batches of all ranks at once.

Legend of shapes: N rows, W ranks, S = ceil(N / W) rows of a shard, d dims, U rows that this rank
asks for, A rows that all ranks ask of this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from provender.plugin.row_adagrad import adagrad_rows
from provender.producers import ranks


@dataclass(frozen=True, eq=False)
class RowShards:
    """This rank's rows of a table, and the way to those of the others.

    `values` (S, d) and `squares` (S,) hold row `rank + W * j` at j; a last one may be padding.
    `capacity`, the same on all ranks, is the most rows that a rank asks of another in a step: so
    counts and numbers go in one message of fixed size.
    """

    values: Tensor
    squares: Tensor
    capacity: int

    def ask(self, rows: Tensor) -> Exchange:
        """Tell the owners which rows (U,), unique, maybe none, this rank will read and change.

        All ranks call it, then `gather` and `give_back`. Raises ValueError where more rows than
        `capacity` are on one rank, and TrainingError where a rank is gone.
        """
        count = dist.get_world_size()
        owner = rows % count
        order = torch.argsort(owner, stable=True)
        takes = torch.bincount(owner, minlength=count).tolist()
        if max(takes) > self.capacity:
            raise ValueError(f"{max(takes)} rows of one rank; the capacity is {self.capacity}")
        asking = torch.zeros(count, 1 + self.capacity, dtype=torch.int32)
        there = (rows.index_select(0, order) // count).split(takes)
        for message, numbers in zip(asking, there, strict=True):
            message[0], message[1 : 1 + len(numbers)] = len(numbers), numbers
        asked = torch.empty_like(asking)
        ranks.all_to_all(asked, asking)
        gives = asked[:, 0].tolist()
        here = torch.cat([message[1 : 1 + n] for message, n in zip(asked, gives, strict=True)])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return Exchange(place, here.long(), takes, gives)

    def gather(self, exchange: Exchange) -> Tensor:
        """The rows (U, d), that of rows[i] at `exchange.place[i]`."""
        given = self.values.index_select(0, exchange.here)
        taken = given.new_empty(sum(exchange.takes), given.shape[1])
        ranks.all_to_all(taken, given, exchange.takes, exchange.gives)
        return taken

    def give_back(self, exchange: Exchange, gradient: Tensor) -> Tensor:
        """Send this rank's gradient (U, d), as `gather` has the rows; returns those of `here`."""
        got = gradient.new_empty(sum(exchange.gives), gradient.shape[1])
        ranks.all_to_all(got, gradient, exchange.gives, exchange.takes)
        return got

    def update(self, here: Tensor, gradient: Tensor, *, rate: float) -> None:
        """One step of row-wise Adagrad on rows (A,) of this shard; the gradients (A, d) of one row
        are summed.
        """
        rows, place = torch.unique(here, return_inverse=True)
        summed = gradient.new_zeros(len(rows), gradient.shape[1]).index_add_(0, place, gradient)
        adagrad_rows(self.values, self.squares, rows, summed, rate=rate)


@dataclass(frozen=True, eq=False)
class Exchange:
    """Who asked whom for which rows in one step: `takes` and `gives` are counts by rank.

    `place` (U,) says where each row that was asked for is, now that they are sorted by owner.
    `here` (A,) are the rows of this rank's shard, first those for rank 0; two ranks may want one.
    """

    place: Tensor
    here: Tensor
    takes: list[int]
    gives: list[int]


def scatter(table: Tensor) -> Tensor:
    """Rank 0 sends the others their rows of a table (N, ...), and returns its own (S, ...)."""
    count = dist.get_world_size()
    shards = (_padded(table[rank::count], _share(len(table))) for rank in range(count))
    own = next(shards)
    for rank, shard in enumerate(shards, start=1):
        ranks.send(shard, rank)
    return own


def scattered(rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Receive this rank's rows (S, ...) of the table (`rows`, ...) that rank 0 scatters."""
    return ranks.receive(torch.empty(_share(rows), *shape, dtype=dtype), 0)


def collect(table: Tensor, own: Tensor) -> None:
    """Rank 0 puts all shards, its own (S, ...) and those that the others send, into the table."""
    count, shard = dist.get_world_size(), own
    for rank in range(count):
        part = table[rank::count]
        if rank:
            shard = ranks.receive(torch.empty_like(own), rank)
        part.copy_(shard[: len(part)])


def _share(rows: int) -> int:
    return -(-rows // dist.get_world_size())


def _padded(shard: Tensor, rows: int) -> Tensor:
    whole = shard.new_zeros(rows, *shard.shape[1:])
    whole[: len(shard)] = shard
    return whole
