"""Towers: what each sees, what gets a gradient, what is saved."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.id_table import IdTable
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.inputs import (
    Bag,
    Batch,
    Gathered,
    Inputs,
    Layout,
    TowerLayout,
)
from provender.producers.upstream.tower_losses import (
    Matches,
    contrastive_sum,
    task_loss,
    task_sums,
)
from provender.producers.upstream.upstream_model import IdRows, UpstreamModel
from tests.producers.upstream.small_batches import (
    SMALL,
    Draws,
    small_batch,
    small_layout,
    small_model,
    small_tables,
)

ALL = ("masknet", "self_attention", "cross", "mlp", "linear", "pairwise_dot")


def _logits(model: UpstreamModel, batch: Batch, leaves: IdRows | None = None) -> Tensor:
    users, pins = model.users(batch.users, leaves), model.pins(batch.pins, leaves)
    return model.scores(users, pins, batch.cross, batch.user, batch.pin)


def _loss(model: UpstreamModel, batch: Batch, leaves: IdRows | None = None) -> Tensor:
    users, pins = model.users(batch.users, leaves), model.pins(batch.pins, leaves)
    logits = model.scores(users, pins, batch.cross, batch.user, batch.pin)
    sums, counts = task_sums(logits, batch.labels, batch.known, batch.weight)
    near, matches = contrastive_sum(
        users.vector,
        pins.vector,
        Matches.of(batch, model.liked),
        batch.log_q,
        model.config.training.contrastive,
        (*model.config.model.nested_dims, model.config.model.dim),
        None,
    )
    return task_loss(model, sums, counts, counts) + near / matches.clamp(min=1)


def test_vectors_have_norm_1_and_logits_one_a_task() -> None:
    model = small_model()
    batch = small_batch(model)
    users, pins = model.users(batch.users), model.pins(batch.pins)
    assert users.tokens.shape == (9, 3, 8)
    torch.testing.assert_close(users.vector.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(pins.vector.norm(dim=1), torch.ones(10))
    assert _logits(model, batch).shape == (24, 3)


def test_the_whole_table_and_the_leaves_of_a_batch_give_the_same() -> None:
    model = small_model()
    batch = small_batch(model)
    torch.testing.assert_close(_logits(model, batch), _logits(model, batch, model.leaves(batch)))


@pytest.mark.parametrize("weights", ["uncertainty", {"click": 0.5}])
@pytest.mark.parametrize("modules", [ALL, ("cross", "self_attention")])
def test_every_parameter_and_every_id_row_gets_a_gradient(
    weights: object, modules: tuple[str, ...]
) -> None:
    tower = {"tokens": 3, "modules": modules, "ensemble": "concat"}
    config = UpstreamConfig.parse(
        {
            "model": {**SMALL, "user": tower, "pin": tower, "interaction": tower},
            "training": {"task_weights": weights},
        }
    )
    model = UpstreamModel.new(config, small_layout(), small_tables(), 1)
    # Rows enough that each category, age and kind of what is missing is met.
    draws = Draws(2, {name: len(table) for name, table in model.tables.items()})
    batch = draws.batch(model.layout, 200, 80, 80)
    leaves = model.leaves(batch)
    _loss(model, batch, leaves).backward()
    for name, parameter in model.towers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    for rows in leaves.values():
        assert rows.values.grad is not None
        assert (rows.values.grad.abs().amax(1) > 0).all()


def test_a_tower_sees_nothing_of_the_other() -> None:
    model = small_model()
    batch = small_batch(model)
    users, pins = model.users(batch.users), model.pins(batch.pins)
    with torch.no_grad():
        for tower in (model.towers.pin, model.towers.cross, model.towers.interaction):
            for parameter in tower.parameters():
                parameter.add_(1.0)
    assert torch.equal(model.users(batch.users).vector, users.vector)
    assert not torch.equal(model.pins(batch.pins).vector, pins.vector)
    gradients = torch.autograd.grad(users.vector.sum(), list(model.towers.pin.parameters()),
                                    allow_unused=True)  # fmt: skip
    assert all(each is None for each in gradients)
    gradients = torch.autograd.grad(pins.vector.sum(), list(model.towers.user.parameters()),
                                    allow_unused=True)  # fmt: skip
    assert all(each is None for each in gradients)


def test_a_row_does_not_depend_on_the_others() -> None:
    model = small_model()
    batch = small_batch(model)
    whole = model.pins(batch.pins).vector
    for row in range(len(batch.pins)):
        own = _row(batch.pins, row)
        torch.testing.assert_close(model.pins(own).vector[0], whole[row])


def _row(inputs: Inputs, row: int) -> Inputs:
    def bag(given: Bag) -> Bag:
        start, end = given.offsets[row : row + 2].tolist()
        return Bag(given.values[start:end], torch.tensor([0, end - start]))

    assert inputs.ids is not None
    return Inputs(
        inputs.numbers[row : row + 1],
        {name: bag(each) for name, each in inputs.categories.items()},
        {n: Gathered(e.table, e.index[row : row + 1]) for n, e in inputs.vectors.items()},
        inputs.ids[row : row + 1],
    )


def test_labels_that_are_not_known_change_no_bit_of_any_gradient() -> None:
    gradients = []
    for garbage in (0.0, 1.0, math.nan):
        model = small_model()
        batch = small_batch(model)
        labels = torch.where(batch.known, batch.labels, garbage)
        leaves = model.leaves(batch)
        _loss(model, replace(batch, labels=labels), leaves).backward()
        parts = [*model.towers.parameters(), *(rows.values for rows in leaves.values())]
        gradients.append(torch.cat([p.grad.flatten() for p in parts if p.grad is not None]))
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_what_is_padded_changes_no_bit() -> None:
    model = small_model()
    batch = small_batch(model)
    actions = batch.users.sequence
    assert actions is not None
    hole = ~actions.present
    assert hole.any()
    other = replace(
        actions,
        event=torch.where(hole, 2, actions.event),
        age=torch.where(hole, math.nan, actions.age),
        pin=torch.where(hole, 12, actions.pin),
        vectors={n: Gathered(e.table, torch.where(hole, 5, e.index))
                 for n, e in actions.vectors.items()},
    )  # fmt: skip
    expected = model.users(batch.users).vector
    assert torch.equal(model.users(replace(batch.users, sequence=other)).vector, expected)

    def longer(values: Tensor, by: float) -> Tensor:
        return torch.cat([values, torch.full((9, 3), by).to(values.dtype)], 1)

    wide = replace(
        actions,
        event=longer(actions.event, 0),
        age=longer(actions.age, 1),
        pin=longer(actions.pin, -1),
        present=longer(actions.present, 0),
        vectors={n: Gathered(e.table, longer(e.index, -1)) for n, e in actions.vectors.items()},
    )
    torch.testing.assert_close(model.users(replace(batch.users, sequence=wide)).vector, expected)


def test_the_order_of_actions_does_not_matter_but_their_age_does() -> None:
    model = small_model()
    batch = small_batch(model)
    actions = batch.users.sequence
    assert actions is not None
    back = replace(
        actions,
        **{n: getattr(actions, n).flip(1) for n in ("event", "age", "pin", "present")},
        vectors={n: Gathered(e.table, e.index.flip(1)) for n, e in actions.vectors.items()},
    )
    expected = model.users(batch.users).vector
    torch.testing.assert_close(model.users(replace(batch.users, sequence=back)).vector, expected)
    older = replace(actions, age=actions.age + 100)
    found = model.users(replace(batch.users, sequence=older)).vector
    some = actions.present.any(1)
    assert (found != expected).any(1).equal(some)


def test_no_actions_at_all() -> None:
    model = small_model()
    batch = small_batch(model)
    actions = batch.users.sequence
    assert actions is not None
    none = replace(
        actions,
        **{n: getattr(actions, n)[:, :0] for n in ("event", "age", "pin", "present")},
        vectors={n: Gathered(e.table[:0], e.index[:, :0]) for n, e in actions.vectors.items()},
    )
    absent = replace(actions, present=torch.zeros_like(actions.present))
    found = model.users(replace(batch.users, sequence=none)).vector
    assert found.isfinite().all()
    assert torch.equal(found, model.users(replace(batch.users, sequence=absent)).vector)


def test_a_table_with_more_rows_than_are_asked_for() -> None:
    model = small_model()
    batch = small_batch(model)
    given = batch.pins.vectors["look"]
    wide = Gathered(torch.cat([Draws(8, {}).numbers(50, 4), given.table]),
                    torch.where(given.index < 0, -1, given.index + 50))  # fmt: skip
    pins = replace(batch.pins, vectors={"look": wide})
    torch.testing.assert_close(model.pins(pins).vector, model.pins(batch.pins).vector)
    scaled = replace(batch.pins, vectors={"look": Gathered(given.table * 9, given.index)})
    torch.testing.assert_close(model.pins(scaled).vector, model.pins(batch.pins).vector)


def test_towers_that_are_given_nothing() -> None:
    nothing = TowerLayout()
    layout = Layout(nothing, nothing, nothing, ("click",), ("click",))
    model = UpstreamModel.new(UpstreamConfig.parse({"model": SMALL}), layout, {}, 0)
    batch = Draws(1, {}).batch(layout, 5, 4, 3)
    _loss(model, batch, model.leaves(batch)).backward()
    assert _logits(model, batch).shape == (5, 1)


@pytest.mark.parametrize("examples", [0, 1])
def test_few_or_no_examples(examples: int) -> None:
    model = small_model()
    batch = small_batch(model, examples=examples)
    assert _logits(model, batch).shape == (examples, 3)
    _loss(model, batch, model.leaves(batch)).backward()
    draws = Draws(1, {"user": 11, "pin": 13})
    assert model.users(draws.inputs(model.layout.user, 0, "user")).vector.shape == (0, 8)
    assert model.pins(draws.inputs(model.layout.pin, 0, "pin")).vector.shape == (0, 8)


def test_logits_follow_the_inner_product_by_the_task_s_scale() -> None:
    model = small_model()
    batch = small_batch(model)
    users, pins = model.users(batch.users), model.pins(batch.pins)
    found = model.scores(users, pins, batch.cross, batch.user, batch.pin)
    turned = replace(users, vector=-users.vector)
    other = model.scores(turned, pins, batch.cross, batch.user, batch.pin)
    products = (users.vector @ pins.vector.T)[batch.user, batch.pin]
    expected = 2 * products.unsqueeze(1) * torch.tensor([4.0, 4.0, -4.0])
    torch.testing.assert_close(found - other, expected)


def test_the_seed_alone_decides_and_the_generator_stays() -> None:
    before = torch.get_rng_state()
    one, torch_moved = small_model(seed=5), torch.rand(3)
    assert torch_moved.shape == (3,)
    same, other = small_model(seed=5), small_model(seed=6)
    torch.set_rng_state(before)
    states = [model.towers.state_dict() for model in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("weights", ["uncertainty", {"save": 0.5}])
def test_what_is_saved_is_read_to_the_bit(tmp_path: Path, weights: object) -> None:
    config = UpstreamConfig.parse({"model": SMALL, "training": {"task_weights": weights}})
    tables = {**small_tables(), "user": IdTable.hashed(11, 5, 0)}
    model = UpstreamModel.new(config, small_layout(), tables, 1)
    batch = small_batch(model)
    model.save(tmp_path / "model")
    found = UpstreamModel.load(tmp_path / "model")
    assert (found.config, found.layout) == (model.config, model.layout)
    assert torch.equal(_logits(found, batch), _logits(model, batch))
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["model.json", "model.safetensors", "ids-pin/table.json", "ids-user/keys.parquet"]
)
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_model_is_told(tmp_path: Path, name: str, harm: str) -> None:
    small_model().save(tmp_path / "model")
    path = tmp_path / "model" / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"expected (a )?whole"):
        UpstreamModel.load(tmp_path / "model")


def test_other_json_in_place_of_the_model_is_told(tmp_path: Path) -> None:
    small_model().save(tmp_path / "model")
    about = tmp_path / "model" / "model.json"
    about.write_text(about.read_text().replace('"width": 8', '"width": 16'))
    with pytest.raises(CheckpointError, match="whole upstream towers"):
        UpstreamModel.load(tmp_path / "model")


def test_unknown_modules_and_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'transformer'.*masknet"):
        small_model(user={"modules": ["transformer"]})
    config = UpstreamConfig.parse({"training": {"task_weights": {"clicks": 1}}})
    with pytest.raises(ConfigError, match="found clicks; expected tasks, click, save, hide"):
        UpstreamModel.new(config, small_layout(), small_tables(), 0)


def test_bfloat16_is_near_and_trains() -> None:
    exact, rough = small_model(), small_model(bf16=True)
    batch = small_batch(exact)
    expected, found = _logits(exact, batch), _logits(rough, batch)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)
    leaves = rough.leaves(batch)
    _loss(rough, batch, leaves).backward()
    for name, parameter in rough.towers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
    assert leaves["pin"].values.grad is not None
