from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provender.consumers.epoch_share import EpochShare, own_rank
from provender.plugin.errors import ConfigError


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9))
def test_ranks_share_every_row_once_in_equally_many_batches(
    rows: int, batch_size: int, ranks: int
) -> None:
    assume(not rows % ranks or (batch_size > 1 and rows >= ranks))
    shares = [EpochShare.of(rows, batch_size, rank, ranks) for rank in range(ranks)]
    ends = [0]
    for share in shares:
        assert share.start == ends[-1]
        ends.append(share.start + share.rows)
        sizes = share.sizes()
        assert sum(sizes) == share.rows
        assert len(sizes) == len(share) == len(shares[0])
        assert all(0 < size <= batch_size for size in sizes)
        assert all(size == batch_size for size in sizes[:-2])
    assert ends[-1] == rows
    assert max(share.rows for share in shares) - min(share.rows for share in shares) <= 1


def test_alone_only_the_last_batch_is_smaller() -> None:
    assert EpochShare.of(10, 4, 0, 1).sizes() == [4, 4, 2]
    assert EpochShare.of(8, 4, 0, 1).sizes() == [4, 4]


def test_who_would_have_an_empty_batch_halves_the_one_before() -> None:
    assert [EpochShare.of(17, 4, rank, 2).sizes() for rank in (0, 1)] == [[4, 4, 1], [4, 2, 2]]


@pytest.mark.parametrize("asked", [(5, 1, 0, 2), (1, 8, 0, 2), (9, 0, 0, 1), (9, 2, 2, 2)])
def test_what_can_not_be_shared_is_refused(asked: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="batches of an epoch"):
        EpochShare.of(*asked)


def test_a_rank_without_their_number_is_refused() -> None:
    assert own_rank(None, None) == (0, 1)
    assert own_rank(2, 3) == (2, 3)
    with pytest.raises(ConfigError, match="both or none"):
        own_rank(1, None)
