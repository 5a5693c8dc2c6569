"""A step of training towers: each tower once a distinct row, the losses, the update.

Legend of shapes: B examples of a batch, Mu and Mp rows of users and pins, T tasks, U rows of an id
table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from provender.plugin.counter_random import walker_keys
from provender.plugin.errors import TrainingError
from provender.plugin.id_table import Rows
from provender.producers import ranks
from provender.producers.checkpoint import Position
from provender.producers.chunks import generator_of
from provender.producers.dense_optimizer import rate_at, set_rate
from provender.producers.upstream.batch_shares import Place, from_all, some_rows
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.inputs import Batch, Inputs
from provender.producers.upstream.tower_losses import (
    Matches,
    contrastive_sum,
    stay_sum,
    task_loss,
    task_sums,
)
from provender.producers.upstream.tower_training_state import TowerTrainingState
from provender.producers.upstream.upstream_model import Towered, UpstreamModel

# What a draw is for, so that no two have anything in common.
_DROPOUT, _HIDDEN = range(2)


@dataclass(frozen=True, eq=False)
class TowerSteps:
    """What stays the same during a training, and a step of it.

    `former` are the towers of the last refresh, which do not change; None at the first.
    """

    config: UpstreamConfig
    former: UpstreamModel | None
    device: torch.device
    place: Place

    def step(self, state: TowerTrainingState, batch: Batch, at: Position, total: int) -> float:
        """Train on one batch and return its loss; TrainingError changes nothing."""
        config, towers = self.config.training, state.model.towers
        torch.manual_seed(
            generator_of(config.seed, _DROPOUT, at.step, self.place.rank).initial_seed()
        )
        towers.train()
        state.optimizer.zero_grad(set_to_none=True)
        batch = on(hidden(batch, config.id_dropout, config.seed, at.step), self.device)
        leaves = state.model.leaves(batch)
        loss = self.loss(state.model, batch, leaves)
        loss.backward()
        told = self.summed([*towers.parameters(), *(rows.values for rows in leaves.values())], loss)
        norm = float(clip_grad_norm_(towers.parameters(), config.clip))
        # Rows of id tables are not clipped: Adagrad divides by the size of their gradients.
        size = sum(float(_gradient(rows).square().sum()) for rows in leaves.values())
        if not math.isfinite(told + norm + size):
            raise _not_finite(at, batch, told, math.hypot(norm, math.sqrt(size)))
        set_rate(state.optimizer, self.rate(at.step, total))
        state.optimizer.step()
        for entity, rows in leaves.items():
            numbers, gradient = rows.numbers, _gradient(rows)
            if numbers is not None:
                state.model.tables[entity].update(numbers, gradient, config.id_learning_rate)
        return told

    def rate(self, step: int, total: int) -> float:
        """Of AdamW: it rises and falls at the first training, and stays in refreshes."""
        config = self.config.training
        if self.former is not None:
            return config.refresh_learning_rate
        return rate_at(step, total, config.learning_rate, config.warmup)

    def loss(self, model: UpstreamModel, batch: Batch, leaves: Mapping[str, Rows]) -> Tensor:
        """This process's share of the batch's loss: the shares of all add up to it."""
        users, pins = self._share(batch.users), self._share(batch.pins)
        of_users, of_pins = model.users(users, leaves), model.pins(pins, leaves)
        loss = model.towers.scale.new_zeros(())
        if self.former is not None and self.config.training.stay:
            with torch.no_grad():
                former_users = self.former.users(known_ids(users, "user", self.former))
                former_pins = self.former.pins(known_ids(pins, "pin", self.former))
            away = self._away(of_users, former_users, len(batch.users))
            away = away + self._away(of_pins, former_pins, len(batch.pins))
            loss = loss + self.config.training.stay * away
        own = of_users.tokens, of_users.vector, of_pins.tokens, of_pins.vector
        counts = [len(batch.users)] * 2 + [len(batch.pins)] * 2
        parts = from_all(self.place, counts, *own)
        of_users, of_pins = Towered(*parts[:2]), Towered(*parts[2:])  # (Mu, ...) and (Mp, ...)
        loss = loss + self._tasks(model, batch, of_users, of_pins)
        return loss + self._contrastive(model, batch, of_users.vector, of_pins.vector)

    def summed(self, leaves: list[Tensor], loss: Tensor) -> float:
        """The loss of the whole batch; the gradients become those of it, the same everywhere."""
        for each in leaves:
            if each.grad is None:  # Nothing of this batch went through it.
                each.grad = torch.zeros_like(each)
        if self.place.ranks == 1:
            return float(loss.detach())
        given = [each.grad.flatten() for each in leaves if each.grad is not None]
        flat = torch.cat([*given, loss.detach().view(1)])
        # In one order, so that all get the same bits.
        flat = ranks.all_gather(flat.cpu()).sum(0).to(self.device)
        sizes = [each.numel() for each in leaves]
        for each, part in zip(leaves, flat[:-1].split(sizes), strict=True):
            each.grad = part.view_as(each)
        return float(flat[-1])

    def _share(self, inputs: Inputs) -> Inputs:
        """This process's rows of a tower."""
        if self.place.ranks == 1:
            return inputs
        return some_rows(inputs, self.place.filled(len(inputs)).to(self.device))

    def _away(self, now: Towered, former: Towered, count: int) -> Tensor:
        """How far vectors are from those of the former towers, on average over all processes."""
        own = len(self.place.rows(count))  # Without what only fills up.
        return stay_sum(now.vector[:own], former.vector[:own])[0] / count

    def _tasks(self, model: UpstreamModel, batch: Batch, users: Towered, pins: Towered) -> Tensor:
        """The tasks' losses on this process's examples."""
        rows = self.place.filled(len(batch)).to(self.device)
        logits = model.scores(
            users, pins, self._share(batch.cross), batch.user[rows], batch.pin[rows]
        )
        known = batch.known[rows]
        known[len(self.place.rows(len(batch))) :] = False  # What only fills up.
        sums, counts = task_sums(logits, batch.labels[rows], known, batch.weight[rows])
        return task_loss(model, sums, counts, batch.known.sum(0).float())

    def _contrastive(
        self, model: UpstreamModel, batch: Batch, users: Tensor, pins: Tensor
    ) -> Tensor:
        """Of this process's positives, each against the pins of the whole batch."""
        config, sizes = self.config.training.contrastive, self.config.model
        if not config.weight or not model.liked:
            return users.new_zeros(())
        own = self.place.rows(len(batch)).to(self.device)
        positive = (batch.labels[:, model.liked] > 0) & batch.known[:, model.liked]
        total, _ = contrastive_sum(
            users,
            pins,
            Matches.of(batch, model.liked, own),
            batch.log_q,
            config,
            (*sizes.nested_dims, sizes.dim),
            sizes.nested_weights,
        )
        loss: Tensor = config.weight * total / positive.any(1).sum().clamp(min=1)
        return loss


