"""Losses and derivatives by hand and by autograd, their limits, and the full softmax."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provender.producers.losses import (
    margin_loss,
    pick_loss,
    self_adversarial_loss,
    softmax_loss,
)

LOSSES = ("softmax", "self_adversarial", "margin")
MARGIN, TEMPERATURE = 1.3, 0.6


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_softmax_by_hand() -> None:
    positive, negative = torch.tensor([0.0]), torch.tensor([[math.log(2.0), math.log(3.0)]])
    flat, by_positive, by_negative = softmax_loss(positive, negative.clone(), torch.zeros(2), None)
    assert flat.item() == pytest.approx(math.log(1 + 2 + 3))
    assert by_positive.item() == pytest.approx(1 / 6 - 1)
    assert by_negative[0].tolist() == pytest.approx([2 / 6, 3 / 6])
    expected = torch.tensor([2.0, 0.5]).log()
    corrected = softmax_loss(positive, negative.clone(), expected, None)[0]
    assert corrected.item() == pytest.approx(math.log(1 + 1 + 6))
    hit = torch.tensor([[False, True]])
    masked = softmax_loss(positive, negative.clone(), expected, hit)[0]
    assert masked.item() == pytest.approx(math.log(2))


def test_self_adversarial_by_hand() -> None:
    positive, negative = torch.tensor([1.0]), torch.tensor([[0.0, math.log(3.0)]])
    loss, by_positive, by_negative = self_adversarial_loss(
        positive, negative, torch.zeros(2), None, margin=2.0, temperature=1.0
    )
    # The negatives weigh 1 and 3.
    by_hand = -math.log(_sigmoid(3.0))
    by_hand -= 0.25 * math.log(_sigmoid(-2.0)) + 0.75 * math.log(_sigmoid(-math.log(3.0) - 2.0))
    assert loss.item() == pytest.approx(by_hand)
    assert by_positive.item() == pytest.approx(-_sigmoid(-3.0))
    slopes = [0.25 * _sigmoid(2.0), 0.75 * _sigmoid(math.log(3.0) + 2.0)]
    assert by_negative[0].tolist() == pytest.approx(slopes)


def test_margin_by_hand() -> None:
    positive, negative = torch.tensor([-1.0]), torch.tensor([[-1.5, -9.0]])
    loss, by_positive, by_negative = margin_loss(
        positive, negative, torch.zeros(2), None, margin=2.0
    )
    assert loss.item() == pytest.approx((1.5 + 0.0) / 2)
    assert by_positive.item() == pytest.approx(-0.5)
    assert by_negative[0].tolist() == pytest.approx([0.5, 0.0])
    often = torch.tensor([3.0, 1.0]).log()  # the first was drawn three times as often
    weighed = margin_loss(positive, negative, often, None, margin=2.0)[0]
    assert weighed.item() == pytest.approx(1.5 * 0.25)


def _plain(name: str, own: Tensor, others: Tensor, log_expected: Tensor, hit: Tensor) -> Tensor:
    """The same losses for autograd, negatives that do not count left out one triple at a time."""
    losses = []
    for row, each in enumerate(own):
        f, q = others[row][~hit[row]], log_expected[~hit[row]]
        if name == "softmax":
            losses.append(torch.log(each.exp() + (f.exp() / q.exp()).sum()) - each)
        elif name == "margin":
            share = (-q).exp() / (-q).exp().sum()
            losses.append((share * torch.clamp(MARGIN - each + f, min=0)).sum())
        else:
            share = torch.softmax(TEMPERATURE * f - q, 0).detach()
            hard = (share * F.logsigmoid(-f - MARGIN)).sum()
            losses.append(-F.logsigmoid(MARGIN + each) - hard)
    return torch.stack(losses)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("seed", "rows", "columns"), [(0, 4, 6), (1, 1, 1), (2, 3, 1), (3, 1, 5)])
def test_values_and_derivatives_equal_autograd(
    name: str, seed: int, rows: int, columns: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(rows, dtype=torch.float64, generator=generator).requires_grad_()
    negative = torch.randn(rows, columns, dtype=torch.float64, generator=generator).requires_grad_()
    log_expected = torch.randn(columns, dtype=torch.float64, generator=generator)
    hit = torch.rand(rows, columns, generator=generator) < 0.4
    plain = _plain(name, positive, negative, log_expected, hit)
    wanted = torch.autograd.grad(plain.sum(), [positive, negative])
    found = pick_loss(name, MARGIN, TEMPERATURE)(  # type: ignore[arg-type]
        positive.detach(), negative.detach().clone(), log_expected, hit if hit.any() else None
    )
    for closed, slow in zip(found, (plain.detach(), *wanted), strict=True):
        torch.testing.assert_close(closed, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_triple_whose_negatives_are_all_hits_is_finite_and_pulls_none(name: str) -> None:
    loss, by_positive, by_negative = pick_loss(name, 1.0, 1.0)(  # type: ignore[arg-type]
        torch.tensor([-0.5]),
        torch.tensor([[-0.5, -0.5]]),
        torch.zeros(2),
        torch.ones(1, 2, dtype=torch.bool),
    )
    assert torch.isfinite(loss).all()
    assert torch.isfinite(by_positive).all()
    assert by_negative.abs().max() < 1e-30


@pytest.mark.parametrize(
    ("name", "far"), [("softmax", 200.0), ("self_adversarial", 200.0), ("margin", 200.0)]
)
def test_far_scores_overflow_nothing(name: str, far: float) -> None:
    for sign in (1.0, -1.0):
        found = pick_loss(name, 1.0, 1.0)(  # type: ignore[arg-type]
            torch.tensor([sign * far]), torch.tensor([[-sign * far, 0.0]]), torch.zeros(2), None
        )
        assert all(bool(torch.isfinite(each).all()) for each in found)


def test_negatives_that_are_far_have_shares_that_are_quick_to_compute_with() -> None:
    """Not one of them is a denormal number, and together they are nothing."""
    negative = -torch.linspace(0, 300, 3000).unsqueeze(0)
    loss, _, share = softmax_loss(torch.tensor([0.0]), negative.clone(), torch.zeros(3000), None)
    assert float(share.min()) > torch.finfo(torch.float32).tiny
    exact = torch.cat([torch.zeros(1, 1), negative], 1).double().logsumexp(1)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


def test_the_correction_makes_the_denominator_unbiased() -> None:
    """Over all draws of two from four, the mean denominator is that of the full softmax."""
    scores = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    own, count, mean = 2, 2, 0.0
    for drawn in itertools.product(range(4), repeat=count):
        negatives = torch.tensor(drawn)
        loss, _, _ = softmax_loss(
            scores[own : own + 1],
            scores[negatives].unsqueeze(0),
            (probability[negatives] * count).log(),
            (negatives == own).unsqueeze(0),
        )
        denominator = math.exp(loss.item() + scores[own].item())
        mean += float(probability[negatives].prod()) * denominator
    assert mean == pytest.approx(float(scores.exp().sum()), rel=1e-12)
