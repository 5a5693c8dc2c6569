"""Losses against loops in plain Python, and that shares of processes add up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from provender.producers.upstream.config import ContrastiveConfig, UpstreamConfig
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.tower_losses import (
    Matches,
    contrastive_sum,
    stay_sum,
    task_loss,
    task_sums,
)
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.small_batches import (
    Draws,
    small_batch,
    small_layout,
    small_model,
    small_tables,
)

LIKED = [0, 1]


def _unit(vector: np.ndarray) -> np.ndarray:
    found: np.ndarray = vector / np.linalg.norm(vector)
    return found


def _likes(batch: Batch, example: int) -> bool:
    return any(batch.known[example, t] and batch.labels[example, t] > 0 for t in LIKED)


def _plain_contrastive(
    users: Tensor,
    pins: Tensor,
    batch: Batch,
    config: ContrastiveConfig,
    dims: list[int],
    weights: list[float],
) -> tuple[float, int]:
    """One example at a time, one negative at a time."""
    total, count = 0.0, 0
    pairs = {
        (int(batch.user_id[batch.user[e]]), int(batch.pin_id[batch.pin[e]]))
        for e in range(len(batch))
        if _likes(batch, e)
    }
    for example in range(len(batch)):
        if not _likes(batch, example):
            continue
        count += 1
        user, pin = int(batch.user[example]), int(batch.pin[example])
        for dim, weight in zip(dims, weights, strict=True):
            own = _unit(users[user, :dim].double().numpy())

            def odds(row: int, own: np.ndarray = own, dim: int = dim) -> tuple[float, float, float]:
                product = float(own @ _unit(pins[row, :dim].double().numpy()))
                q = math.exp(float(batch.log_q[row])) if config.log_q else 1.0
                return math.exp(product / config.temperature), product, q

            negatives = [
                odds(row)
                for row in range(len(pins))
                if (int(batch.user_id[user]), int(batch.pin_id[row])) not in pairs
            ]
            hard = [math.exp(config.hardness * product) for _, product, _ in negatives]
            mean = sum(h / q for h, (_, _, q) in zip(hard, negatives, strict=True)) / max(
                sum(1 / q for _, _, q in negatives), 1e-300
            )
            below = sum(h / mean * exp / q for h, (exp, _, q) in zip(hard, negatives, strict=True))
            exp, _, q = odds(pin)
            share = (exp / q) / (exp / q + below)
            total -= weight / sum(weights) * math.log(share) * float(batch.weight[example])
    return total, count


@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("hardness", [0.0, 1.5])
@pytest.mark.parametrize(("dims", "weights"), [([8], [1.0]), ([2, 5, 8], [0.5, 0.0, 2.0])])
def test_contrastive_is_what_a_loop_says(
    log_q: bool, hardness: float, dims: list[int], weights: list[float]
) -> None:
    batch = small_batch(small_model(), examples=40)
    draws = Draws(5, {})
    users, pins = draws.numbers(9, 8), draws.numbers(10, 8)
    config = ContrastiveConfig(temperature=0.3, log_q=log_q, hardness=hardness)
    expected, positives = _plain_contrastive(users, pins, batch, config, dims, weights)
    matches = Matches.of(batch, LIKED)
    found, count = contrastive_sum(users, pins, matches, batch.log_q, config, dims, weights)
    assert count == positives
    assert 0 < positives < 40
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_user_who_likes_all_pins_has_no_negatives_and_no_nan() -> None:
    batch = small_batch(small_model())
    batch = replace(
        batch, labels=torch.ones(24, 3), known=torch.ones(24, 3, dtype=torch.bool),
        user_id=torch.zeros(9, dtype=torch.int64), pin=torch.arange(24) % 10,
    )  # fmt: skip
    draws = Draws(5, {})
    users = draws.numbers(9, 8).requires_grad_()
    config = ContrastiveConfig(hardness=2.0)
    matches = Matches.of(batch, LIKED)
    total, count = contrastive_sum(
        users, draws.numbers(10, 8), matches, batch.log_q, config, [8], None
    )
    total.backward()
    assert (total.item(), count.item()) == (0, 24)
    assert users.grad is not None
    assert not users.grad.any()


def test_without_positives_it_is_nothing() -> None:
    batch = small_batch(small_model())
    batch = replace(batch, labels=torch.zeros(24, 3))
    total, count = contrastive_sum(
        torch.ones(9, 8, requires_grad=True), torch.ones(10, 8), Matches.of(batch, LIKED),
        batch.log_q, ContrastiveConfig(hardness=1.0), [8], None,
    )  # fmt: skip
    total.backward()
    assert (total.item(), count.item()) == (0, 0)


def test_contrastive_shares_of_processes_add_up() -> None:
    batch = small_batch(small_model(), examples=40)
    draws = Draws(5, {})
    users, pins = draws.numbers(9, 8), draws.numbers(10, 8)

    def of(rows: Tensor | None) -> tuple[float, float]:
        matches = Matches.of(batch, LIKED, rows)
        total, count = contrastive_sum(
            users, pins, matches, batch.log_q, ContrastiveConfig(), [4, 8], None
        )
        return float(total), float(count)

    whole, one, other = of(None), of(torch.arange(0, 40, 2)), of(torch.arange(1, 40, 2))
    assert one[1] + other[1] == whole[1]
    assert one[0] + other[0] == pytest.approx(whole[0])


def _log_loss(logit: float, label: float) -> float:
    share = 1 / (1 + math.exp(-logit))
    return -math.log(share if label else 1 - share)


def test_task_sums_are_what_a_loop_says() -> None:
    batch = small_batch(small_model())
    logits = Draws(6, {}).numbers(24, 3)
    sums, counts = task_sums(logits, batch.labels, batch.known, batch.weight)
    for task in range(3):
        rows = [row for row in range(24) if batch.known[row, task]]
        expected = sum(
            float(batch.weight[row])
            * _log_loss(float(logits[row, task]), float(batch.labels[row, task]))
            for row in rows
        )
        assert counts[task] == len(rows)
        assert float(sums[task]) == pytest.approx(expected, rel=1e-5)


def test_labels_that_are_not_known_change_no_bit_of_the_gradient() -> None:
    batch = small_batch(small_model())
    garbage = torch.where(batch.known, batch.labels, math.nan)
    gradients = []
    for labels in (batch.labels, garbage):
        logits = Draws(6, {}).numbers(24, 3).requires_grad_()
        sums, _ = task_sums(logits, labels, batch.known, batch.weight)
        sums.sum().backward()
        assert logits.grad is not None
        assert not logits.grad[~batch.known].any()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)


def _model(weights: object) -> UpstreamModel:
    config = UpstreamConfig.parse({"training": {"task_weights": weights}})
    return UpstreamModel.new(config, small_layout(), small_tables(), 0)


def test_fixed_weights_weigh_the_means() -> None:
    sums, counts = torch.tensor([6.0, 4.0, 0.0]), torch.tensor([3.0, 2.0, 0.0])
    found = task_loss(_model({"save": 0.25}), sums, counts, counts)
    assert float(found) == pytest.approx(2 * 1 + 2 * 0.25)


def test_learned_weights_and_a_task_without_labels() -> None:
    model = _model("uncertainty")
    s = model.towers.log_variance
    assert s is not None
    with torch.no_grad():
        s.copy_(torch.tensor([0.5, -1.0, 3.0]))
    sums, counts = torch.tensor([6.0, 4.0, 0.0]), torch.tensor([3.0, 2.0, 0.0])
    found = task_loss(model, sums, counts, counts)
    found.backward()
    expected = math.exp(-0.5) * 2 + 0.25 + math.exp(1) * 2 - 0.5
    assert found.item() == pytest.approx(expected)
    assert s.grad is not None
    torch.testing.assert_close(
        s.grad, torch.tensor([0.5 - 2 * math.exp(-0.5), 0.5 - 2 * math.exp(1), 0.0])
    )


@pytest.mark.parametrize("weights", ["uncertainty", {"click": 0.5}])
def test_task_shares_of_processes_add_up(weights: object) -> None:
    model = _model(weights)
    batch = small_batch(small_model())
    logits = Draws(6, {}).numbers(24, 3)
    parts = [
        task_sums(logits[rows], batch.labels[rows], batch.known[rows], batch.weight[rows])
        for rows in (slice(0, 7), slice(7, 24))
    ]
    totals = parts[0][1] + parts[1][1]
    shares = [task_loss(model, sums, counts, totals) for sums, counts in parts]
    sums, counts = task_sums(logits, batch.labels, batch.known, batch.weight)
    torch.testing.assert_close(shares[0] + shares[1], task_loss(model, sums, counts, counts))


def test_staying_is_one_less_the_cosine() -> None:
    now = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    former = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 0.0]], requires_grad=True)
    total, count = stay_sum(now, former)
    total.backward()
    assert total.item() == pytest.approx(0 + 2 + 0.4)
    assert float(count) == 3
    assert former.grad is None
