"""The losses against hand-computed values, their limits, and the full softmax."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from provender.producers.losses import margin_loss, self_adversarial_loss, softmax_loss


def _no_hits(rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.bool)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_softmax_by_hand() -> None:
    positive, negative = torch.tensor([0.0]), torch.tensor([[math.log(2.0), math.log(3.0)]])
    flat = softmax_loss(positive, negative, torch.zeros(2), _no_hits(1, 2))
    assert flat.item() == pytest.approx(math.log(1 + 2 + 3))
    expected = torch.tensor([2.0, 0.5]).log()
    corrected = softmax_loss(positive, negative, expected, _no_hits(1, 2))
    assert corrected.item() == pytest.approx(math.log(1 + 1 + 6))
    hit = torch.tensor([[False, True]])
    assert softmax_loss(positive, negative, expected, hit).item() == pytest.approx(math.log(2))


def test_self_adversarial_by_hand() -> None:
    positive, negative = torch.tensor([1.0]), torch.tensor([[0.0, math.log(3.0)]])
    loss = self_adversarial_loss(
        positive, negative, torch.zeros(2), _no_hits(1, 2), margin=2.0, temperature=1.0
    )
    # The negatives weigh 1 and 3.
    by_hand = -math.log(_sigmoid(3.0))
    by_hand -= 0.25 * math.log(_sigmoid(-2.0)) + 0.75 * math.log(_sigmoid(-math.log(3.0) - 2.0))
    assert loss.item() == pytest.approx(by_hand)


def test_self_adversarial_weights_have_no_gradient() -> None:
    negative = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = self_adversarial_loss(
        torch.tensor([0.0]), negative, torch.zeros(2), _no_hits(1, 2), margin=0.0, temperature=1.0
    )
    loss.sum().backward()
    share = [1 / (1 + math.e), math.e / (1 + math.e)]
    by_hand = [share[0] * _sigmoid(0.0), share[1] * _sigmoid(1.0)]
    assert negative.grad is not None
    assert negative.grad[0].tolist() == pytest.approx(by_hand)


def test_margin_by_hand() -> None:
    positive, negative = torch.tensor([-1.0]), torch.tensor([[-1.5, -9.0]])
    loss = margin_loss(positive, negative, torch.zeros(2), _no_hits(1, 2), margin=2.0)
    assert loss.item() == pytest.approx((1.5 + 0.0) / 2)
    often = torch.tensor([3.0, 1.0]).log()  # the first was drawn three times as often
    weighed = margin_loss(positive, negative, often, _no_hits(1, 2), margin=2.0)
    assert weighed.item() == pytest.approx(1.5 * 0.25)


@pytest.mark.parametrize("name", ["softmax", "self_adversarial", "margin"])
def test_a_triple_whose_negatives_are_all_hits_is_finite(name: str) -> None:
    arguments = (
        torch.tensor([-0.5], requires_grad=True),
        torch.tensor([[-0.5, -0.5]], requires_grad=True),
        torch.zeros(2),
        torch.ones(1, 2, dtype=torch.bool),
    )
    loss = {
        "softmax": lambda: softmax_loss(*arguments),
        "self_adversarial": lambda: self_adversarial_loss(*arguments, margin=1.0, temperature=1.0),
        "margin": lambda: margin_loss(*arguments, margin=1.0),
    }[name]()
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert arguments[1].grad is not None
    assert arguments[1].grad.tolist() == [[0.0, 0.0]]


def test_the_correction_makes_the_denominator_unbiased() -> None:
    """Over all draws of two from four, the mean denominator is that of the full softmax."""
    scores = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    own, count, mean = 2, 2, 0.0
    for drawn in itertools.product(range(4), repeat=count):
        negatives = torch.tensor(drawn)
        loss = softmax_loss(
            scores[own : own + 1],
            scores[negatives].unsqueeze(0),
            (probability[negatives] * count).log(),
            (negatives == own).unsqueeze(0),
        )
        denominator = math.exp(loss.item() + scores[own].item())
        mean += float(probability[negatives].prod()) * denominator
    assert mean == pytest.approx(float(scores.exp().sum()), rel=1e-12)
