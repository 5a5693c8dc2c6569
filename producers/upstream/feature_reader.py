"""From a tower set to what the towers are given: features as of a time, scaled, as tensors.

    reader = FeatureReader.open(tower_set, declared, views, rows)
    fitted = reader.fit(seed)                   # at the first training; else Fitted.load(folder)
    features = reader.using(fitted)
    features.users(ids, times), features.layout

The same functions serve training, where every row has a time of its own, and the embedding of all
users at one time. A feature sees only what lies strictly before its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from provender.producers.upstream.cross_reader import CrossReader
from provender.producers.upstream.declarations import FeatureDeclarations, TowerSources
from provender.producers.upstream.example_files import ExampleFile, integers
from provender.producers.upstream.preprocessing import Fitted, TowerTransforms
from provender.producers.upstream.scales import Scale, fit_scale
from provender.producers.upstream.timed_rows import Ints
from provender.producers.upstream.tower_categories import encoded
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_numbers import Number
from provender.producers.upstream.tower_reader import TowerReader, pin_reader, user_reader
from provender.producers.upstream.tower_set import ALWAYS, TowerSet
from provender.producers.upstream.vocabularies import fit_vocabulary

if TYPE_CHECKING:
    from provender.producers.upstream.view_vectors import ViewVectors

#: Examples that scales and vocabularies are fitted on, at most.
SAMPLE = 200_000


@dataclass(frozen=True, eq=False)
class FeatureReader:
    """All declared features over one tower set, not yet scaled.

    Id rows that were made from events before a time, `ids_from` (microseconds), are not told to
    rows before it, whose labels they know.
    """

    tower_set: TowerSet
    declared: TowerSources
    user: TowerReader
    pin: TowerReader
    cross: CrossReader
    ids_from: int = ALWAYS

    @classmethod
    def open(
        cls,
        tower_set: TowerSet,
        declared: TowerSources,
        views: Mapping[str, ViewVectors],
        rows: Mapping[str, Ints],
        ids_from: int = ALWAYS,
    ) -> FeatureReader:
        """Sort the events as they are looked up; what is large lies in the set's folder, unnamed.

        Args:
            declared: with its features filled in.
            views: of all views that are declared (`declared_views`).
            rows: `user` and `pin` -> int64, the row of each entity number in the id table, -1 for
                none; of those that have an id table, or are met in a sequence.

        Raises MappingError for an event that the tower set does not have.
        """
        features = declared.features
        if features is None:
            raise ValueError("declared sources whose features are not filled in")
        return cls(
            tower_set,
            declared,
            user_reader(tower_set, features.user, views, rows),
            pin_reader(tower_set, features.pin, views, rows),
            CrossReader.open(tower_set, declared, features.pair),
            ids_from,
        )

    def using(self, fitted: Fitted) -> TowerFeatures:
        """The features, scaled."""
        return TowerFeatures(self, fitted)

    def fit(self, seed: int) -> Fitted:
        """Scales and vocabularies, fitted on SAMPLE examples or all: a function of the seed."""
        sample = ExampleFile(self.tower_set).sample(SAMPLE, seed)
        users, pins, times = (integers(sample[name]) for name in ("user", "pin", "time"))
        columns = {name: sample[name] for name in sample.column_names}
        cross = self.cross.read_numbers(users, pins, times, columns)
        return Fitted(
            user=_fit_tower(self.user, users, times),
            pin=_fit_tower(self.pin, pins, times),
            cross=TowerTransforms(
                numbers=_fit_numbers(self.cross.numbers, cross),
                categories={
                    name: fit_vocabulary(column, [_texts(sample[f"category_{name}"])])
                    for name, column in self.cross.context_categories.items()
                },
            ),
        )


def declared_views(features: FeatureDeclarations) -> dict[str, str]:
    """The views that features are read from: name -> whose it has to be, `user` or `pin`."""
    met = features.user.sequence.views if features.user.sequence is not None else ()
    return {
        **dict.fromkeys(features.user.views, "user"),
        **dict.fromkeys((*features.pin.views, *met), "pin"),
    }


def _fit_tower(tower: TowerReader, ids: Ints, times: Ints) -> TowerTransforms:
    times = tower.floored(times)
    return TowerTransforms(
        numbers=_fit_numbers(tower.numbers, tower.read_numbers(ids, times)),
        categories={
            name: fit_vocabulary(
                values.declared, [values.texts.take(pa.array(values.read(ids, times)[0]))]
            )
            for name, values in tower.categories.items()
        },
    )


def _fit_numbers(numbers: Sequence[Number], read: NDArray[np.float32]) -> dict[str, Scale]:
    return {
        number.name: fit_scale(number.scale, values)
        for number, values in zip(numbers, read, strict=True)
    }


def _texts(lists: pa.ChunkedArray) -> pa.Array:
    texts, codes, _ = encoded(lists)
    return texts.take(pa.array(codes))
