"""Losses and derivatives by hand and by autograd, their limits, and the full softmax."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provender.producers.losses import (
    Loss,
    margin_loss,
    pick_loss,
    self_adversarial_loss,
    softmax_loss,
)

LOSSES = ("softmax", "self_adversarial", "margin")
MARGIN, TEMPERATURE = 1.3, 0.6


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _derived(
    loss: Loss,
    positive: Tensor,
    negative: Tensor,
    log_expected: Tensor,
    hit: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses, and their derivatives by positive and by negative; `hit` bool (B, n)."""
    scores = torch.cat([negative, positive.unsqueeze(1)], dim=1)
    hits = None if hit is None else (hit.nonzero()[:, 0], hit.nonzero()[:, 1])
    losses, slopes, total = loss(scores, log_expected, hits)
    torch.testing.assert_close(total, slopes[:, :-1].sum(1))
    return losses, slopes[:, -1], slopes[:, :-1]


def test_softmax_by_hand() -> None:
    positive, negative = torch.tensor([0.0]), torch.tensor([[math.log(2.0), math.log(3.0)]])
    flat, by_positive, by_negative = _derived(softmax_loss, positive, negative, torch.zeros(2))
    assert flat.item() == pytest.approx(math.log(1 + 2 + 3))
    assert by_positive.item() == pytest.approx(1 / 6 - 1)
    assert by_negative[0].tolist() == pytest.approx([2 / 6, 3 / 6])
    expected = torch.tensor([2.0, 0.5]).log()
    corrected = _derived(softmax_loss, positive, negative, expected)[0]
    assert corrected.item() == pytest.approx(math.log(1 + 1 + 6))
    hit = torch.tensor([[False, True]])
    masked = _derived(softmax_loss, positive, negative, expected, hit)[0]
    assert masked.item() == pytest.approx(math.log(2))


def test_self_adversarial_by_hand() -> None:
    positive, negative = torch.tensor([1.0]), torch.tensor([[0.0, math.log(3.0)]])
    picked = partial(self_adversarial_loss, margin=2.0, temperature=1.0)
    loss, by_positive, by_negative = _derived(picked, positive, negative, torch.zeros(2))
    # The negatives weigh 1 and 3.
    by_hand = -math.log(_sigmoid(3.0))
    by_hand -= 0.25 * math.log(_sigmoid(-2.0)) + 0.75 * math.log(_sigmoid(-math.log(3.0) - 2.0))
    assert loss.item() == pytest.approx(by_hand)
    assert by_positive.item() == pytest.approx(-_sigmoid(-3.0))
    slopes = [0.25 * _sigmoid(2.0), 0.75 * _sigmoid(math.log(3.0) + 2.0)]
    assert by_negative[0].tolist() == pytest.approx(slopes)


def test_margin_by_hand() -> None:
    positive, negative = torch.tensor([-1.0]), torch.tensor([[-1.5, -9.0]])
    picked = partial(margin_loss, margin=2.0)
    loss, by_positive, by_negative = _derived(picked, positive, negative, torch.zeros(2))
    assert loss.item() == pytest.approx((1.5 + 0.0) / 2)
    assert by_positive.item() == pytest.approx(-0.5)
    assert by_negative[0].tolist() == pytest.approx([0.5, 0.0])
    often = torch.tensor([3.0, 1.0]).log()  # the first was drawn three times as often
    weighed = _derived(picked, positive, negative, often)[0]
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
    picked = pick_loss(name, MARGIN, TEMPERATURE)  # type: ignore[arg-type]
    given = hit if hit.any() else None
    found = _derived(picked, positive.detach(), negative.detach(), log_expected, given)
    for closed, slow in zip(found, (plain.detach(), *wanted), strict=True):
        torch.testing.assert_close(closed, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_triple_whose_negatives_are_all_hits_is_finite_and_pulls_none(name: str) -> None:
    loss, by_positive, by_negative = _derived(
        pick_loss(name, 1.0, 1.0),  # type: ignore[arg-type]
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
        picked = pick_loss(name, 1.0, 1.0)  # type: ignore[arg-type]
        scores = torch.tensor([sign * far]), torch.tensor([[-sign * far, 0.0]])
        found = _derived(picked, *scores, torch.zeros(2))
        assert all(bool(torch.isfinite(each).all()) for each in found)


def test_the_correction_makes_the_denominator_unbiased() -> None:
    """Over all draws of two from four, the mean denominator is that of the full softmax."""
    scores = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    own, count, mean = 2, 2, 0.0
    for drawn in itertools.product(range(4), repeat=count):
        negatives = torch.tensor(drawn)
        loss, _, _ = _derived(
            softmax_loss,
            scores[own : own + 1],
            scores[negatives].unsqueeze(0),
            (probability[negatives] * count).log(),
            (negatives == own).unsqueeze(0),
        )
        denominator = math.exp(loss.item() + scores[own].item())
        mean += float(probability[negatives].prod()) * denominator
    assert mean == pytest.approx(float(scores.exp().sum()), rel=1e-12)
