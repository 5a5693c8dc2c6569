"""LightGBM on what towers see, one model a task: the baseline of upstream_quality.py.

Columns are `feature_tables.flat`: scaled numbers, categories by code, no learned rows of ids and no
sequences, which trees have no way to take. At most 300 rounds of 63 leaves at a rate of 0.05: as
many as the last tenth of the learned rows by time asks for, and then so many on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.feature_tables import flat
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_set import TowerSet

ROUNDS, PATIENCE, HELD_OUT = 300, 30, 0.1
SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 63,
    "num_threads": 1,
    "deterministic": True,
    "verbosity": -1,
}
#: Examples that are made columns at once.
_BATCH = 8192


@dataclass(frozen=True, eq=False)
class Table:
    """Examples in order of time: names of c columns; values (n, c); labels, known (n, T)."""

    names: list[str]
    values: NDArray[np.float32]
    labels: NDArray[np.float32]
    known: NDArray[np.bool_]
    weight: NDArray[np.float32]


def table_of(rows: TowerSet, features: TowerFeatures) -> Table:
    """All examples of a tower set, each with what is known at its time."""
    stream = ExampleStream(rows, features.reader, features.fitted, _BATCH, seed=0)
    parts: list[tuple[Any, ...]] = []
    names: list[str] = []
    for batch in stream.batches(0, in_order=True):
        towers = (batch.users, batch.pins, batch.cross)
        names, values = flat(features, *towers, batch.user, batch.pin)
        parts.append((values, batch.labels.numpy(), batch.known.numpy(), batch.weight.numpy()))
    return Table(names, *map(np.concatenate, zip(*parts, strict=True)))


def boosted(learned: Table, later: Table, task: int, seed: int) -> tuple[NDArray[np.float64], int]:
    """Log-odds of one task for all later rows, and the rounds of the model that says so."""
    known = learned.known[:, task]
    values, labels = learned.values[known], learned.labels[known, task]
    weight = learned.weight[known]
    settings = {**SETTINGS, "seed": seed}
    own = [name for name in learned.names if "_category_" in name]

    def rows(part: slice) -> lightgbm.Dataset:
        return lightgbm.Dataset(
            values[part],
            labels[part],
            weight=weight[part],
            feature_name=learned.names,
            categorical_feature=own,
        )

    first = int(len(labels) * (1 - HELD_OUT))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    tried = lightgbm.train(
        settings, rows(slice(first)), ROUNDS, [rows(slice(first, None))], callbacks=[stop]
    )
    model = lightgbm.train(settings, rows(slice(None)), tried.best_iteration)
    found = model.predict(later.values, raw_score=True)
    return np.asarray(found, np.float64), int(tried.best_iteration)
