"""Layouts, id tables and random batches of any size for the towers."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor

from provender.plugin.id_table import IdTable
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.inputs import (
    Actions,
    Bag,
    Batch,
    Gathered,
    Inputs,
    Layout,
    SequenceLayout,
    TowerLayout,
)
from provender.producers.upstream.upstream_model import UpstreamModel

SMALL = {
    "dim": 8,
    "width": 8,
    "heads": 2,
    "hidden": 12,
    "rank": 4,
    "sequence_tokens": 2,
    "user": {"tokens": 3},
    "pin": {"tokens": 3},
    "interaction": {"tokens": 3, "modules": ["cross", "masknet"]},
}


def small_layout() -> Layout:
    """One with something of everything; a category is called as torch's modules call a method."""
    return Layout(
        TowerLayout(9, {"type": 5}, {"mood": 6}, True, SequenceLayout(3, 7, {"look": 4})),
        TowerLayout(3, {"board": 4}, {"look": 4}, True),
        TowerLayout(2, {"surface": 3}),
        ("click", "save", "hide"),
        ("click", "save"),
    )


def small_tables(users: int = 11, pins: int = 13) -> dict[str, IdTable]:
    """Of users 100, 101, ... and pins p0, p1, ..."""
    keys = {"user": pa.array(range(100, 100 + users)), "pin": pa.array(map(str, range(pins)))}
    dims = {"user": 5, "pin": 7}
    return {
        name: IdTable.exact(key.type, dims[name]).grown(key, None, 3) for name, key in keys.items()
    }


def small_model(layout: Layout | None = None, seed: int = 1, **changes: object) -> UpstreamModel:
    """An untrained one of SMALL sizes, with `changes` to its section `model`."""
    config = UpstreamConfig.parse({"model": {**SMALL, **changes}})
    return UpstreamModel.new(config, layout or small_layout(), small_tables(), seed)


class Draws:
    """Random inputs of a layout, by a seed; about a fifth of what can be missing is."""

    def __init__(self, seed: int, rows: Mapping[str, int]) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rows = rows

    def inputs(self, layout: TowerLayout, count: int, entity: str = "") -> Inputs:
        """Of `count` rows."""
        return Inputs(
            self.numbers(count, layout.numbers),
            {name: self.bag(rows, count) for name, rows in layout.categories.items()},
            {name: self.gathered(dim, count) for name, dim in layout.vectors.items()},
            self.index(self.rows[entity], count) if layout.ids else None,
            self.actions(layout.sequence, count) if layout.sequence else None,
        )

    def batch(self, layout: Layout, examples: int, users: int, pins: int) -> Batch:
        """Of `examples`, whose users and pins are half as many as rows of towers."""
        tasks = len(layout.tasks)
        labels, known = self.chance(0.3, examples, tasks), self.chance(0.8, examples, tasks)
        return Batch(
            self.inputs(layout.user, users, "user"),
            self.inputs(layout.pin, pins, "pin"),
            self.inputs(layout.cross, examples),
            self.below(users, examples),
            self.below(pins, examples),
            self.below(users // 2 + 1, users),
            self.below(pins // 2 + 1, pins),
            (labels & known).float(),
            known,
            torch.rand(examples, generator=self.generator) + 0.5,
            self.below(2, examples),
            torch.rand(pins, generator=self.generator).mul(0.1).add(1e-3).log(),
        )

    def numbers(self, *shape: int) -> Tensor:
        """Normal ones."""
        return torch.randn(*shape, generator=self.generator)

    def below(self, limit: int, *shape: int) -> Tensor:
        """Integers from 0."""
        return torch.randint(limit, shape, generator=self.generator)

    def chance(self, share: float, *shape: int) -> Tensor:
        """True so often."""
        return torch.rand(*shape, generator=self.generator) < share

    def index(self, limit: int, *shape: int) -> Tensor:
        """Integers from 0, or -1."""
        return torch.where(self.chance(0.2, *shape), -1, self.below(limit, *shape))

    def bag(self, rows: int, count: int) -> Bag:
        """Of up to three values a row."""
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), self.below(4, count).cumsum(0)])
        return Bag(self.below(rows, int(offsets[-1])), offsets)

    def gathered(self, dim: int, *shape: int) -> Gathered:
        """From a table of six rows."""
        return Gathered(self.numbers(6, dim), self.index(6, *shape))

    def actions(self, layout: SequenceLayout, count: int) -> Actions:
        """Of any length, of which a fifth has none."""
        lengths = self.index(layout.length + 1, count).clamp(min=0)
        shape = (count, layout.length)
        return Actions(
            self.below(layout.events, *shape),
            self.numbers(*shape).exp(),
            self.index(self.rows["pin"], *shape),
            torch.arange(layout.length) < lengths.unsqueeze(1),
            {name: self.gathered(dim, *shape) for name, dim in layout.vectors.items()},
        )


def small_batch(model: UpstreamModel, seed: int = 2, examples: int = 24) -> Batch:
    """Of 9 rows of users and 10 of pins."""
    draws = Draws(seed, {name: len(table) for name, table in model.tables.items()})
    return draws.batch(model.layout, examples, 9, 10)
