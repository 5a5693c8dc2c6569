"""Tables of learned rows: keys, gradients against dense autograd, schedules, processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provender.consumers.entity_table import SIZE, EntityTable, RowTraining
from provender.plugin.errors import ConfigError
from tests.consumers.kitchen import Kitchen, Version, hours

DIM = 5
KEYS = {"int64": pa.array([7, -3, 12, 2**40]), "string": pa.array(["b", "", "é", "a"])}
Matrix = npt.NDArray[np.float64]


@pytest.fixture(params=["int64", "string"])
def keys(request: pytest.FixtureRequest) -> pa.Array:
    return KEYS[request.param]


def table_of(count: int, *, buckets: int = 3, **training: Any) -> EntityTable:
    how = RowTraining(**{"rate": 0.3, **training})
    keys = pa.array(range(count), pa.int64())
    table = EntityTable.from_nothing(keys, DIM, seed=3, buckets=buckets, training=how)
    table.values.mul_(10)
    return table


def textbook(table: EntityTable, rates: Sequence[float]) -> tuple[Matrix, Matrix]:
    """The state of a table as float64, to be moved by `dense_step`."""
    return table.values.double().numpy().copy(), np.zeros(len(table.values))


def dense_step(values: Matrix, squares: Matrix, gradient: Matrix, rate: float) -> None:
    """Row-wise Adagrad as in a book, row after row, over the whole table."""
    for row in range(len(values)):
        if np.any(gradient[row]) and rate:
            squares[row] += np.mean(gradient[row] ** 2)
            values[row] -= rate * gradient[row] / np.sqrt(squares[row])


def dense_gradient(values: Matrix, calls: Sequence[Tensor], weights: Sequence[Tensor]) -> Matrix:
    """The gradient of sum(w * row) over all calls, through a dense matrix."""
    whole = torch.from_numpy(values.copy()).requires_grad_()
    padded = torch.cat([whole, whole.new_zeros(1, whole.shape[1])])
    sum(
        ((padded[rows] ** 2) * weight.double()).sum()
        for rows, weight in zip(calls, weights, strict=True)
    ).backward()  # type: ignore[union-attr]
    assert whole.grad is not None
    return whole.grad.numpy()


def test_rows_are_those_of_keys_whatever_their_order(keys: pa.Array) -> None:
    values = torch.arange(6.0)[:, None].expand(6, DIM).contiguous()
    table = EntityTable(keys, values)
    asked = pa.concat_arrays([keys[2:], pa.nulls(1, keys.type), keys[:1], keys[:1]])
    assert table(table.rows_of(asked))[:, 0].tolist() == [2, 3, 0, 0, 0]
    assert table.rows_of(asked).tolist()[2] == -1
    unknown = table.rows_of(pa.array([99, 5, 99] if keys.type == pa.int64() else ["x", "y", "x"]))
    assert all(4 <= row < 6 for row in unknown.tolist())
    assert unknown[0] == unknown[2]
    assert table.rows_of(pa.nulls(2, keys.type)).tolist() == [-1, -1]
    assert table.rows_of(keys[:0]).tolist() == []


def test_without_hashed_rows_an_unknown_key_gives_zeros() -> None:
    table = table_of(2, buckets=0)
    assert table.rows_of(pa.array([5, 1, None])).tolist() == [-1, 1, -1]
    assert table(torch.tensor([-1, -1])).tolist() == [[0.0] * DIM] * 2
    empty = EntityTable(pa.array([], pa.int64()), torch.zeros(0, DIM))
    assert empty(empty.rows_of(pa.array([1]))).tolist() == [[0.0] * DIM]


def test_wrong_keys_are_refused(keys: pa.Array) -> None:
    table = EntityTable(keys, torch.zeros(4, DIM))
    with pytest.raises(ConfigError, match="keys of an ID table"):
        table.rows_of(pa.array([7]) if keys.type == pa.string() else pa.array(["7"]))
    with pytest.raises(ConfigError, match="1 null keys"):
        EntityTable(pa.concat_arrays([keys, pa.nulls(1, keys.type)]), torch.zeros(5, DIM))
    with pytest.raises(ConfigError, match="stand there before"):
        EntityTable(pa.concat_arrays([keys, keys[:1]]), torch.zeros(5, DIM))


calls = st.lists(st.lists(st.integers(-1, 9), min_size=0, max_size=8), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(calls, min_size=1, max_size=4), st.integers(0, 2**31))
def test_steps_are_those_of_a_dense_table(steps: list[list[list[int]]], seed: int) -> None:
    table = table_of(7, warmup_steps=2)
    values, squares = textbook(table, [])
    generator = torch.Generator().manual_seed(seed)
    for number, some in enumerate(steps):
        rows = [torch.tensor(each, dtype=torch.int64) for each in some]
        weights = [torch.rand(len(each), DIM, generator=generator) + 0.1 for each in rows]
        loss = sum(((table(r) ** 2) * w).sum() for r, w in zip(rows, weights, strict=True))
        assert isinstance(loss, Tensor)
        loss.backward()
        table.step()
        gradient = dense_gradient(values, rows, weights)
        dense_step(values, squares, gradient, 0.3 * min(1, (number + 1) / 3))
    assert np.allclose(table.values.numpy(), values, rtol=1e-5, atol=1e-6)
    assert np.allclose(table.squares.numpy(), squares, rtol=1e-5, atol=1e-6)


def test_rows_that_no_pass_used_stay_to_the_bit() -> None:
    table = table_of(50)
    before = table.values.clone()
    rows = torch.tensor([[3, 3], [17, -1]])
    table(rows).sum().backward()
    table.step()
    moved = (table.values != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == [3, 17]
    assert table.squares.nonzero().flatten().tolist() == [3, 17]
    after = table.values.clone()
    table.step()  # Nothing was used since.
    assert torch.equal(table.values, after)


def test_a_step_makes_nothing_as_large_as_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(200_000, buckets=0)
    profile = torch.profiler.profile(profile_memory=True)
    with profile as made:
        table(torch.tensor([5, 9, 5])).square().sum().backward()
        table.step()
    most = max(abs(event.cpu_memory_usage) for event in made.events())
    assert 0 < most < 10_000 < table.values.nbytes


def test_frozen_first_then_a_warm_up_that_is_linear() -> None:
    how = RowTraining(rate=0.8, freeze_steps=2, warmup_steps=3)
    expected = [0, 0, 0.2, 0.4, 0.6, 0.8, 0.8]
    assert [how.rate_at(step) for step in range(7)] == pytest.approx(expected, abs=1e-15)
    table = table_of(3, rate=0.8, freeze_steps=2, warmup_steps=3)
    sizes = []
    for _ in range(7):
        before = table.values.clone()
        table(torch.tensor([1])).sum().backward()
        table.squares.zero_()  # So that a step is the rate itself.
        table.step()
        sizes.append(float((before - table.values)[1].max()))
    assert sizes == pytest.approx(expected, abs=1e-6)
    assert sizes[:2] == [0, 0]


def test_nothing_is_kept_without_a_gradient_to_come() -> None:
    table = table_of(4)
    with torch.no_grad():
        table(torch.tensor([1]))
    table.eval()
    shown = table(torch.tensor([[1, -1]]))
    assert not shown.requires_grad
    assert shown.shape == (1, 2, DIM)
    assert table._leaves == []
    table.train()
    table(torch.tensor([1])).sum().backward()
    table.forget()
    before = table.values.clone()
    table.step()
    assert torch.equal(before, table.values)


def test_dense_optimisers_never_see_a_table() -> None:
    table = table_of(4)
    assert list(table.parameters()) == []
    assert {"values", "squares", "steps", "scale"} == set(table.state_dict())


def _train(table: EntityTable, rows: Tensor, group: Any, parts: int) -> None:
    for step in range(3):
        weights = torch.linspace(0.5, 1.5, rows.numel()).reshape(rows.shape) + step
        mine = slice(None) if group is None else slice(dist.get_rank(), None, parts)
        ((table(rows[mine]) ** 2).sum(1) * weights[mine]).mean().backward()
        table.step(group, scale=1.0 if group is None else 1 / parts)


def _worker(rank: int, folder: str, rows: Tensor) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert dist.group.WORLD is not None
    try:
        table = table_of(20)
        _train(table, rows, dist.group.WORLD, 2)
        # One of the two has no rows at all in the last step.
        if rank == 0:
            table(torch.tensor([2])).sum().backward()
        table.step(dist.group.WORLD)
        torch.save((table.values, table.squares), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    rows = torch.tensor([3, 4, 3, 3, 9, -1, 21, 4])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_worker, (str(tmp_path), rows), nprocs=2)  # type: ignore[attr-defined, no-untyped-call, unused-ignore]
    one = table_of(20)
    _train(one, rows, None, 1)
    one(torch.tensor([2])).sum().backward()
    one.step()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(map(torch.equal, first, second)), "the processes' tables are the same to the bit"
    # Sums of float32 in another order: a few units in the last place a step.
    assert torch.allclose(first[0], one.values, rtol=1e-5, atol=1e-6)
    assert torch.allclose(first[1], one.squares, rtol=1e-5, atol=1e-6)


@pytest.fixture
def refreshed(tmp_path: Path) -> Kitchen:
    made = Kitchen(tmp_path / "kitchen", snapshots=True)
    made.folder.mkdir()
    for entity in ("user", "pin"):
        made.write(entity, [(1, hours(0), hours(0), (1, 0.5))], vectors=False)
    return made


def test_a_table_begins_as_the_vectors_of_its_time(refreshed: Kitchen) -> None:
    old, new = [3.0, 0.0, 0.0, 4.0], [9.0, 9.0, 9.0, 9.0]
    refreshed.snapshot(Version(1), hours(24), {"user": {1: old, 2: [0.0, 5.0, 0.0, 0.0]}})
    refreshed.snapshot(Version(1), hours(48), {"user": {1: new, 3: new}})
    store = refreshed.store()
    keys = pa.array([3, 1, 2])

    def begun(at: float, **options: Any) -> EntityTable:
        return EntityTable.from_view(
            store, "user_test_v1", hours(at), keys, seed=0, backfills=True, **options
        )

    small = EntityTable.from_nothing(keys, 4, seed=0)
    table = begun(47.9, size=None)
    assert table.values[:2].tolist() == [old, [0.0, 5.0, 0.0, 0.0]]
    assert torch.equal(table.values[2:], small.values[2:]), "key 3 came later; buckets are small"
    assert float(table.scale) == 1
    assert begun(48, size=None).values[0].tolist() == new
    unit = begun(47.9)
    assert float(unit.values[:2].square().mean()) == pytest.approx(SIZE**2)
    assert torch.allclose(unit.values[:2] / unit.scale.float(), table.values[:2])
    strict = EntityTable.from_view(store, "user_test_v1", hours(48), keys, seed=0)
    assert torch.equal(strict.values, small.values), "nothing had been written by then"
