"""The optimisers against dense, slow ones."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.row_adagrad import adagrad_rows
from provender.producers.optimizers import adam


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=5))
def test_rowwise_adagrad_equals_a_dense_loop(steps: list[set[int]]) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    squares = torch.zeros(7, dtype=torch.float64)
    dense, sums = table.clone(), [0.0] * 7
    for chosen in steps:
        rows = torch.tensor(sorted(chosen))
        gradient = torch.randn(len(rows), 3, dtype=torch.float64, generator=generator)
        adagrad_rows(table, squares, rows, gradient.clone(), rate=0.3)
        for row, slope in zip(rows.tolist(), gradient, strict=True):
            sums[row] += float((slope**2).sum()) / 3
            dense[row] = dense[row] - 0.3 * slope / (sums[row] ** 0.5 + 1e-10)
    torch.testing.assert_close(table, dense)
    torch.testing.assert_close(squares, torch.tensor(sums, dtype=torch.float64))


def test_rows_that_are_not_named_keep_every_bit() -> None:
    table, squares = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)), torch.zeros(5)
    before = table.clone()
    adagrad_rows(table, squares, torch.tensor([1, 3]), torch.ones(2, 4), rate=0.1)
    assert torch.equal(table[[0, 2, 4]], before[[0, 2, 4]])
    assert not torch.equal(table[[1, 3]], before[[1, 3]])
    assert squares.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_zero_gradient_moves_nothing() -> None:
    table, squares = torch.ones(2, 2), torch.zeros(2)
    adagrad_rows(table, squares, torch.tensor([0]), torch.zeros(1, 2), rate=0.1)
    assert table.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_adam_equals_torchs_own() -> None:
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    moments = torch.zeros(2, 4, 4, dtype=torch.float64)
    twin = value.clone().requires_grad_()
    optimiser = torch.optim.Adam([twin], lr=0.01)
    for step in range(1, 6):
        gradient = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        adam(value, moments, gradient, step, rate=0.01)
        twin.grad = gradient
        optimiser.step()
    torch.testing.assert_close(value, twin.detach())
