"""AdamW: its rate, what it shrinks, what it remembers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from provender.producers.dense_optimizer import adamw, moments, rate_at, restore_moments, set_rate


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 20, 1.0, 0.2) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.02
    assert rate_at(0, 1, 1.0, 0.0) == 1.0


def test_matrices_shrink_and_nothing_else() -> None:
    modules = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    former = {name: each.detach().clone() for name, each in modules.named_parameters()}
    optimizer = adamw(modules, 0.1)
    set_rate(optimizer, 0.5)
    for each in modules.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    for name, each in modules.named_parameters():
        share = 0.95 if name == "0.weight" else 1.0
        torch.testing.assert_close(each.detach(), share * former[name])


def test_what_is_remembered_goes_on_where_shapes_are_the_same() -> None:
    def stepped(modules: nn.Module, optimizer: torch.optim.AdamW) -> None:
        for each in modules.parameters():
            each.grad = torch.full_like(each, 0.5)
        optimizer.step()

    one, other = nn.Linear(2, 2), nn.Linear(3, 2)
    optimizer = adamw(one, 0.0)
    stepped(one, optimizer)
    held = {name: each.clone() for name, each in moments(optimizer, one).items()}
    restored = adamw(other, 0.0)
    restore_moments(restored, other, held)
    assert set(moments(restored, other)) == {f"bias/{n}" for n in ("step", "exp_avg", "exp_avg_sq")}
    stepped(other, restored)
    stepped(one, optimizer)
    of_bias = {n: each for n, each in moments(optimizer, one).items() if n.startswith("bias")}
    for name, value in of_bias.items():
        assert torch.equal(moments(restored, other)[name], value)
        assert name.endswith("step") or not torch.equal(held[name], value)
