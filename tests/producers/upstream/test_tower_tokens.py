"""Tokens of a tower's inputs against loops over rows, values and actions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from provender.producers.upstream.inputs import Gathered, Inputs
from provender.producers.upstream.tower_tokens import TowerTokens, age_class
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.small_batches import Draws, small_model

Array = np.ndarray[Any, np.dtype[np.float64]]


class Plain:
    """The tokens of one row after the other, from a module's parameters."""

    def __init__(self, module: TowerTokens, model: UpstreamModel, entity: str) -> None:
        self.state = {k: v.double().numpy() for k, v in module.state_dict().items()}
        self.tables = {k: v.values.double().numpy() for k, v in model.tables.items()}
        self.heads, self.queries = model.config.model.heads, model.config.model.sequence_tokens
        self.entity = entity

    def dense(self, name: str, x: Array) -> Array:
        found: Array = self.state[f"{name}.weight"] @ x + self.state[f"{name}.bias"]
        return found

    def looked(self, name: str, row: Array | None) -> Array:
        missing = self.state[f"{name}.missing"]
        return missing if row is None else self.dense(f"{name}.project", row)

    def view(self, name: str, given: Gathered, place: tuple[int, ...]) -> Array:
        index = int(given.index[place])
        if index < 0:
            return self.looked(name, None)
        row = given.table[index].double().numpy()
        return self.looked(name, row / np.sqrt((row**2).mean()))

    def id_row(self, name: str, entity: str, row: int) -> Array:
        return self.looked(name, None if row < 0 else self.tables[entity][row])

    def tokens(self, inputs: Inputs, row: int) -> Array:
        found = []
        hidden = np.maximum(self.dense("numbers.up", inputs.numbers[row].double().numpy()), 0)
        found += list(self.dense("numbers.down", hidden).reshape(-1, 8))
        for name, bag in inputs.categories.items():
            start, end = bag.offsets[row : row + 2].tolist()
            table = self.state[f"categories.of_{name}.table"]
            values = [table[int(bag.values[place])] for place in range(start, end)]
            missing = self.state[f"categories.of_{name}.missing"]
            found.append(sum(values) / len(values) if values else missing)
        for name, given in inputs.vectors.items():
            found.append(self.view(f"vectors.of_{name}", given, (row,)))
        assert inputs.ids is not None
        found.append(self.id_row("ids", self.entity, int(inputs.ids[row])))
        return np.array([*found, *self.sequence(inputs, row)])

    def sequence(self, inputs: Inputs, row: int) -> list[Array]:
        if inputs.sequence is None:
            return []
        actions = inputs.sequence
        there = [k for k in range(actions.present.shape[1]) if actions.present[row, k]]
        if not there:
            return list(self.state["sequence.nothing"])
        each = [self.action(inputs, row, place) for place in there]
        keys, pooled = self.state["sequence.attention.weight"], []
        for key in keys:
            odds = np.exp([key @ action for action in each])
            pooled.append(sum(o * a for o, a in zip(odds / odds.sum(), each, strict=True)))
        groups = [pooled[q * self.heads : (q + 1) * self.heads] for q in range(self.queries)]
        return [self.dense("sequence.value", np.concatenate(group)) for group in groups]

    def action(self, inputs: Inputs, row: int, place: int) -> Array:
        actions = inputs.sequence
        assert actions is not None
        minutes = float(actions.age[row, place]) * 1440
        total = self.state["sequence.event"][int(actions.event[row, place]), 0]
        total = total + self.state["sequence.age"][min(int(2 * math.log2(1 + minutes)), 43)]
        total = total + self.id_row("sequence.ids", "pin", int(actions.pin[row, place]))
        for name, given in actions.vectors.items():
            total = total + self.view(f"sequence.vectors.of_{name}", given, (row, place))
        scaled: Array = (total - total.mean()) / np.sqrt(total.var() + 1e-5)
        found: Array = (
            scaled * self.state["sequence.norm.weight"] + self.state["sequence.norm.bias"]
        )
        return found


@pytest.mark.parametrize("entity", ["user", "pin"])
def test_tokens_are_what_a_loop_says(entity: str) -> None:
    model = small_model()
    tower, layout = (
        (model.towers.user, model.layout.user)
        if entity == "user"
        else (model.towers.pin, model.layout.pin)
    )
    draws = Draws(3, {name: len(table) for name, table in model.tables.items()})
    inputs = draws.inputs(layout, 30, entity)
    rows = model._rows()
    with torch.no_grad():
        found = tower.tokens(inputs, rows[entity], rows["pin"])
    plain = Plain(tower.tokens, model, entity)
    expected = np.array([plain.tokens(inputs, row) for row in range(30)])
    assert expected.shape[1] == tower.tokens.count
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_missing_is_learned_and_no_zeros() -> None:
    model = small_model()
    inputs = Draws(3, {"user": 11, "pin": 13}).inputs(model.layout.pin, 1, "pin")
    gone = Inputs(
        inputs.numbers,
        {n: type(b)(b.values[:0], torch.tensor([0, 0])) for n, b in inputs.categories.items()},
        {n: Gathered(g.table, torch.tensor([-1])) for n, g in inputs.vectors.items()},
        torch.tensor([-1]),
    )
    tokens = model.towers.pin.tokens(gone, model._rows()["pin"], None)
    tokens[0, 1:].sum().backward()
    assert (tokens[0] != 0).all()
    for name, parameter in model.towers.pin.tokens.named_parameters():
        if name.endswith("missing"):
            assert parameter.grad is not None, name
            assert torch.equal(parameter.grad, torch.ones(8)), name


def test_classes_of_ages_rise_and_end() -> None:
    days = torch.tensor([-1.0, 0.0, 1 / 1440, 3 / 1440, 1.0, 30.0, 365.0, 1e6])
    assert age_class(days).tolist() == [0, 0, 2, 4, 20, 30, 38, 43]
