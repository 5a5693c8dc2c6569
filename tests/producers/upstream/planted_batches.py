"""Batches to train towers on: a user clicks pins whose first number has the sign of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from provender.producers.chunks import generator_of
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.tower_training import train_towers
from provender.producers.upstream.upstream_model import UpstreamModel
from tests.producers.upstream.small_batches import SMALL, Draws, small_layout, small_tables


@dataclass(frozen=True)
class PlantedStream:
    """As many batches an epoch, the same ones in another order; in order by their number."""

    size: int = 8
    examples: int = 48
    users: int = 17
    pins: int = 19
    seed: int = 5

    def batch(self, number: int) -> Batch:
        """One of them."""
        draws = Draws(1000 * self.seed + number, {"user": 11, "pin": 13})
        drawn = draws.batch(small_layout(), self.examples, self.users, self.pins)
        same = drawn.users.numbers[drawn.user, 0] * drawn.pins.numbers[drawn.pin, 0] > 0
        labels = torch.stack([same, same & (drawn.labels[:, 1] > 0), ~same], 1)
        return replace(drawn, labels=(labels & drawn.known).float())

    def order(self, epoch: int) -> list[int]:
        """Their numbers, shuffled."""
        return torch.randperm(self.size, generator=generator_of(self.seed, epoch)).tolist()

    def count(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return self.size

    def batches(self, epoch: int, start: int = 0, *, in_order: bool = False) -> Iterator[Batch]:
        """Those from `start` on."""
        order = range(self.size) if in_order else self.order(epoch)
        return (self.batch(number) for number in order[start:])


def small_config(**training: Any) -> UpstreamConfig:
    """With SMALL sizes and these settings of training."""
    return UpstreamConfig.parse(
        {"model": SMALL, "training": {"epochs": 2, "checkpoint_minutes": 1e-9, **training}}
    )


def untrained(config: UpstreamConfig) -> UpstreamModel:
    """A model of that configuration."""
    return UpstreamModel.new(config, small_layout(), small_tables(), seed=1)


def tensors(model: UpstreamModel) -> dict[str, Tensor]:
    """All that is learned, copied."""
    held = dict(model.towers.state_dict())
    for entity, table in model.tables.items():
        held |= {f"{entity}/values": table.values, f"{entity}/squares": table.squares}
    return {name: each.clone() for name, each in held.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether they are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


#: Of few batches.
STREAM = PlantedStream(size=6)


def trained(
    folder: Path, config: UpstreamConfig, stream: PlantedStream = STREAM, **further: Any
) -> UpstreamModel:
    """A model that is trained on a stream, on the CPU."""
    model = untrained(config)
    return train_towers(
        model, stream, config, folder, **({"mark": "mark", "device": "cpu"} | further)
    )
