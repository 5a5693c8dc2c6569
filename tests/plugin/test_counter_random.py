"""Draws by counter against plain integers, and as uniform and unrelated as they must be."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin.counter_random import draw, mix64, walker_keys

GOLDEN, MASK = 0x9E3779B9, 0xFFFFFFFF


def mixed(x: int) -> int:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    return ((x ^ (x >> 15)) * 0x846CA68B) & MASK


def finished(x: int) -> int:
    return mixed(x) ^ (mixed(x) >> 16)


def plain_draw(seed: int, page_hash: int, walk: int, counter: int) -> int:
    """The same in Python's integers: 0 to 2**32 - 1."""
    salted = (page_hash ^ mix64(seed)) & (2**64 - 1)
    high = salted >> 32 | (MASK << 32 if salted >> 63 else 0)
    key = finished(((salted ^ high) + GOLDEN) & MASK)
    key = finished((key + walk * GOLDEN) & MASK)
    return mixed((key + (counter + 1) * GOLDEN) & MASK)


def draws(seed: int, hashes: list[int], walks: list[int], counter: int) -> torch.Tensor:
    keys = walker_keys(seed, torch.tensor(hashes), torch.tensor(walks))
    return draw(keys, counter, torch.empty_like(keys), torch.empty_like(keys))


@given(
    st.integers(0, 2**63),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_plain_integers(seed: int, hashes: list[int], walks: list[int], counter: int) -> None:
    found = draws(seed, hashes, walks, counter)
    for row, page in enumerate(hashes):
        for column, walk in enumerate(walks):
            assert int(found[row, column]) & MASK == plain_draw(seed, page, walk, counter)


def test_the_walks_of_a_start_all_differ() -> None:
    keys = walker_keys(3, torch.tensor([1, 2]), torch.arange(1 << 16))
    assert all(len(row.unique()) == 1 << 16 for row in keys)


def test_draws_are_uniform_and_unrelated() -> None:
    hashes, walks, bins = list(range(200)), list(range(500)), 64
    flat = [draws(0, hashes, walks, counter).view(-1) for counter in range(6)]
    cells = [(drawn >> 26).long() + bins // 2 for drawn in flat]
    pairs = [(cells[a], cells[b]) for a in range(6) for b in range(a)]
    n = len(cells[0])
    pairs += [(cell[:-1], cell[1:]) for cell in cells]  # the next walk
    pairs += [(cell[:-500], cell[500:]) for cell in cells]  # the next start
    for cell in cells:
        expected = n / bins
        chi = float(((cell.bincount(minlength=bins) - expected) ** 2 / expected).sum())
        assert abs(chi - (bins - 1)) < 5 * (2 * (bins - 1)) ** 0.5
    for a, b in pairs:
        expected, freedom = len(a) / bins**2, bins**2 - 1
        counts = (a * bins + b).bincount(minlength=bins**2)
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5
