"""What the towers are given, as tensors: the contract between features, model and training.

Legend of shapes: M rows of a tower (distinct users or pins at distinct times), B examples of a
batch, T tasks, L actions of a sequence, N numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceLayout:
    """Of a sequence: event types, the most actions, and the dims of views of the pins met."""

    events: int
    length: int
    vectors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TowerLayout:
    """What one tower is given: what a model's parameters are made for.

    Attributes:
        numbers: how many (flags of what is missing among them).
        categories: name -> rows of its table, that of unknown values among them.
        vectors: view -> its dim.
        ids: whether there is a row of an id table.
        sequence: of actions, if there is one.
    """

    numbers: int = 0
    categories: Mapping[str, int] = field(default_factory=dict)
    vectors: Mapping[str, int] = field(default_factory=dict)
    ids: bool = False
    sequence: SequenceLayout | None = None


@dataclass(frozen=True)
class Layout:
    """What the three towers are given; `cross` is what the interaction tower sees beside them."""

    user: TowerLayout
    pin: TowerLayout
    cross: TowerLayout
    tasks: tuple[str, ...]
    liked: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bag:
    """Several values a row: `values` int64 (V,), those of row m from offsets[m] on; (M + 1,)."""

    values: Tensor
    offsets: Tensor

    def to(self, device: torch.device) -> Bag:
        """On a device."""
        return Bag(self.values.to(device), self.offsets.to(device))


@dataclass(frozen=True, eq=False)
class Gathered:
    """Vectors by row: `table` float32 (U, dim), `index` int64 (M,) or (M, L), -1 where missing."""

    table: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Gathered:
        """On a device."""
        return Gathered(self.table.to(device), self.index.to(device))


@dataclass(frozen=True, eq=False)
class Actions:
    """What users did last, the newest first, padded behind: (M, L) with L of the longest.

    Attributes:
        event: int64, index of the sequence's event types.
        age: float32, days before the row's time.
        pin: int64, row of the pins' id table, -1 for none.
        present: bool.
        vectors: view -> of the pins met, index (M, L).
    """

    event: Tensor
    age: Tensor
    pin: Tensor
    present: Tensor
    vectors: Mapping[str, Gathered] = field(default_factory=dict)

    def to(self, device: torch.device) -> Actions:
        """On a device."""
        moved = {name: each.to(device) for name, each in self.vectors.items()}
        return Actions(
            self.event.to(device),
            self.age.to(device),
            self.pin.to(device),
            self.present.to(device),
            moved,
        )


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of one tower.

    Attributes:
        numbers: float32 (M, N), scaled; of one that is missing 0, and a flag column says so.
        categories: name -> Bag of M rows.
        vectors: view -> Gathered of M rows.
        ids: int64 (M,), row of the entity's id table, -1 for none; None without a table.
        sequence: of the user tower, if declared.
    """

    numbers: Tensor
    categories: Mapping[str, Bag] = field(default_factory=dict)
    vectors: Mapping[str, Gathered] = field(default_factory=dict)
    ids: Tensor | None = None
    sequence: Actions | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device) -> Inputs:
        """On a device."""
        return Inputs(
            self.numbers.to(device),
            {name: each.to(device) for name, each in self.categories.items()},
            {name: each.to(device) for name, each in self.vectors.items()},
            None if self.ids is None else self.ids.to(device),
            None if self.sequence is None else self.sequence.to(device),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples: each distinct (user, time) and (pin, time) goes through its tower once.

    Attributes:
        users, pins: inputs of the towers, of Mu and Mp rows.
        cross: context and pair features of the B examples.
        user, pin: int64 (B,), rows of `users` and `pins`.
        user_id, pin_id: int64 (Mu,) and (Mp,), numbers in the tower set: who is who.
        labels: float32 (B, T), 0 where unknown; `known` bool (B, T).
        weight: float32 (B,).
        source: int64 (B,).
        log_q: float32 (Mp,), log of the share of all examples that have the pin.
    """

    users: Inputs
    pins: Inputs
    cross: Inputs
    user: Tensor
    pin: Tensor
    user_id: Tensor
    pin_id: Tensor
    labels: Tensor
    known: Tensor
    weight: Tensor
    source: Tensor
    log_q: Tensor

    def __len__(self) -> int:
        return len(self.labels)
