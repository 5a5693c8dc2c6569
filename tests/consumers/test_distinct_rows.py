from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from provender.consumers.distinct_rows import distinct_rows
from provender.consumers.features import RankerBatch
from provender.consumers.user_history import History

#: What a row can be: few values a part, so that rows are often the same, or nearly.
ROW = st.tuples(*[st.integers(0, 1)] * 7)


def batch_of(rows: Sequence[tuple[int, ...]]) -> RankerBatch:
    """Rows that differ where their numbers do; vectors in their last number alone."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 7)
    vectors = torch.ones(len(rows), 5)
    vectors[:, 4] = table[:, 0]
    places = table[:, 4].long()[:, None].expand(-1, 3)
    past = History(places, places * 0, places.float(), pa.array([7, 8]))
    count = len(rows)
    return RankerBatch(
        vectors={"user": torch.ones(count, 3), "pin": vectors},
        present={"user": torch.ones(count, dtype=torch.bool), "pin": table[:, 1].bool()},
        age_seconds={"pin": torch.arange(count).float()},
        dense=table[:, 2:3],
        dense_present=table[:, 3:4].bool(),
        context={"surface": pa.array([f"s{row[5]}" for row in rows], pa.string())},
        keys={"pin_id": pa.array([row[6] for row in rows], pa.int64())},
        history=past,
    )


def slowly(kinds: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Where each kind is first, and the place of each row's kind among those."""
    firsts = [place for place, kind in enumerate(kinds) if kinds.index(kind) == place]
    return firsts, [firsts.index(kinds.index(kind)) for kind in kinds]


@given(st.lists(ROW, max_size=12), st.booleans())
def test_rows_are_the_same_if_nothing_that_is_read_differs(
    rows: list[tuple[int, ...]], learned: bool
) -> None:
    found = distinct_rows(batch_of(rows), ["surface"], ["pin_id"] if learned else [])
    kinds = [row if learned else row[:6] for row in rows]
    firsts, places = slowly(kinds)
    if len(firsts) == len(rows):
        assert found is None
    else:
        assert found is not None
        assert (found.firsts.tolist(), found.places.tolist()) == (firsts, places)


def test_vectors_that_agree_in_their_first_numbers_are_told_apart() -> None:
    vectors = torch.ones(600, 256)
    vectors[:, 255] = torch.arange(600) % 300
    rows = replace(batch_of([(0,) * 7] * 600), vectors={"pin": vectors})
    found = distinct_rows(rows)
    assert found is not None
    np.testing.assert_array_equal(found.firsts, np.arange(300))
    np.testing.assert_array_equal(found.places, np.arange(600) % 300)


def test_one_row_and_none_are_distinct() -> None:
    assert distinct_rows(batch_of([])) is None
    assert distinct_rows(batch_of([(1,) * 7])) is None
