"""The straight way from id rows to vectors, beside loops."""

from __future__ import annotations

import math

import torch

from provender.plugin.id_table import Rows
from provender.producers.upstream.inputs import Actions
from provender.producers.upstream.straight_way import Recent, Straight, looked_up


def actions() -> Actions:
    """Of three users: two actions and one of no row, padding, none at all."""
    return Actions(
        event=torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]),
        age=torch.tensor([[0.0, 3.0, 9.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        pin=torch.tensor([[2, 0, -1], [1, -1, -1], [-1, -1, -1]]),
        present=torch.tensor([[True, True, True], [True, False, False], [False] * 3]),
    )


def test_rows_that_are_looked_up() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = looked_up(Rows(values, torch.tensor([5, 9])), torch.tensor([[9, -1], [5, 9]]))
    assert found.tolist() == [[[3, 4], [0, 0]], [[1, 2], [3, 4]]]


def test_rows_go_as_they_are_at_first() -> None:
    rows = torch.randn(4, 3)
    wider = Straight(3, 5)(rows)
    assert torch.equal(wider[:, :3], rows)
    assert not wider[:, 3:].any()
    assert torch.equal(Straight(3, 2)(rows), rows[:, :2])


def test_the_mean_of_what_was_met() -> None:
    values = torch.randn(3, 4)
    recent = Recent(events=2)
    with torch.no_grad():
        recent.event.copy_(torch.tensor([0.3, -0.2]))
        recent.fading.fill_(0.7)
        recent.share.fill_(2.0)
    given = actions()
    found = recent(given, Rows(values))
    for user in range(3):
        weights, total = 0.0, torch.zeros(4)
        for place in range(3):
            pin = int(given.pin[user, place])
            if not given.present[user, place] or pin < 0:
                continue
            kind, age = int(given.event[user, place]), float(given.age[user, place])
            weight = math.exp(float(recent.event[kind]) - 0.7 * math.log(1 + age))
            weights, total = weights + weight, total + weight * values[pin]
        expected = 2 * total / weights if weights else torch.zeros(4)
        assert torch.allclose(found[user], expected, atol=1e-6)


def test_all_of_it_learns() -> None:
    values = torch.randn(3, 4, requires_grad=True)
    recent, way = Recent(events=2), Straight(4, 4)
    (way(recent(actions(), Rows(values))) * torch.randn(3, 4)).sum().backward()
    for each in (values, recent.event, recent.fading, recent.share, way.matrix):
        assert each.grad is not None
        assert each.grad.abs().sum() > 0
