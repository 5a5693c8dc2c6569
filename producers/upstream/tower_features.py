"""Features as the towers are given them: scaled, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.producers.upstream.cross_reader import Context
from provender.producers.upstream.inputs import Actions, Inputs, Layout, SequenceLayout, TowerLayout
from provender.producers.upstream.preprocessing import Fitted, TowerTransforms
from provender.producers.upstream.recent_actions import RecentActions, gathered
from provender.producers.upstream.timed_rows import Ints
from provender.producers.upstream.tower_categories import bag, encoded
from provender.producers.upstream.tower_numbers import Number, number_names
from provender.producers.upstream.tower_reader import TowerReader

if TYPE_CHECKING:
    from provender.producers.upstream.feature_reader import FeatureReader


class TowerFeatures:
    """Features as the towers are given them."""

    def __init__(self, reader: FeatureReader, fitted: Fitted) -> None:
        self.reader, self.fitted = reader, fitted
        # The table row of each of a column's texts, looked up once.
        self._category_rows = {
            (entity, name): transforms.categories[name].rows(values.texts)
            for entity, tower, transforms in (
                ("user", reader.user, fitted.user),
                ("pin", reader.pin, fitted.pin),
            )
            for name, values in tower.categories.items()
        }

    @property
    def layout(self) -> Layout:
        """What a model's parameters are made for."""
        cross, fitted = self.reader.cross, self.fitted.cross
        return Layout(
            _layout(self.reader.user, self.fitted.user),
            _layout(self.reader.pin, self.fitted.pin),
            TowerLayout(len(number_names(cross.numbers)), _sizes(fitted)),
            self.reader.tower_set.tasks,
            self.reader.declared.liked,
        )

    def users(self, ids: Ints, times: Ints) -> Inputs:
        """Inputs of M users (numbers in the tower set) as of times (microseconds), int64 (M,)."""
        return self._entity("user", self.reader.user, self.fitted.user, ids, times)

    def pins(self, ids: Ints, times: Ints) -> Inputs:
        """The same of pins."""
        return self._entity("pin", self.reader.pin, self.fitted.pin, ids, times)

    def cross(self, users: Ints, pins: Ints, times: Ints, context: Context) -> Inputs:
        """What the interaction tower sees beside them, of B examples.

        Args:
            users, pins, times: int64 (B,).
            context: `number_<name>` and `category_<name>` as examples.parquet has them.
        """
        cross, fitted = self.reader.cross, self.fitted.cross
        numbers = cross.read_numbers(users, pins, times, context)
        categories = {}
        for name in cross.context_categories:
            texts, codes, offsets = encoded(context[f"category_{name}"])
            categories[name] = bag(codes, offsets, fitted.categories[name].rows(texts))
        return Inputs(_scaled(cross.numbers, fitted, numbers), categories)

    def _entity(
        self, entity: str, tower: TowerReader, fitted: TowerTransforms, ids: Ints, times: Ints
    ) -> Inputs:
        times = tower.floored(times)
        return Inputs(
            _scaled(tower.numbers, fitted, tower.read_numbers(ids, times)),
            {
                name: bag(*values.read(ids, times), self._category_rows[entity, name])
                for name, values in tower.categories.items()
            },
            {
                name: gathered(view.vectors, view.at(ids, times))
                for name, view in tower.views.items()
            },
            None if tower.id_rows is None else self._told(tower.id_rows[ids], times),
            None if tower.actions is None else self._actions(tower.actions, ids, times),
        )

    def _actions(self, actions: RecentActions, ids: Ints, times: Ints) -> Actions:
        found = actions.read(ids, times)
        return replace(found, pin=self._told(found.pin.numpy(), times[:, None]))

    def _told(self, rows: Ints, times: Ints) -> Tensor:
        """Id rows as far as they may be known at times."""
        return torch.from_numpy(np.where(times >= self.reader.ids_from, rows, -1))


def _layout(tower: TowerReader, fitted: TowerTransforms) -> TowerLayout:
    sequence = None
    if tower.actions is not None:
        met = {name: view.dim for name, view in tower.actions.views.items()}
        sequence = SequenceLayout(tower.actions.log.kinds, tower.actions.length, met)
    return TowerLayout(
        len(number_names(tower.numbers)),
        _sizes(fitted),
        {name: view.dim for name, view in tower.views.items()},
        tower.id_rows is not None,
        sequence,
    )


def _sizes(fitted: TowerTransforms) -> dict[str, int]:
    return {name: vocabulary.size for name, vocabulary in fitted.categories.items()}


def _scaled(
    numbers: Sequence[Number], fitted: TowerTransforms, read: NDArray[np.float32]
) -> Tensor:
    """Numbers (N, M) as they were read, as (M, columns) in the order of `number_names`."""
    columns = np.empty((len(number_names(numbers)), read.shape[1]), np.float32)
    for place, (number, values) in enumerate(zip(numbers, read, strict=True)):
        columns[place] = fitted.numbers[number.name].apply(values)
    flagged = [place for place, number in enumerate(numbers) if number.flagged]
    columns[len(numbers) :] = ~np.isfinite(read[flagged])
    return torch.from_numpy(np.ascontiguousarray(columns.T))
