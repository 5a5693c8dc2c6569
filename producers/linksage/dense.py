"""Dense layers of the encoder, by the fastest way that torch has for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from provender.producers.onednn import LINEAR, usable


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """x W' + b, (..., in) by (out, in) to (..., out), in float32 or as autocast says.

    Args:
        then: "none" or "relu", which is taken of the result.
    """
    if not usable(x, weight):
        found = F.linear(x, weight, bias)
    elif torch.is_grad_enabled():
        found = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    else:
        return _product(x, weight, bias, then)
    return F.relu(found, inplace=not torch.is_grad_enabled()) if then == "relu" else found


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    found: Tensor = LINEAR(x, weight, bias, then, [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = given.flatten(0, -2)
        columns = rows.T.contiguous()
        return (
            _product(given.contiguous(), weight.T.contiguous()) if of_x else None,
            _product(columns, x.flatten(0, -2).T.contiguous()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
