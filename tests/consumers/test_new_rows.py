"""Rows of new entities: where they begin, and that nothing old changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.host_table import HostTable
from provender.consumers.new_rows import KeyVectors, Neighbours
from provender.plugin.errors import ConfigError

DIM = 3
Made = Callable[[], EntityTable]


def _plain() -> EntityTable:
    table = EntityTable.from_nothing(
        pa.array([20, 10, 30]), DIM, seed=2, buckets=4, training=RowTraining(rate=0.5)
    )
    # Row 10 and a hashed one have learned.
    table(torch.tensor([0, 4])).square().sum().backward()
    table.step()
    return table


def _host() -> EntityTable:
    return HostTable.of(_plain(), capacity=2)


@pytest.fixture(params=[_plain, _host], ids=["plain", "host"])
def table(request: pytest.FixtureRequest) -> EntityTable:
    made: EntityTable = request.param()
    return made


def row(table: EntityTable, key: int) -> torch.Tensor:
    return table.values[table.rows_of(pa.array([key]))][0]


def test_old_rows_and_sums_keep_every_bit(table: EntityTable) -> None:
    old = _plain()
    assert table.adopt(pa.array([25, 5, None, 10, 25])) == 2
    assert table.keys.to_pylist() == [5, 10, 20, 25, 30]
    places = table.rows_of(old.keys)
    assert torch.equal(table.values[places], old.values[:3])
    assert torch.equal(table.squares[places], old.squares[:3])
    assert torch.equal(table.values[5:], old.values[3:]), "hashed rows stay the last"
    assert torch.equal(table.squares[5:], old.squares[3:])
    assert table.squares[table.rows_of(pa.array([5, 25]))].tolist() == [0, 0]
    assert int(table.steps) == 1
    assert table.adopt(pa.array([25, 30])) == 0
    assert table.adopt(pa.array([], pa.int64())) == 0


def test_without_more_a_new_row_is_the_hashed_one_that_it_was(table: EntityTable) -> None:
    keys = pa.array([1, 2, 3, 4, 5, 6, 7])
    before = table.values[table.rows_of(keys)]
    table.adopt(keys)
    assert torch.equal(table.values[table.rows_of(keys)], before)
    assert (table.rows_of(keys) < len(table.keys)).all()
    bare = EntityTable(pa.array([1]), torch.ones(1, DIM))
    bare.adopt(pa.array([2]))
    assert row(bare, 2).tolist() == [0] * DIM


def test_a_new_row_is_the_weighted_mean_of_its_neighbours(table: EntityTable) -> None:
    near = Neighbours(
        pa.array([7, 7, 7, 8, 9]), pa.array([10, 30, 99, 98, 20]), [3.0, 1.0, 50.0, 1.0, 2.0]
    )
    expected = (3 * row(table, 10) + row(table, 30)) / 4
    shared = row(table, 8)
    table.adopt(pa.array([7, 8, 9]), near)
    assert torch.allclose(row(table, 7), expected, atol=1e-7)
    assert torch.equal(row(table, 8), shared), "no neighbour of it has a row"
    assert torch.equal(row(table, 9), row(table, 20))
    table.adopt(pa.array([6]), Neighbours.of({6: [10, 30]}))
    assert torch.allclose(row(table, 6), (row(table, 10) + row(table, 30)) / 2, atol=1e-7)


def test_a_newer_vector_goes_where_training_took_the_others(table: EntityTable) -> None:
    table.scale.fill_(2)
    newer = KeyVectors(pa.array([10, 20, 40]), np.arange(9, dtype=np.float32).reshape(3, 3))
    # Only 10 has learned: how far 20 is from its vector is no training.
    expected = 2 * torch.tensor([6.0, 7, 8]) + row(table, 10) - 2 * torch.tensor([0.0, 1, 2])
    shared = row(table, 41)
    table.adopt(pa.array([40, 41]), vectors=newer)
    assert torch.allclose(row(table, 40), expected)
    assert torch.equal(row(table, 41), shared)
    table.adopt(pa.array([42]), Neighbours.of({42: [30]}), newer)
    assert torch.equal(row(table, 42), row(table, 30)), "neighbours come first"


def test_what_does_not_fit_is_refused(table: EntityTable) -> None:
    with pytest.raises(ConfigError, match="keys of an ID table"):
        table.adopt(pa.array(["a"]))
    with pytest.raises(ConfigError, match="4 numbers"):
        table.adopt(pa.array([1]), vectors=KeyVectors(pa.array([1]), np.ones((1, 4), np.float32)))
    with pytest.raises(ConfigError, match="above zero"):
        Neighbours(pa.array([1]), pa.array([2]), [0.0])
    with pytest.raises(ConfigError, match="as many of each"):
        Neighbours(pa.array([1]), pa.array([2, 3]))
