"""Matrix products of the encoder, by the fastest way that torch has for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# torch sends float32 products on CPU to MKL, which does less than half of what oneDNN does on AMD's
# cores with AVX-512 (103 against 245 GFLOP/s). Its own compiler calls oneDNN by this operator; it
# has no gradient of its own, and another torch may not have it: then there is F.linear.
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """x W' + b, (..., in) by (out, in) to (..., out), float32 or as autocast says.

    Args:
        then: "none" or "relu", which is taken of the result.
    """
    if _by_onednn(x, weight):
        found: Tensor = _ONEDNN(x, weight, bias, then, [], "")
        return found
    found = F.linear(x, weight, bias)
    return F.relu(found, inplace=True) if then == "relu" else found


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
