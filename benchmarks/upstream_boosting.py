"""LightGBM on what towers see, one model a task: the baseline of upstream_quality.py.

Columns are `feature_tables.flat`: scaled numbers, categories by code, no learned rows of ids and no
sequences, which trees have no way to take. At most 300 rounds at a rate of 0.05. Leaves and rows of
a leaf are those with the least log loss on the last tenth of the learned rows by time, as 63 leaves
overfit where positives are few; that tenth ends the rounds, too, and then so many are made of all.
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
    "num_threads": 1,
    "deterministic": True,
    "verbosity": -1,
}
#: What is tried: leaves of a tree, and rows of a leaf at least.
TRIED = ((63, 20), (63, 100), (15, 20), (15, 100))
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


def boosted(
    learned: Table, later: Table, task: int, seed: int
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Log-odds of one task for all later rows, and the shape of the model that says so."""
    known = learned.known[:, task]
    values, labels = learned.values[known], learned.labels[known, task]
    weight = learned.weight[known]
    own = [name for name in learned.names if "_category_" in name]

    def rows(part: slice) -> lightgbm.Dataset:
        return lightgbm.Dataset(
            values[part],
            labels[part],
            weight=weight[part],
            feature_name=learned.names,
            categorical_feature=own,
        )

    def trained(
        shape: tuple[int, int], part: slice, rounds: int, **others: Any
    ) -> lightgbm.Booster:
        leaves, least = shape
        settings = {**SETTINGS, "seed": seed, "num_leaves": leaves, "min_data_in_leaf": least}
        return lightgbm.train(settings, rows(part), rounds, **others)

    first = int(len(labels) * (1 - HELD_OUT))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    tried = {
        shape: trained(
            shape, slice(first), ROUNDS, valid_sets=[rows(slice(first, None))], callbacks=[stop]
        )
        for shape in TRIED
    }
    losses = {shape: one.best_score["valid_0"]["binary_logloss"] for shape, one in tried.items()}
    best = min(losses, key=lambda shape: losses[shape])
    rounds = int(tried[best].best_iteration)
    found = trained(best, slice(None), rounds).predict(later.values, raw_score=True)
    shape = {"leaves": best[0], "rows of a leaf": best[1], "rounds": rounds}
    return np.asarray(found, np.float64), shape
