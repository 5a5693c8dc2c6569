"""In which order an epoch goes through the examples, reading few row groups at a time.

Row groups in a random order, POOL of them a pool, and the rows of each pool in a random order, but
those of one user at one time side by side, as they go through his tower once: a function of (seed,
epoch) alone. Or all as they lie, by time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from provender.plugin.counter_random import mix64

Ints = NDArray[np.int64]
#: Row groups that are in memory, and shuffled, at once.
POOL = 8
#: In the place of a pool's number: the draw of the order of row groups.
_GROUPS = 2**32


class Pool(NamedTuple):
    """Row groups to read, in order; the key of the order of their rows, which may be skipped.

    Without a key the rows are as they lie.
    """

    groups: Ints
    key: int | None
    skipped: int

    def order(self, count: int) -> Ints:
        """The order of its `count` rows, each by itself, less those that are skipped."""
        order = np.arange(count) if self.key is None else _shuffled(count, self.key)
        return order[self.skipped :]

    def rows(self, together: Ints) -> Ints:
        """The order of its rows, less those that are skipped.

        Those of equal numbers in `together`, int64 (p,), stay side by side, as they lie.
        """
        order = np.arange(len(together))
        if self.key is not None:
            distinct, place = np.unique(together, return_inverse=True)
            order = np.argsort(_shuffled(len(distinct), self.key)[place], kind="stable")
        return order[self.skipped :]


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
        order = _shuffled(len(group_rows), _key(seed, epoch, _GROUPS))
    for number, first in enumerate(range(0, len(order), POOL)):
        groups = order[first : first + POOL]
        count = int(group_rows[groups].sum())
        if start < count:
            yield Pool(groups, None if in_order else _key(seed, epoch, number), start)
        start = max(0, start - count)


def _key(seed: int, epoch: int, what: int) -> int:
    return mix64(mix64(mix64(seed) ^ epoch) ^ what)


def _shuffled(count: int, key: int) -> Ints:
    """The numbers below `count` in a random order that no version of numpy changes."""
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
