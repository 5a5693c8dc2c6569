"""Products by oneDNN against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provender.producers import onednn
from provender.producers.linksage import dense


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=["as it is", "without oneDNN"])
def linear(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Tensor]:
    if request.param == "without oneDNN":
        monkeypatch.setattr(onednn, "LINEAR", None)
    return dense.linear


def test_this_torch_has_the_operator() -> None:
    assert onednn.usable(torch.ones(2, 3), torch.ones(4, 3))


@pytest.mark.parametrize("then", ["none", "relu"])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_double_precision(
    linear: Callable[..., Tensor], then: str, biased: bool
) -> None:
    x, weight, bias = _numbers(3, 5, 7), _numbers(11, 7), _numbers(11) if biased else None
    given = _numbers(3, 5, 11)
    found: list[Tensor | None] = []
    expected: list[Tensor | None] = []
    for kind, results in ((torch.float32, found), (torch.float64, expected)):
        own = [
            None if e is None else e.detach().to(kind, copy=True).requires_grad_()
            for e in (x, weight, bias)
        ]
        if kind == torch.float64:
            values = F.linear(*own)  # type: ignore[arg-type]
            values = values.relu() if then == "relu" else values
        else:
            values = linear(*own, then=then)
            with torch.no_grad():
                assert torch.allclose(values, linear(*own, then=then), atol=1e-6)
        values.backward(given.to(kind))
        results += [values, *(each.grad for each in own if each is not None)]
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_what_needs_no_gradient_gets_none(linear: Callable[..., Tensor]) -> None:
    x, weight = _numbers(2, 4), _numbers(3, 4).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 4))


def test_no_rows_give_no_rows(linear: Callable[..., Tensor]) -> None:
    assert linear(torch.zeros(0, 4), torch.ones(3, 4)).shape == (0, 3)


def test_strides_do_not_matter(linear: Callable[..., Tensor]) -> None:
    x, weight = _numbers(6, 5, 4).transpose(0, 1), _numbers(4, 3).T
    for rows in (x, x[:, ::2], x[:, 0], x[0, 0].expand(3, 4)):
        with torch.no_grad():
            expected = rows.double() @ weight.double().T
            torch.testing.assert_close(linear(rows, weight).double(), expected, rtol=0, atol=1e-5)
    rows = x[:, ::2].detach().requires_grad_()
    linear(rows, weight).backward(_numbers(3, 5, 3).transpose(0, 1))
    expected = _numbers(3, 5, 3).transpose(0, 1) @ weight
    torch.testing.assert_close(rows.grad, expected, rtol=0, atol=1e-5)
