"""What the interaction tower sees beside user and pin: an example's context, what the two had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from provender.producers.upstream.declarations import (
    CategoryColumn,
    PairFeatures,
    ScalarColumn,
    TowerSources,
)
from provender.producers.upstream.event_index import pair_rows
from provender.producers.upstream.timed_rows import Ints, PairRows
from provender.producers.upstream.tower_numbers import EventNumbers, Number, event_numbers, kinds_of
from provender.producers.upstream.tower_reader import read_numbers
from provender.producers.upstream.tower_set import TowerSet

#: `number_<name>` and `category_<name>`, as examples.parquet has them.
Context = Mapping[str, pa.ChunkedArray]


@dataclass(frozen=True, eq=False)
class CrossReader:
    """What is known of an example beside its user and its pin.

    Attributes:
        context_numbers, context_categories: columns of the examples, by name.
        pairs, sources: of the events between a user and a pin, set by set of types.
    """

    context_numbers: Mapping[str, ScalarColumn]
    context_categories: Mapping[str, CategoryColumn]
    pairs: list[PairRows]
    sources: list[EventNumbers]

    @classmethod
    def open(cls, tower_set: TowerSet, declared: TowerSources, pair: PairFeatures) -> CrossReader:
        """The contexts of all sources, of which those of one name are one, and pairs' features."""
        contexts = [source.context for source in declared.sources.values()]
        found = pair_rows(tower_set, kinds_of(pair), tower_set.entities("pin").num_rows)
        return cls(
            dict(chain.from_iterable(context.numbers.items() for context in contexts)),
            dict(chain.from_iterable(context.categories.items() for context in contexts)),
            list(found.values()),
            event_numbers({kinds: each.rows for kinds, each in found.items()}, pair),
        )

    @property
    def numbers(self) -> list[Number]:
        """All numbers, in order."""
        return [
            *(Number(f"context_{name}", one.scale) for name, one in self.context_numbers.items()),
            *(number for source in self.sources for number in source.numbers),
        ]

    def read_numbers(
        self, users: Ints, pins: Ints, times: Ints, context: Context
    ) -> NDArray[np.float32]:
        """All numbers, NaN where missing: (N, B)."""
        given = [_floats(context[f"number_{name}"]) for name in self.context_numbers]
        met = [
            read_numbers([source], pairs.of(users, pins), times)
            for pairs, source in zip(self.pairs, self.sources, strict=True)
        ]
        rows = np.stack(given) if given else np.empty((0, len(times)), np.float32)
        return np.concatenate([rows, *met])


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(pc.fill_null(column.cast(pa.float32()), float("nan")).to_numpy(), np.float32)
