"""A step of training towers: what it is a gradient of, what it hides, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from provender.plugin.errors import TrainingError
from provender.producers.checkpoint import Position
from provender.producers.upstream.batch_shares import Place
from provender.producers.upstream.tower_steps import TowerSteps, hidden, known_ids
from provender.producers.upstream.tower_training_state import TowerTrainingState
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.planted_batches import (
    PlantedStream,
    same,
    small_config,
    tensors,
    untrained,
)
from tests.producers.upstream.small_batches import small_tables

CPU = torch.device("cpu")
BATCH = PlantedStream(examples=200, users=40, pins=40).batch(0)
AT = Position(0, 3, 7)


def _steps(former: UpstreamModel | None = None, **training: object) -> TowerSteps:
    return TowerSteps(small_config(**training), former, CPU, Place())


@pytest.mark.parametrize("refreshes", [False, True])
def test_every_parameter_gets_a_gradient(refreshes: bool) -> None:
    steps = _steps(untrained(small_config()) if refreshes else None)
    model = untrained(steps.config)
    leaves = model.leaves(BATCH)
    steps.loss(model, BATCH, leaves).backward()
    for name, parameter in model.towers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert set(leaves) == {"user", "pin"}
    for rows in leaves.values():
        assert rows.values.grad is not None
        assert (rows.values.grad.abs().sum(1) > 0).all()
    assert model.towers.log_variance is not None


def test_a_step_moves_everything_that_it_saw() -> None:
    steps = _steps(id_dropout=0.0)
    model = untrained(steps.config)
    former = tensors(model)
    steps.step(TowerTrainingState.start(model), BATCH, AT, 20)
    now = tensors(model)
    assert not [name for name in former if torch.equal(former[name], now[name])]
    seen = {int(row) for row in BATCH.users.ids.tolist() if row >= 0}  # type: ignore[union-attr]
    moved = (former["user/values"] != now["user/values"]).any(1).nonzero().flatten().tolist()
    assert set(moved) == seen


def test_the_loss_is_what_it_says() -> None:
    """By the formulas, one example at a time."""
    steps = _steps(task_weights={"save": 3.0}, contrastive={"weight": 0.5, "log_q": False})
    model = untrained(steps.config)
    with torch.no_grad():
        users, pins = model.users(BATCH.users), model.pins(BATCH.pins)
        logits = model.scores(users, pins, BATCH.cross, BATCH.user, BATCH.pin)
    expected = 0.0
    for task, weight in enumerate((1.0, 3.0, 1.0)):
        losses = [
            float(BATCH.weight[row])
            * float(F.binary_cross_entropy_with_logits(logits[row, task], BATCH.labels[row, task]))
            for row in range(len(BATCH))
            if BATCH.known[row, task]
        ]
        expected += weight * sum(losses) / len(losses)
    likes = {
        row: (int(BATCH.user_id[BATCH.user[row]]), int(BATCH.pin_id[BATCH.pin[row]]))
        for row in range(len(BATCH))
        if bool(((BATCH.labels[row] > 0) & BATCH.known[row])[:2].any())
    }
    losses = []
    for row, (user, _) in likes.items():
        vector, own = users.vector[BATCH.user[row]], int(BATCH.pin[row])
        scores = [float(vector @ each) / 0.07 for each in pins.vector]
        negatives = [
            score
            for pin, score in enumerate(scores)
            if (user, int(BATCH.pin_id[pin])) not in set(likes.values())
        ]
        total = sum(math.exp(score) for score in [scores[own], *negatives])
        losses.append(float(BATCH.weight[row]) * (math.log(total) - scores[own]))
    expected += 0.5 * sum(losses) / len(losses)
    assert float(steps.loss(model, BATCH, model.leaves(BATCH)).detach()) == pytest.approx(
        expected, rel=1e-4
    )


def test_towers_are_held_near_to_the_former_ones() -> None:
    former = untrained(small_config())
    model = untrained(small_config())
    with torch.no_grad():
        model.towers.user.vector.weight.mul_(-1)  # all users to the other side
    leaves = model.leaves(BATCH)
    with_it, without = (
        float(_steps(former, stay=stay).loss(model, BATCH, leaves).detach()) for stay in (0.5, 0.0)
    )
    away = []
    with torch.no_grad():
        for tower, inputs in (("users", BATCH.users), ("pins", BATCH.pins)):
            now, then = (getattr(each, tower)(inputs).vector for each in (model, former))
            away.append(sum(1 - float(a @ b) for a, b in zip(now, then, strict=True)) / len(now))
    assert away[0] > 0.5
    assert with_it - without == pytest.approx(0.5 * sum(away), abs=1e-4)


def test_rows_are_hidden_by_seed_step_and_row() -> None:
    hid = hidden(BATCH, 0.5, 3, 7)
    again = hidden(replace(BATCH, users=BATCH.users), 0.5, 3, 7)
    other = hidden(BATCH, 0.5, 3, 8)
    assert hid.pins.ids is not None and BATCH.pins.ids is not None
    assert hid.users.sequence is not None and BATCH.users.sequence is not None
    gone = set(BATCH.pins.ids[hid.pins.ids < 0].tolist()) - {-1}
    kept = set(hid.pins.ids.tolist()) - {-1}
    assert gone and kept and not gone & kept
    seen = BATCH.users.sequence.pin
    expected = torch.where(torch.isin(seen, torch.tensor(sorted(gone))), -1, seen)
    within = torch.isin(seen, torch.tensor(sorted(gone | kept)))
    assert torch.equal(hid.users.sequence.pin[within], expected[within])
    assert torch.equal(again.pins.ids, hid.pins.ids)  # type: ignore[arg-type]
    assert not torch.equal(other.pins.ids, hid.pins.ids)  # type: ignore[arg-type]
    assert hidden(BATCH, 0.0, 3, 7) is BATCH


def test_so_many_rows_are_hidden() -> None:
    many = replace(BATCH, pins=replace(BATCH.pins, ids=torch.arange(20_000)))
    for chance in (0.1, 0.7):
        ids = hidden(many, chance, 1, 2).pins.ids
        assert ids is not None
        assert float((ids < 0).float().mean()) == pytest.approx(chance, abs=0.015)


def test_to_former_towers_later_rows_are_none() -> None:
    former = replace(untrained(small_config()), tables=small_tables(users=4, pins=5))
    found = known_ids(BATCH.users, "user", former)
    ids, seen = BATCH.users.ids, BATCH.users.sequence
    assert ids is not None and seen is not None
    assert found.ids is not None and found.sequence is not None
    assert found.ids.tolist() == [row if row < 4 else -1 for row in ids.tolist()]
    flat = zip(found.sequence.pin.flatten().tolist(), seen.pin.flatten().tolist(), strict=True)
    assert all(got == (row if row < 5 else -1) for got, row in flat)


@pytest.mark.parametrize("where", ["number", "vector", "weight"])
def test_what_is_no_number_changes_nothing(where: str) -> None:
    batch = BATCH
    if where == "number":
        bad = batch.users.numbers.clone()
        bad[2, 1] = math.inf
        batch = replace(batch, users=replace(batch.users, numbers=bad))
    elif where == "vector":
        table = batch.pins.vectors["look"].table.clone().fill_(math.nan)
        look = replace(batch.pins.vectors["look"], table=table)
        batch = replace(batch, pins=replace(batch.pins, vectors={"look": look}))
    else:
        batch = replace(batch, weight=torch.full_like(batch.weight, 1e38))
    steps = _steps()
    model = untrained(steps.config)
    former = tensors(model)
    with pytest.raises(TrainingError, match=r"epoch 0, step 7, batch 3 \(users number \d+"):
        steps.step(TowerTrainingState.start(model), batch, AT, 20)
    assert same(former, tensors(model))


def test_the_rate_rises_and_falls_first_and_stays_in_refreshes() -> None:
    first = [_steps(learning_rate=1.0, warmup=0.2).rate(step, 20) for step in range(20)]
    assert first[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert first[4:] == sorted(first[4:], reverse=True)
    later = _steps(untrained(small_config()), refresh_learning_rate=0.01)
    assert {later.rate(step, 20) for step in range(20)} == {0.01}
