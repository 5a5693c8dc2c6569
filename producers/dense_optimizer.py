"""AdamW of dense parameters, and its rate: the same for page encoders and upstream towers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def adamw(modules: nn.Module, weight_decay: float, *, fused: bool = False) -> torch.optim.AdamW:
    """AdamW that shrinks matrices, and neither biases nor norms nor single vectors.

    Its rate is set before each step. `fused` does a parameter in one pass, in a fifth of the time
    on a CPU, and rounds otherwise.
    """
    learned = [each for each in modules.parameters() if each.requires_grad]
    matrices = [each for each in learned if each.ndim > 1]
    others = [each for each in learned if each.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the steps that follow."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_at(step: int, total: int, height: float, warmup: float) -> float:
    """The rate of a step: a linear rise to `height`, then half a cosine down to nearly nothing.

    `warmup` is the share of all steps in which it rises.
    """
    rising = round(warmup * total)
    if step < rising:
        return height * (step + 1) / rising
    fallen = (step - rising) / max(total - rising, 1)
    return height * 0.5 * (1 + math.cos(math.pi * fallen))


def moments(optimizer: torch.optim.AdamW, modules: nn.Module) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, by name."""
    held: dict[str, Tensor] = {}
    for name, parameter in modules.named_parameters():
        known = optimizer.state.get(parameter, {})
        held |= {f"{name}/{moment}": value for moment, value in known.items()}
    return held


def restore_moments(
    optimizer: torch.optim.AdamW, modules: nn.Module, held: Mapping[str, Tensor]
) -> None:
    """Remember what `moments` gave, of those parameters that still have that shape."""
    for name, parameter in modules.named_parameters():
        size = held.get(f"{name}/exp_avg")
        if size is not None and size.shape == parameter.shape:
            state = {one: held[f"{name}/{one}"].clone() for one in _MOMENTS}
            there = _MOMENTS if optimizer.defaults["fused"] else _MOMENTS[1:]
            moved = {one: state[one].to(parameter.device) for one in there}
            optimizer.state[parameter] = state | moved
