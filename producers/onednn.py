"""Float32 matrix products on CPU by oneDNN, which torch leaves to MKL.

On AMD's cores with AVX-512 MKL does less than half of what oneDNN does (`a @ b` of 1024 x 128 by
128 x 256: 101 against 217 GFLOP/s on one core). torch's own compiler calls oneDNN by this operator,
which has no gradient, and which another torch may not have: then `@` does it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: (x, weight, bias, then, ...) -> then(x W' + b), without a gradient; None where torch has it not.
LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can multiply these: float32 on the CPU, not empty, no autocast."""
    return (
        LINEAR is not None
        and torch.backends.mkldnn.is_available()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` of (m, k) and (k, n), by oneDNN where no gradient is asked for."""
    wants = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    if wants or not usable(left, right):
        return left @ right
    found: Tensor = LINEAR(left, right.T, None, "none", [], "")
    return found
