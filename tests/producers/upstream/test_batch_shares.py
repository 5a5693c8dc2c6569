"""Shares of a batch: every row is somebody's, and what comes from all is as if one had done it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from provender.producers.ranks import Ranks
from provender.producers.upstream.batch_shares import Place, from_all, some_rows
from tests.producers.rank_world import over
from tests.producers.upstream.small_batches import Draws, small_layout


@given(st.integers(1, 40), st.integers(1, 7))
def test_each_row_is_done_once_and_all_do_equally_many(count: int, among: int) -> None:
    places = [Place(rank, among) for rank in range(among)]
    own = [place.rows(count).tolist() for place in places]
    assert sorted(row for rows in own for row in rows) == list(range(count))
    filled = [place.filled(count).tolist() for place in places]
    assert {len(rows) for rows in filled} == {-(-count // among)}
    for rows, more in zip(own, filled, strict=True):
        assert more == rows + [0] * (len(more) - len(rows))


def test_some_rows_are_those_rows() -> None:
    inputs = Draws(3, {"user": 11, "pin": 13}).inputs(small_layout().user, 12, "user")
    rows = torch.tensor([7, 0, 3, 3, 11])
    found = some_rows(inputs, rows)
    assert len(found) == 5
    assert inputs.ids is not None and found.ids is not None
    assert inputs.sequence is not None and found.sequence is not None
    for name, bag in inputs.categories.items():
        other = found.categories[name]
        for place, row in enumerate(rows.tolist()):
            own = bag.values[bag.offsets[row] : bag.offsets[row + 1]]
            got = other.values[other.offsets[place] : other.offsets[place + 1]]
            assert got.tolist() == own.tolist()
    for place, row in enumerate(rows.tolist()):
        assert torch.equal(found.numbers[place], inputs.numbers[row])
        assert found.ids[place] == inputs.ids[row]
        assert found.vectors["mood"].index[place] == inputs.vectors["mood"].index[row]
        for part in ("event", "age", "pin", "present"):
            one, other_part = (getattr(each, part) for each in (inputs.sequence, found.sequence))
            assert torch.equal(other_part[place], one[row])
        looks = [each.vectors["look"].index for each in (inputs.sequence, found.sequence)]
        assert torch.equal(looks[1][place], looks[0][row])


def test_what_comes_from_all_has_the_gradients_of_one() -> None:
    generator = torch.Generator().manual_seed(1)
    users, pins = torch.randn(7, 2, 3, generator=generator), torch.randn(4, 5, generator=generator)
    scale = torch.randn(3, 7, generator=generator)  # of three examples, one or two a process

    def loss(rows: Tensor, all_users: Tensor, all_pins: Tensor) -> Tensor:
        return (scale[rows] @ all_users.flatten(1)).square().sum() + (
            rows.float().sum() * all_pins.square().sum()
        )

    def work(_: Ranks) -> list[Tensor]:
        place = Place.here()
        own = [each[place.filled(len(each))].requires_grad_() for each in (users, pins)]
        found = from_all(place, [7, 4], *own)
        loss(place.rows(3), *found).backward()
        return [*found, *(each.grad for each in own if each.grad is not None)]

    whole = [users.clone().requires_grad_(), pins.clone().requires_grad_()]
    loss(torch.arange(3), *whole).backward()
    for rank, (all_users, all_pins, *gradients) in enumerate(over(2, work)):
        assert torch.equal(all_users, users)
        assert torch.equal(all_pins, pins)
        for gradient, each in zip(gradients, whole, strict=True):
            assert each.grad is not None
            rows = Place(rank, 2).rows(len(each))
            torch.testing.assert_close(gradient[: len(rows)], each.grad[rows])
            assert not gradient[len(rows) :].any()
