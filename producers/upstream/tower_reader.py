"""What one tower is told of a user or a pin as of a time, before it is scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from provender.producers.upstream.declarations import EntityFeatures, UserFeatures
from provender.producers.upstream.event_index import event_log, pin_rows, user_rows
from provender.producers.upstream.recent_actions import RecentActions
from provender.producers.upstream.timed_rows import Ints
from provender.producers.upstream.tower_categories import CategoryValues
from provender.producers.upstream.tower_numbers import (
    DAY,
    Ages,
    Number,
    NumberColumn,
    NumberSource,
    event_numbers,
    kinds_of,
)
from provender.producers.upstream.tower_set import TowerSet

if TYPE_CHECKING:
    from provender.producers.upstream.view_vectors import ViewVectors

_FLOORS = {"instant": 1, "hour": DAY // 24, "day": DAY}


@dataclass(frozen=True, eq=False)
class TowerReader:
    """The declared features of users or of pins.

    Attributes:
        floor: features are those of times rounded down to so many microseconds.
        sources: of numbers.
        categories, views: by name.
        id_rows: int64 (n,), the row of each in the id table, -1 for none; None without a table.
        actions: of users, if declared.
    """

    floor: int
    sources: Sequence[NumberSource]
    categories: Mapping[str, CategoryValues] = field(default_factory=dict)
    views: Mapping[str, ViewVectors] = field(default_factory=dict)
    id_rows: Ints | None = None
    actions: RecentActions | None = None

    @property
    def numbers(self) -> list[Number]:
        """All numbers, in order."""
        return [number for source in self.sources for number in source.numbers]

    def floored(self, times: Ints) -> Ints:
        """The times as of which features are: of times in microseconds, the same shape."""
        return times - times % self.floor

    def read_numbers(self, ids: Ints, times: Ints) -> NDArray[np.float32]:
        """All numbers as of floored times, NaN where missing: (N, M)."""
        return read_numbers(self.sources, ids, times)


def read_numbers(sources: Sequence[NumberSource], rows: Ints, times: Ints) -> NDArray[np.float32]:
    """The numbers of all sources, one a row: float32 (N, M)."""
    read = [values for source in sources for values in source.read(rows, times)]
    return np.stack(read) if read else np.empty((0, len(rows)), np.float32)


def user_reader(
    tower_set: TowerSet,
    declared: UserFeatures,
    views: Mapping[str, ViewVectors],
    rows: Mapping[str, Ints],
) -> TowerReader:
    """The reader of users; `rows` gives rows in the id tables, `views` those of pins as well."""
    entities = tower_set.entities("user")
    count = entities.num_rows
    sources: list[NumberSource] = [
        *event_numbers(user_rows(tower_set, kinds_of(declared), count), declared),
        Ages.of(entities),
    ]
    actions = None
    if declared.sequence is not None:
        no_rows = np.full(tower_set.entities("pin").num_rows, -1, np.int64)
        actions = RecentActions(
            event_log(tower_set, declared.sequence.events, count),
            declared.sequence.length,
            np.append(rows.get("pin", no_rows), -1),
            {name: views[name] for name in declared.sequence.views},
        )
    return _reader(tower_set, "user", declared, sources, views, rows, actions)


def pin_reader(
    tower_set: TowerSet,
    declared: EntityFeatures,
    views: Mapping[str, ViewVectors],
    rows: Mapping[str, Ints],
) -> TowerReader:
    """The reader of pins."""
    entities = tower_set.entities("pin")
    events = pin_rows(tower_set, kinds_of(declared), entities.num_rows)
    sources: list[NumberSource] = [*event_numbers(events, declared), Ages.of(entities)]
    return _reader(tower_set, "pin", declared, sources, views, rows)


def _reader(
    tower_set: TowerSet,
    entity: str,
    declared: EntityFeatures,
    sources: Sequence[NumberSource],
    views: Mapping[str, ViewVectors],
    rows: Mapping[str, Ints],
    actions: RecentActions | None = None,
) -> TowerReader:
    count = tower_set.entities(entity).num_rows
    numbers = [
        NumberColumn.open(tower_set, entity, name, each, count)
        for name, each in declared.numbers.items()
    ]
    return TowerReader(
        _FLOORS[declared.as_of],
        [*sources, *numbers],
        {
            name: CategoryValues.open(tower_set, entity, name, each, count)
            for name, each in declared.categories.items()
        },
        {name: views[name] for name in declared.views},
        rows[entity] if declared.ids is not None else None,
        actions,
    )
