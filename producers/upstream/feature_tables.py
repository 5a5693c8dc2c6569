"""Features as a person, or another kind of model, looks at them: coverage, and plain columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.producers.upstream.example_files import ExampleFile, integers
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.inputs import Bag, Gathered, Inputs
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_numbers import number_names

#: Examples that a description looks at, at most.
_SAMPLE = 20_000


class FeatureRow(NamedTuple):
    """One feature: whose, which, how it is made a tensor, and the share of rows that have it."""

    tower: str
    feature: str
    form: str
    coverage: float


def describe(fitted: Fitted, reader: FeatureReader) -> list[FeatureRow]:
    """Every feature with its coverage, over the examples or a sample of them."""
    sample = ExampleFile(reader.tower_set).sample(_SAMPLE, 0)
    user, pin, time = (integers(sample[name]) for name in ("user", "pin", "time"))
    features = reader.using(fitted)
    context = {name: sample[name] for name in sample.column_names}
    return [
        *_described("user", features, features.users(user, time)),
        *_described("pin", features, features.pins(pin, time)),
        *_described("cross", features, features.cross(user, pin, time, context)),
    ]


def _described(tower: str, features: TowerFeatures, inputs: Inputs) -> Iterator[FeatureRow]:
    reader = getattr(features.reader, tower)
    names = number_names(reader.numbers)
    for number in reader.numbers:
        present = 1.0
        if number.flagged:
            flag = inputs.numbers[:, names.index(f"{number.name}_missing")]
            present = _share(flag == 0)
        yield FeatureRow(tower, number.name, number.scale, present)
    for name, bag in inputs.categories.items():
        rows = getattr(features.layout, tower).categories[name]
        yield FeatureRow(
            tower, f"category_{name}", f"{rows:,} rows", _share(bag.offsets.diff() > 0)
        )
    for name, view in inputs.vectors.items():
        form = f"{view.table.shape[1]} floats"
        yield FeatureRow(tower, f"view_{name}", form, _share(view.index >= 0))
    if inputs.ids is not None:
        yield FeatureRow(tower, "id", "row of the id table", _share(inputs.ids >= 0))
    if inputs.sequence is not None:
        acted = inputs.sequence.present.any(dim=1)
        longest = features.layout.user.sequence
        form = f"last {longest.length}" if longest else ""
        yield FeatureRow(tower, "sequence", form, _share(acted))
        met = inputs.sequence.present
        for name, view in inputs.sequence.vectors.items():
            form = f"{view.table.shape[1]} floats"
            yield FeatureRow(tower, f"sequence_view_{name}", form, _share(view.index[met] >= 0))


def _share(present: Tensor) -> float:
    return float(present.double().mean()) if present.numel() else 0.0


def flat(
    features: TowerFeatures, users: Inputs, pins: Inputs, cross: Inputs, user: Tensor, pin: Tensor
) -> tuple[list[str], NDArray[np.float32]]:
    """What the towers see of B examples as one row an example, as a tree model takes it.

    Numbers as they are scaled, the first value of each category as its row in the vocabulary (NaN
    without one), vectors of views as they are, and the inner product of a user's and a pin's
    wherever their dims agree.

    Args:
        users, pins, cross, user, pin: as a Batch has them.

    Returns the names of the columns and float32 (B, columns).
    """
    reader = features.reader
    names: list[str] = []
    columns: list[Tensor] = []
    for tower, numbers, inputs, rows in (
        ("user", reader.user.numbers, users, user),
        ("pin", reader.pin.numbers, pins, pin),
        ("cross", reader.cross.numbers, cross, torch.arange(len(cross))),
    ):
        names += [f"{tower}_{name}" for name in number_names(numbers)]
        columns.append(inputs.numbers[rows])
        for name, bag in inputs.categories.items():
            names.append(f"{tower}_category_{name}")
            columns.append(_first(bag)[rows, None])
        for name, view in inputs.vectors.items():
            names += [f"{tower}_{name}_{place}" for place in range(view.table.shape[1])]
            columns.append(_dense(view)[rows])
    for left, user_view in users.vectors.items():
        for right, pin_view in pins.vectors.items():
            if user_view.table.shape[1] == pin_view.table.shape[1]:
                names.append(f"{left} x {right}")
                products = _dense(user_view)[user] * _dense(pin_view)[pin]
                columns.append(products.sum(dim=1, keepdim=True))
    return names, torch.cat(columns, dim=1).numpy()


def _first(bag: Bag) -> Tensor:
    """The first value of each bag, NaN of an empty one: float32 (M,)."""
    values = torch.cat([bag.values.float(), torch.tensor([torch.nan])])
    some = bag.offsets.diff() > 0
    return values[torch.where(some, bag.offsets[:-1], -1)]


def _dense(view: Gathered) -> Tensor:
    """Each row's vector, NaN where it has none: float32 (M, dim)."""
    missing = view.table.new_full((1, view.table.shape[1]), torch.nan)
    return torch.cat([view.table, missing])[view.index]
