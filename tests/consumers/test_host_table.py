"""Tables in host memory with a cache: to the bit what a plain table is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.host_table import HostTable
from provender.plugin.errors import ConfigError

DIM, ROWS = 6, 30
HOW = RowTraining(rate=0.3, freeze_steps=1, warmup_steps=2)


def plain(rows: int = ROWS) -> EntityTable:
    keys = pa.array(range(rows - 4), pa.int64())
    return EntityTable.from_nothing(keys, DIM, seed=1, buckets=4, training=HOW)


def train(table: EntityTable, rows: Tensor, weights: Tensor) -> Tensor:
    shown: Tensor = table(rows)
    (shown.square().sum(-1) * weights).sum().backward()
    other: Tensor = table(rows.flip(0)[: len(rows) // 2])
    other.sin().sum().backward()
    table.step()
    return shown.detach()


batches = st.lists(
    st.lists(st.integers(-1, ROWS - 1), min_size=1, max_size=12), min_size=1, max_size=8
)


@settings(max_examples=80, deadline=None)
@given(batches, st.integers(1, 40), st.sets(st.integers(0, 7)))
def test_it_is_the_plain_table_to_the_bit(
    steps: list[list[int]], capacity: int, ahead: set[int]
) -> None:
    one, other = plain(), HostTable.of(plain(), capacity=capacity)
    for number, rows in enumerate(steps):
        batch = torch.tensor(rows)
        if number in ahead:
            # While the step before it has yet to change some of its rows.
            other.prefetch(torch.tensor(steps[min(number + 1, len(steps) - 1)]))
        weights = torch.linspace(0.5, 2, len(rows))
        assert torch.equal(train(one, batch, weights), train(other, batch, weights))
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.squares, other.squares)
    held = other.cache._row_of[other.cache._row_of >= 0]
    assert len(set(held.tolist())) == len(held) <= capacity
    assert np.array_equal(other.cache._row_of[other.cache._slot_of[held]], held)


def test_files_hold_the_rows(tmp_path: Path) -> None:
    one, other = plain(), HostTable.of(plain(), capacity=5, folder=tmp_path / "rows")
    for start in range(4):
        rows = torch.arange(start, start + 9)
        train(one, rows, torch.ones(9))
        train(other, rows, torch.ones(9))
    assert torch.equal(one.values, other.values)
    stored = np.fromfile(tmp_path / "rows" / "values.f32", np.float32).reshape(ROWS, DIM)
    assert np.array_equal(stored, one.values.numpy())


def test_a_state_goes_from_one_kind_to_the_other() -> None:
    other = HostTable.of(plain(), capacity=3)
    for _ in range(3):
        train(other, torch.arange(8), torch.ones(8))
    one = plain()
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.values, other.values)
    assert int(one.steps) == 3
    kept = {name: each.clone() for name, each in other.state_dict().items()}
    train(other, torch.arange(8), torch.ones(8))
    assert not torch.equal(other.values, kept["values"])
    other.load_state_dict(kept)
    assert torch.equal(train(other, torch.arange(8), torch.ones(8)), kept["values"][:8])
    with pytest.raises(RuntimeError, match="values of shape"):
        other.load_state_dict(plain(9).state_dict())


def test_a_copy_is_its_own() -> None:
    table = HostTable.of(plain(), capacity=3)
    table.prefetch(torch.arange(3))
    twin = copy.deepcopy(table)
    for _ in range(3):
        train(twin, torch.arange(5), torch.ones(5))
    assert torch.equal(table.values, plain().values)
    assert not torch.equal(twin.values, table.values)


def test_what_is_used_often_stays() -> None:
    table = HostTable.of(plain(), capacity=4).eval()
    for _ in range(5):
        table(torch.tensor([0, 1]))
    for cold in range(2, 26):
        table(torch.tensor([0, 1]))
        table(torch.tensor([cold]))
    counts = table.counts
    assert (counts.hits, counts.misses) == (2 * 4 + 2 * 24, 2 + 24)
    assert counts.evicted == 26 - 4
    assert counts.read_ahead == 0


def test_rows_read_ahead_are_used_unless_they_changed_since() -> None:
    table = HostTable.of(plain(), capacity=2)
    train(table, torch.tensor([0, 1]), torch.ones(2))
    table.prefetch(torch.tensor([2, 3, -1]))
    table(torch.tensor([2, 3]))
    assert table.counts.read_ahead == 2
    with pytest.raises(ConfigError, match="at least one row"):
        HostTable.of(plain(), capacity=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("capacity", [7, 100])
def test_on_a_card_it_is_the_plain_table_on_a_card(capacity: int) -> None:
    one, other = plain().cuda(), HostTable.of(plain(), capacity=capacity).cuda()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        # Without duplicates: sums of several gradients have no order on a card.
        rows = torch.randperm(ROWS, generator=generator)[:10]
        other.prefetch(rows)
        weights = torch.linspace(0.5, 2, 10, device="cuda")
        for table in (one, other):
            (table(rows).square().sum(-1) * weights).sum().backward()
            table.step()
    assert other.values.device.type == "cpu"
    assert other.device.type == "cuda"
    assert torch.equal(one.values.cpu(), other.values)
    assert torch.equal(one.squares.cpu(), other.squares)
