"""The one shaping of users' actions to tensors, for training and serving alike.

Legend of shapes: B rows, L actions of a row at most, P actions of all rows, U distinct items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from provender.consumers.features import Column, masked
from provender.consumers.user_history import History

Ints = npt.NDArray[np.int64]
#: There is no action at this place of a row.
NO_ITEM = -1


@dataclass(frozen=True)
class PastActions:
    """The actions of rows, each row's the latest first and together.

    Attributes:
        rows, places: int64 (P,), where each action stands: its row, and its place in the row.
        items: int64 (P,), which item it was with.
        kinds: int64 (P,), places in the spec's kinds.
        ages_us: int64 (P,), microseconds from the action to its row's time.
    """

    rows: Ints
    places: Ints
    items: Ints
    kinds: Ints
    ages_us: Ints


def shape_history(
    actions: PastActions,
    shape: tuple[int, int],
    keys: pa.Array,
    columns: Mapping[str, Column],
) -> History:
    """Turn actions and the vectors of their items into a history.

    Args:
        actions: of all rows.
        shape: (B, L).
        keys: (U,) the pins of the items.
        columns: view -> (U, D) raw vectors; what is not finite counts as missing.
    """
    at = actions.rows, actions.places
    items, kinds = np.full(shape, NO_ITEM, np.int64), np.zeros(shape, np.int64)
    ages = np.zeros(shape, np.float32)
    items[at], kinds[at] = actions.items, actions.kinds
    ages[at] = actions.ages_us / 1e6
    vectors, present = {}, {}
    for view, column in columns.items():
        vectors[view], mask = masked(column)
        present[view] = torch.from_numpy(mask)
    return History(
        items=torch.from_numpy(items),
        kinds=torch.from_numpy(kinds),
        age_seconds=torch.from_numpy(ages),
        keys=keys,
        vectors=vectors,
        present=present,
    )


def first_seen(*columns: Ints) -> tuple[Ints, Ints]:
    """Number the distinct rows of (n,) columns in the order of their first appearance.

    Returns:
        numbers: int64 (n,), the number of each row.
        firsts: int64 (u,), where each number appears first.
    """
    numbers = _encoded(columns[0])
    for column in columns[1:]:
        others = _encoded(column)
        numbers = _encoded(numbers * (int(others.max(initial=0)) + 1) + others)
    firsts = np.empty(int(numbers.max(initial=-1)) + 1, np.int64)
    # Backwards, so that of equal numbers the first row is the one that is written last.
    firsts[numbers[::-1]] = np.arange(len(numbers))[::-1]
    return numbers, firsts


def _encoded(column: Ints) -> Ints:
    encoded = pa.array(column).dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), np.int64)
