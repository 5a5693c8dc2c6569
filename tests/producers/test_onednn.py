"""Products by oneDNN against float64, and the ways past it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from provender.producers import onednn
from provender.producers.onednn import product


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (64, 128, 257), (0, 3, 2), (3, 0, 2)])
@pytest.mark.parametrize("there", [True, False])
def test_it_is_the_product(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], there: bool
) -> None:
    if not there:
        monkeypatch.setattr(onednn, "LINEAR", None)
    m, k, n = shape
    left, right = numbers(m, k), numbers(k, n)
    expected = left.double() @ right.double()
    # However the numbers lie in memory.
    for a in (left, left.T.contiguous().T):
        for b in (right, right.T.contiguous().T):
            torch.testing.assert_close(product(a, b).double(), expected, rtol=1e-5, atol=1e-5)
    assert product(left.double(), right.double()).dtype == torch.float64


def test_a_gradient_goes_through() -> None:
    left, right = numbers(4, 3).requires_grad_(), numbers(3, 5)
    product(left, right).sum().backward()
    assert left.grad is not None
    torch.testing.assert_close(left.grad, right.sum(1).expand(4, 3))


def test_no_number_stays_none() -> None:
    left = numbers(4, 3)
    left[1, 1] = torch.nan
    assert product(left, numbers(3, 5)).isnan().any(1).tolist() == [False, True, False, False]
