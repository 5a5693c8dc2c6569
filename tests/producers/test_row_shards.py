"""Sharded rows against one table that sees the batches of all ranks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from provender.producers import ranks
from provender.producers.ranks import Ranks
from provender.producers.row_shards import RowShards, collect, scatter, scattered
from tests.producers.rank_world import over

DIM, STEPS, RATE, CAPACITY = 3, 6, 0.1, 20


def _batches(count: int, rows: int) -> list[list[tuple[Tensor, Tensor]]]:
    """By step and rank: unique rows in any order, none now and then, and their gradients."""
    generator = torch.Generator().manual_seed(count)
    steps = []
    for step in range(STEPS):
        batch = []
        for rank in range(count):
            size = 0 if step == 2 and rank == 0 else min(rows, 4 + 3 * rank)
            ids = torch.randperm(rows, generator=generator)[:size]
            batch.append((ids, torch.randn(size, DIM, generator=generator)))
        steps.append(batch)
    return steps


def _table(rows: int) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(9))


def _one_process(count: int, rows: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """The table before each step and at the end, and Adagrad's sums, all by the definition."""
    table, squares, before = _table(rows), torch.zeros(rows), []
    for batch in _batches(count, rows):
        before.append(table.clone())
        gradient = torch.zeros(rows, DIM)
        for ids, own in batch:
            for row, part in zip(ids.tolist(), own, strict=True):
                gradient[row] += part
        squares += gradient.square().mean(1)
        seen = squares > 0
        table[seen] -= RATE * gradient[seen] / squares[seen].sqrt().unsqueeze(1)
    return before, table, squares


def _sharded(here: Ranks, rows: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """The rows that this rank gathered at each step, and what rank 0 collects at the end."""
    whole = _table(rows)
    values = scattered(rows, DIM) if here.rank else scatter(whole)
    shards = RowShards(values, torch.zeros(len(values)), CAPACITY)
    gathered = []
    for batch in _batches(here.count, rows):
        ids, gradient = batch[here.rank]
        exchange = shards.ask(ids)
        gathered.append(shards.gather(exchange)[exchange.place])
        by_owner = torch.empty_like(gradient)
        by_owner[exchange.place] = gradient
        shards.update(exchange.here, shards.give_back(exchange, by_owner), rate=RATE)
    if here.rank:
        ranks.send(shards.values, 0)
        ranks.send(shards.squares, 0)
        return gathered, whole[:0], whole[:0]
    table, squares = torch.empty(rows, DIM), torch.empty(rows)
    collect(table, shards.values)
    collect(squares, shards.squares)
    return gathered, table, squares


@pytest.mark.parametrize(("count", "rows"), [(1, 7), (2, 11), (3, 10), (3, 2)])
def test_shards_move_as_one_table_that_sees_all_batches(count: int, rows: int) -> None:
    before, table, squares = _one_process(count, rows)
    found = over(count, lambda here: _sharded(here, rows))
    for rank, (gathered, _, _) in enumerate(found):
        for then, own, batch in zip(before, gathered, _batches(count, rows), strict=True):
            torch.testing.assert_close(own, then[batch[rank][0]])
    torch.testing.assert_close(found[0][1], table)
    torch.testing.assert_close(found[0][2], squares)


def test_more_rows_than_a_message_holds_are_refused() -> None:
    def work(here: Ranks) -> str:
        shards = RowShards(torch.zeros(50, DIM), torch.zeros(50), CAPACITY)
        with pytest.raises(ValueError, match="21 rows of one rank; the capacity is 20"):
            shards.ask(torch.arange(21))
        return "refused"

    assert over(1, work) == ["refused"]
