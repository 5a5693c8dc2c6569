"""Each interaction module, one row and one number at a time, in numpy; and their registry."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from provender.plugin.errors import ConfigError
from provender.producers.upstream.config import ModelConfig, TowerConfig
from provender.producers.upstream.dhen import Dhen, DhenLayer
from provender.producers.upstream.interactions import Sizes, interaction, register
from tests.producers.upstream.small_batches import Draws

Array = np.ndarray[Any, np.dtype[np.float64]]
#: By name, of a module's state dict.
State = dict[str, Array]


def _dense(state: State, name: str, x: Array) -> Array:
    found: Array = state[f"{name}.weight"] @ x + state.get(f"{name}.bias", np.zeros(1))
    return found


def _norm(state: State, name: str, x: Array) -> Array:
    scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    found: Array = scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
    return found


def _mixed(weight: Array | None, x: Array) -> Array:
    if weight is None:
        return x
    return np.array(
        [sum(share * token for share, token in zip(row, x, strict=True)) for row in weight]
    )


def _linear(state: State, x: Array, sizes: Sizes) -> Array:
    return np.array([_dense(state, "dense", token) for token in _mixed(state["mix"], x)])


def _mlp(state: State, x: Array, sizes: Sizes) -> Array:
    hidden = np.maximum(_dense(state, "up", x.reshape(-1)), 0)
    return _dense(state, "down", hidden).reshape(sizes.after, -1)


def _cross(state: State, x: Array, sizes: Sizes) -> Array:
    flat = x.reshape(-1)
    matrix = state["outward.weight"] @ state["inward.weight"]
    crossed = flat * (matrix @ flat + state["outward.bias"]) + flat
    return _mixed(state.get("mix.weight"), crossed.reshape(x.shape))


def _masknet(state: State, x: Array, sizes: Sizes) -> Array:
    flat = x.reshape(-1)
    mask = _dense(state, "mask", np.maximum(_dense(state, "squeeze", flat), 0))
    normed = np.concatenate([_norm(state, "norm", token) for token in x])
    hidden = _norm(state, "hidden_norm", _dense(state, "hidden", mask * normed))
    return _dense(state, "out", np.maximum(hidden, 0)).reshape(sizes.after, -1)


def _self_attention(state: State, x: Array, sizes: Sizes) -> Array:
    head = sizes.width // sizes.heads
    found = []
    for asking in _mixed(state.get("mix.weight"), x):
        parts = []
        for own in (slice(h * head, (h + 1) * head) for h in range(sizes.heads)):
            query = _dense(state, "query", asking)[own]
            keys = [_dense(state, "key_value", token)[: sizes.width][own] for token in x]
            values = [_dense(state, "key_value", token)[sizes.width :][own] for token in x]
            odds = np.exp([query @ key / np.sqrt(head) for key in keys])
            parts.append(sum(o * v for o, v in zip(odds / odds.sum(), values, strict=True)))
        found.append(_dense(state, "out", np.concatenate(parts)))
    return np.array(found)


def _pairwise_dot(state: State, x: Array, sizes: Sizes) -> Array:
    count = len(x)
    pairs = [x[i] @ x[j] / np.sqrt(sizes.width) for i in range(count) for j in range(i, count)]
    return _dense(state, "out", np.array(pairs)).reshape(sizes.after, -1)


PLAIN: dict[str, Callable[[State, Array, Sizes], Array]] = {
    "linear": _linear,
    "mlp": _mlp,
    "cross": _cross,
    "masknet": _masknet,
    "self_attention": _self_attention,
    "pairwise_dot": _pairwise_dot,
}


def _made(name: str, sizes: Sizes) -> tuple[nn.Module, State]:
    torch.manual_seed(4)
    module = interaction(name, sizes)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(Draws(number, {}).numbers(*parameter.shape) * 0.1)
    return module, {key: value.double().numpy() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 3), (1, 2), (4, 1)])
def test_a_module_is_what_a_loop_says(name: str, before: int, after: int) -> None:
    sizes = Sizes(before, after, width=8, heads=2, hidden=6, rank=3)
    module, state = _made(name, sizes)
    x = Draws(1, {}).numbers(7, before, 8)
    expected = [PLAIN[name](state, row, sizes) for row in x.double().numpy()]
    with torch.no_grad():
        found = module(x)
    assert found.shape == (7, after, 8)
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_every_parameter_gets_a_gradient_and_no_rows_give_none(name: str) -> None:
    module, _ = _made(name, Sizes(5, 3, width=8, heads=2, hidden=6, rank=3))
    assert module(torch.zeros(0, 5, 8)).shape == (0, 3, 8)
    found = module(Draws(1, {}).numbers(7, 5, 8))
    (found * Draws(2, {}).numbers(*found.shape)).sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="'transformer'") as refused:
        interaction("transformer", Sizes(5, 3, 8, 2, 6, 3))
    assert all(name in str(refused.value) for name in PLAIN)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="cross, linear, masknet") as refused:
        register("mlp")(lambda sizes: nn.Identity())
    assert "interaction module 'mlp'" in str(refused.value)


def _layer(config: TowerConfig, before: int) -> tuple[DhenLayer, State]:
    torch.manual_seed(4)
    layer = DhenLayer(config, ModelConfig(width=8, heads=2, hidden=8, rank=3), before)
    return layer, {key: value.double().numpy() for key, value in layer.state_dict().items()}


@pytest.mark.parametrize("ensemble", ["sum", "concat"])
@pytest.mark.parametrize("names", [("mlp",), ("cross", "self_attention", "pairwise_dot")])
@pytest.mark.parametrize("before", [3, 5])
def test_a_layer_norms_its_ensemble_and_its_shortcut(
    ensemble: str, names: tuple[str, ...], before: int
) -> None:
    config = TowerConfig.model_validate({"modules": names, "ensemble": ensemble, "tokens": 3})
    layer, state = _layer(config, before)
    sizes = Sizes(before, 3, width=8, heads=2, hidden=8, rank=3)
    x = Draws(1, {}).numbers(4, before, 8)
    expected = []
    for row in x.double().numpy():
        parts = []
        for place, name in enumerate(names):
            start = f"parts.{place}."
            own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            parts.append(PLAIN[name](own, row, sizes))
        beside = np.concatenate(parts, 1)
        joined = (
            np.array([_dense(state, "join", token) for token in beside])
            if ensemble == "concat"
            else sum(parts)
        )
        whole = joined + _mixed(state.get("shortcut.weight"), row)
        expected.append([_norm(state, "norm", token) for token in whole])
    with torch.no_grad():
        found = layer(x)
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-4, atol=1e-5)


def test_layers_are_stacked() -> None:
    model = ModelConfig(width=8, heads=2, hidden=8, rank=3)
    stack = Dhen(TowerConfig(layers=3, tokens=2), model, 6)
    x = Draws(1, {}).numbers(4, 6, 8)
    steps = [x]
    for layer in stack:
        steps.append(layer(steps[-1]))
    assert [step.shape[1] for step in steps] == [6, 2, 2, 2]
    assert torch.equal(stack(x), steps[-1])
    assert all(not torch.equal(a, b) for a, b in pairwise(steps[1:]))


def test_dropout_is_of_training_alone() -> None:
    config = TowerConfig(tokens=3)
    torch.manual_seed(4)
    layer = DhenLayer(config, ModelConfig(width=8, heads=2, hidden=8, dropout=0.5), 3)
    x = Draws(1, {}).numbers(4, 3, 8)
    assert (layer(x) == 0).any()
    layer.eval()
    assert not (layer(x) == 0).any()
