"""Id tables: which row a key has, how they grow, what a step touches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.id_table import IdTable, Rows
from provender.producers.vectors import Vectors

KEYS = {"int64": pa.array([7, -3, 12, 2**40]), "string": pa.array(["b", "", "é", "a"])}


@pytest.fixture(params=["int64", "string"])
def keys(request: pytest.FixtureRequest) -> pa.Array:
    return KEYS[request.param]


def _table(keys: pa.Array, seed: int = 0) -> IdTable:
    return IdTable.exact(keys.type, 6).grown(keys, None, seed)


def test_rows_are_those_of_the_keys(keys: pa.Array) -> None:
    table = _table(keys)
    asked = pa.concat_arrays([keys[2:], pa.nulls(1, keys.type), keys[:1], keys[:1]])
    assert table.rows_of(asked).tolist() == [2, 3, -1, 0, 0]
    assert IdTable.exact(keys.type, 6).rows_of(keys).tolist() == [-1] * 4
    assert _table(keys[:2]).rows_of(keys).tolist() == [0, 1, -1, -1]


def test_growth_keeps_old_rows_to_the_bit(keys: pa.Array) -> None:
    table = _table(keys[:3])
    table.update(torch.tensor([0, 2]), torch.ones(2, 6), 0.3)
    grown = table.grown(keys[1:], None, 5)
    assert len(grown) == 4
    assert torch.equal(grown.values[:3], table.values)
    assert torch.equal(grown.squares, torch.cat([table.squares, torch.zeros(1)]))
    assert grown.rows_of(keys).tolist() == [0, 1, 2, 3]


@given(st.lists(st.text(max_size=3), unique=True, max_size=8), st.randoms(use_true_random=False))
def test_new_rows_do_not_depend_on_order_or_other_keys(keys: list[str], chance: object) -> None:
    table = IdTable.exact(pa.string(), 4)
    one = table.grown(pa.array(keys, pa.string()), None, 9)
    other = table
    for key in [*reversed(keys), *keys]:
        other = other.grown(pa.array([key]), None, 9)
    asked = pa.array(keys, pa.string())
    assert len(one) == len(other) == len(keys)
    assert torch.equal(one.values[one.rows_of(asked)], other.values[other.rows_of(asked)])


def test_new_rows_are_small_and_all_differ() -> None:
    values = IdTable.exact(pa.int64(), 32).grown(pa.array(range(3000)), None, 1).values
    assert values.abs().max() <= 0.05
    assert values.mean().abs() < 1e-3
    assert values.std() == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert len(values.unique(dim=0)) == 3000
    other = IdTable.exact(pa.int64(), 32).grown(pa.array(range(3000)), None, 2).values
    assert abs(np.corrcoef(values.flatten(), other.flatten())[0, 1]) < 0.02


def _start(dim: int) -> Vectors:
    rows = np.arange(2 * dim, dtype=np.float32).reshape(2, dim)
    return Vectors(pa.array([7, 12]), rows)


def test_rows_start_from_vectors_where_there_are_any() -> None:
    keys, start = KEYS["int64"], _start(6)
    table = IdTable.exact(keys.type, 6).grown(keys, start, 0)
    plain = _table(keys)
    assert torch.equal(table.values[[1, 3]], plain.values[[1, 3]])
    began = table.values[[0, 2]]
    assert float(began.square().mean()) == pytest.approx(1)
    scale = 1 / np.sqrt((start.vectors.astype(float) ** 2).mean())
    np.testing.assert_allclose(began.numpy(), start.vectors * scale, rtol=1e-6)


def test_later_rows_start_at_the_same_scale(tmp_path: Path) -> None:
    table = IdTable.exact(pa.int64(), 6).grown(pa.array([7]), _start(6), 0)
    table.save(tmp_path / "table")
    more = Vectors(pa.array([99]), np.full((1, 6), 5, np.float32))
    grown = IdTable.load(tmp_path / "table").grown(pa.array([99]), more, 0)
    assert table.start_scale is not None
    np.testing.assert_allclose(grown.values[1].numpy(), 5 * table.start_scale, rtol=1e-6)


def test_vectors_of_another_length_and_keys_of_another_type_are_refused() -> None:
    table = IdTable.exact(pa.int64(), 6)
    with pytest.raises(ConfigError, match="5 numbers; expected 6"):
        table.grown(KEYS["int64"], _start(5), 0)
    for use in (table.rows_of, lambda keys: table.grown(keys, None, 0)):
        with pytest.raises(ConfigError, match="found string; expected int64"):
            use(KEYS["string"])


def test_hashed_keys_share_rows_and_never_change_them(keys: pa.Array) -> None:
    table = IdTable.hashed(3, 6, seed=0)
    rows = table.rows_of(pa.concat_arrays([keys, pa.nulls(1, keys.type), keys]))
    assert rows[:4].tolist() == rows[5:].tolist()
    assert rows[4] == -1
    assert set(rows.tolist()) <= {-1, 0, 1, 2}
    assert table.grown(keys, None, 0) is table
    assert len(table.values.unique(dim=0)) == 3


def test_hashes_are_the_same_for_ever_and_spread() -> None:
    table = IdTable.hashed(1000, 1, seed=0)
    assert table.rows_of(pa.array(["pin", "user", ""])).tolist() == [112, 409, 774]
    assert table.rows_of(pa.array([0, 1, -1])).tolist() == [0, 789, 67]
    for keys in (pa.array(range(5000)), pa.array(map(str, range(5000)))):
        counts = table.rows_of(keys).bincount(minlength=1000)
        assert counts.max() < 20
        assert (counts > 0).sum() > 980


def test_a_batch_has_each_row_once() -> None:
    table = _table(pa.array(range(10)))
    leaf = table.leaf(torch.tensor([4, -1, 2]), torch.tensor([[2, 9], [-1, 4]]))
    assert leaf.numbers is not None
    assert leaf.numbers.tolist() == [2, 4, 9]
    assert torch.equal(leaf.values, table.values[[2, 4, 9]])
    assert leaf.values.requires_grad
    assert leaf.places(torch.tensor([[9, -1], [2, 4]])).tolist() == [[2, -1], [0, 1]]
    none = table.leaf(torch.tensor([-1]))
    assert none.values.shape == (0, 6)
    assert none.places(torch.tensor([-1])).tolist() == [-1]
    assert Rows(table.values).places(torch.tensor([3, -1])).tolist() == [3, -1]


def test_a_step_is_adagrad_on_the_rows_named_alone() -> None:
    table = _table(pa.array(range(5)))
    values, squares = table.values.double().numpy().copy(), np.zeros(5)
    gradients = [np.array([[1.0] * 6, [2, -1, 0, 0, 1, 3]]), np.full((2, 6), -0.5)]
    for rows, gradient in zip(([1, 3], [3, 4]), gradients, strict=True):
        for row, own in zip(rows, gradient, strict=True):
            squares[row] += (own**2).mean()
            values[row] -= 0.3 * own / np.sqrt(squares[row])
        table.update(torch.tensor(rows), torch.tensor(gradient).float(), 0.3)
    np.testing.assert_allclose(table.values.numpy(), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.squares.numpy(), squares, rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_saved_is_read_to_the_bit(tmp_path: Path, exact: bool) -> None:
    table = _table(KEYS["string"]) if exact else IdTable.hashed(4, 6, 1)
    table.update(torch.tensor([1, 2]), torch.ones(2, 6), 0.1)
    table.save(tmp_path / "table")
    found = IdTable.load(tmp_path / "table")
    assert torch.equal(found.values, table.values)
    assert torch.equal(found.squares, table.squares)
    assert found.keys == table.keys


@pytest.mark.parametrize("name", ["table.json", "table.safetensors", "keys.parquet"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_table_is_told(tmp_path: Path, name: str, harm: str) -> None:
    _table(KEYS["string"]).save(tmp_path / "table")
    path = tmp_path / "table" / name
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content if harm == "changed" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="a whole id table"):
        IdTable.load(tmp_path / "table")
