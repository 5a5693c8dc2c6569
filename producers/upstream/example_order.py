"""In which order an epoch goes through the examples, reading few row groups at a time.

Row groups in a random order, POOL of them a pool, and the rows of each pool in a random order: a
function of (seed, epoch) alone. Or all as they lie, by time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from provender.producers.linksage.counter_random import mix64

Ints = NDArray[np.int64]
#: Row groups that are in memory, and shuffled, at once.
POOL = 8
#: In the place of a pool's number: the draw of the order of row groups.
_GROUPS = 2**32


class Pool(NamedTuple):
    """Row groups to read, in order, and the order of their rows, int64 (p,)."""

    groups: Ints
    rows: Ints


def pools(
    group_rows: Ints, seed: int, epoch: int, *, in_order: bool, start: int = 0
) -> Iterator[Pool]:
    """The pools of an epoch, less its first `start` rows.

    Args:
        group_rows: int64 (g,), how many rows each row group has.
        in_order: as they lie, not shuffled.
    """
    order = np.arange(len(group_rows))
    if not in_order:
        order = _shuffled(len(group_rows), seed, epoch, _GROUPS)
    for number, first in enumerate(range(0, len(order), POOL)):
        groups = order[first : first + POOL]
        count = int(group_rows[groups].sum())
        if start < count:
            rows = np.arange(count) if in_order else _shuffled(count, seed, epoch, number)
            yield Pool(groups, rows[start:])
        start = max(0, start - count)


def _shuffled(count: int, seed: int, epoch: int, what: int) -> Ints:
    """The numbers below `count` in a random order that no version of numpy changes."""
    key = mix64(mix64(mix64(seed) ^ epoch) ^ what)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
