"""The loss of nested prefixes against a loop over pages, pins and dims."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provender.producers.linksage.matryoshka import Candidates, nested_losses

DIMS, TEMPERATURE = (2, 3, 7), 0.2


def _candidates(seed: int = 0, pages: int = 5, pins: int = 9) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randint(0, pins, (pages,), generator=generator)
    known = torch.rand(pages, pins, generator=generator) < 0.2
    known[torch.arange(pages), positive] = True
    return Candidates(
        torch.arange(pins) * 3, positive, known, torch.randn(pins, generator=generator)
    )


def _vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + shape[0]))


def _slow(
    pages: Tensor, pins: Tensor, candidates: Candidates, weights: tuple[float, ...]
) -> list[Tensor]:
    losses = []
    for page, own in enumerate(candidates.positive.tolist()):
        total = torch.zeros((), dtype=torch.float64)
        for dim, weight in zip(DIMS, weights, strict=True):
            x = pages[page, :dim] / pages[page, :dim].norm()
            logits = [x @ (pin[:dim] / pin[:dim].norm()) / TEMPERATURE for pin in pins]
            others = [
                (logit + candidates.correction[i]).exp()
                for i, logit in enumerate(logits)
                if not candidates.known[page, i]
            ]
            share = logits[own].exp() / (logits[own].exp() + sum(others))
            total = total - weight / sum(weights) * share.log()
        losses.append(total)
    return losses


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.0, 2.0, 1.0), (3.0, 0.5, 1.0)])
def test_values_and_gradients_are_those_of_the_loop(weights: tuple[float, ...]) -> None:
    found: list[Any] = []
    for slow in (False, True):
        kind = torch.float64 if slow else torch.float32
        pages, pins = (_vectors(n, 7).to(kind).requires_grad_() for n in (5, 9))
        one = _candidates()
        losses = (
            torch.stack(_slow(pages, pins, one, weights))
            if slow
            else nested_losses(pages, pins, one, DIMS, weights, TEMPERATURE)
        )
        (losses @ torch.arange(1, 6).to(kind)).backward()
        found.append((losses, pages.grad, pins.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_no_weights_weigh_all_alike() -> None:
    given_ = _vectors(5, 7), _vectors(9, 7), _candidates(), DIMS
    alike = nested_losses(*given_, (2.0, 2.0, 2.0), TEMPERATURE)
    torch.testing.assert_close(nested_losses(*given_, None, TEMPERATURE), alike)


@given(st.integers(0, 2**31), st.floats(0.1, 100))
@settings(max_examples=30, deadline=None)
def test_lengths_of_vectors_and_known_pins_do_not_matter(seed: int, scale: float) -> None:
    pages, pins, one = _vectors(5, 7, seed=seed), _vectors(9, 7, seed=seed), _candidates(seed)
    before = nested_losses(pages, pins, one, DIMS, None, TEMPERATURE)
    after = nested_losses(pages * scale, pins / scale, one, DIMS, None, TEMPERATURE)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    changed = one.correction.clone()
    only_known = one.known.all(0)
    changed[only_known] += 5
    other = Candidates(one.nodes, one.positive, one.known, changed)
    assert torch.equal(nested_losses(pages, pins, other, DIMS, None, TEMPERATURE), before)


def test_a_page_without_negatives_loses_nothing() -> None:
    one = _candidates()
    known = torch.ones_like(one.known)
    alone = Candidates(one.nodes, one.positive, known, one.correction)
    pages = _vectors(5, 7).requires_grad_()
    losses = nested_losses(pages, _vectors(9, 7), alone, DIMS, None, TEMPERATURE)
    losses.sum().backward()
    assert losses.abs().max() < 1e-6
    assert pages.grad is not None
    assert bool(pages.grad.isfinite().all())


def test_a_hand_computed_loss() -> None:
    pages, pins = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    one = Candidates(
        torch.arange(2),
        torch.zeros(1, dtype=torch.long),
        torch.tensor([[True, False]]),
        torch.tensor([9.0, math.log(4)]),
    )
    found = nested_losses(pages, pins, one, (2,), None, 0.5)
    assert float(found) == pytest.approx(-math.log(math.e**2 / (math.e**2 + 4)))
