"""What one core multiplies, FLOP a CPU second: large squares, and the shapes of a chunk."""

from __future__ import annotations

import time

import torch

LARGE = 2048


def flop_per_triple(dim: int, chunk: int, negatives: int) -> float:
    """3 [(2 + N/C) 2dk + 4Nk], forward and backward, N shared negatives a side, k = d."""
    return 3 * ((2 + negatives / chunk) * 2 * dim * dim + 4 * negatives * dim)


def gemm_rates(dim: int, chunk: int, negatives: int, dtype: torch.dtype) -> dict[str, float]:
    """FLOP a CPU second of a square product, and of the products that one chunk is made of."""
    rows = 2 * chunk + negatives
    projected = (rows, dim, dim), (rows, dim, dim), (dim, rows, dim)
    scored = (chunk, dim, negatives), (chunk, negatives, dim), (negatives, chunk, dim)
    return {
        "large": _rate([(LARGE, LARGE, LARGE)], dtype),
        "shapes": _rate([*projected, *scored, *scored], dtype),
    }


def _rate(shapes: list[tuple[int, int, int]], dtype: torch.dtype, seconds: float = 0.5) -> float:
    pairs = [
        (torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype), torch.empty(n, m, dtype=dtype))
        for n, k, m in shapes
    ]
    work = sum(2.0 * n * k * m for n, k, m in shapes)
    rounds, begun = -1, time.process_time()
    while time.process_time() - begun < seconds:
        for a, b, out in pairs:
            torch.mm(a, b, out=out)
        rounds += 1
        if rounds == 0:  # The first round is a warm-up.
            begun = time.process_time()
    return work * rounds / (time.process_time() - begun)