def hidden(batch: Batch, chance: float, seed: int, step: int) -> Batch:
    """The batch without some rows of id tables: by seed, step and row, whoever draws."""
    if not chance:
        return batch

    def shown(ids: Tensor, table: int) -> Tensor:
        keys = walker_keys(generator_of(seed, _HIDDEN, table).initial_seed(), ids.flatten(), at)
        return torch.where(keys.view(ids.shape) < chance * 2**32 - 2**31, -1, ids)

    at = torch.tensor([step])
    users, pins = batch.users, batch.pins
    if users.ids is not None:
        users = replace(users, ids=shown(users.ids, 0))
    if pins.ids is not None:
        pins = replace(pins, ids=shown(pins.ids, 1))
    if users.sequence is not None:
        seen = replace(users.sequence, pin=shown(users.sequence.pin, 1))
        users = replace(users, sequence=seen)
    return replace(batch, users=users, pins=pins)


def known_ids(inputs: Inputs, entity: str, former: UpstreamModel) -> Inputs:
    """A tower's inputs as former towers know them: to them id rows that came later are none."""

    def known(ids: Tensor, table: str) -> Tensor:
        rows = len(former.tables[table]) if table in former.tables else 0
        return torch.where(ids < rows, ids, -1)

    if inputs.ids is not None:
        inputs = replace(inputs, ids=known(inputs.ids, entity))
    if inputs.sequence is not None:
        seen = replace(inputs.sequence, pin=known(inputs.sequence.pin, "pin"))
        inputs = replace(inputs, sequence=seen)
    return inputs


def on(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    moved = {name: each.to(device) for name, each in vars(batch).items()}
    return Batch(**moved)


def _gradient(rows: Rows) -> Tensor:
    if rows.values.grad is None:
        raise ValueError("no gradient of id rows")
    return rows.values.grad


def _not_finite(at: Position, batch: Batch, loss: float, norm: float) -> TrainingError:
    first = ", ".join(map(str, batch.user_id[:3].tolist()))
    return TrainingError(
        f"epoch {at.epoch}, step {at.step}, batch {at.chunk} (users number {first}, ...)",
        found=f"a loss of {loss} and a gradient of norm {norm}",
        expected="finite numbers",
        remedy="Lower learning_rate, or look for features or vectors that are no finite numbers.",
    )
