"""What one core multiplies, FLOP a CPU second: large squares, and the shapes of a chunk."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from provender.producers.onednn import product

LARGE = 2048
#: (a, b, out): a b, perhaps written to `out`.
Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def flop_per_triple(dim: int, chunk: int, negatives: int) -> float:
    """3 [(2 + N/C) 2dk + 4Nk], forward and backward, N shared negatives a side, k = d."""
    return 3 * ((2 + negatives / chunk) * 2 * dim * dim + 4 * negatives * dim)


def gemm_rates(dim: int, chunk: int, negatives: int, dtype: torch.dtype) -> dict[str, float]:
    """FLOP a CPU second of a square product, and of the products that one chunk is made of."""
    rows = 2 * chunk + negatives
    projected = (rows, dim, dim), (rows, dim, dim), (dim, rows, dim)
    scored = (chunk, dim, negatives), (chunk, negatives, dim), (negatives, chunk, dim)
    return {
        "large": _best([(LARGE, LARGE, LARGE)], dtype),
        "shapes": _best([*projected, *scored, *scored], dtype),
    }


def _best(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
    """By torch's own choice of library, or by oneDNN where that is faster."""
    return max(_rate(shapes, dtype, by) for by in (_mm, _onednn))


def _mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(a, b, out=out)


def _onednn(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    product(a, b)


def _rate(
    shapes: list[tuple[int, int, int]], dtype: torch.dtype, by: Multiply, seconds: float = 0.5
) -> float:
    pairs = [
        (torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype), torch.empty(n, m, dtype=dtype))
        for n, k, m in shapes
    ]
    work = sum(2.0 * n * k * m for n, k, m in shapes)
    rounds, begun = -1, time.process_time()
    while time.process_time() - begun < seconds:
        for a, b, out in pairs:
            by(a, b, out)
        rounds += 1
        if rounds == 0:  # The first round is a warm-up.
            begun = time.process_time()
    return work * rounds / (time.process_time() - begun)
