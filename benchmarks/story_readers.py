"""A reader of benchmarks/release_story.py: requests, each compared with the snapshots it is of.

It is a process of its own, as a ranker is. Every vector of every answer has to be, to the bit, the
newest one in the snapshots of the version that the answer names; else the answer counts as mixed.
Scores are not computed, so that more is read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from feast import FeatureStore

from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.ranker import Ranker, Scores, load_ranker
from provender.consumers.released_ranking import ReleasedRanking
from provender.plugin.errors import ProvenderError
from provender.plugin.home import Home
from provender.plugin.snapshot import find_snapshots

PINS = 5


class Truth:
    """What an entity's vector has to be in one view: the newest of all snapshots."""

    def __init__(self, snapshots: Path, view: str) -> None:
        self.vectors: dict[int, npt.NDArray[np.float32]] = {}
        for snapshot in find_snapshots(snapshots, view):
            keys, vectors = snapshot.read()
            self.vectors |= dict(zip(keys.to_pylist(), vectors, strict=True))

    def agrees(
        self,
        keys: Sequence[int],
        vectors: npt.NDArray[np.float32],
        present: npt.NDArray[np.bool_],
    ) -> bool:
        """Whether the vectors are those of the keys, and none is missing or too many."""
        return all(
            there == (key in self.vectors)
            and (not there or np.array_equal(vector, self.vectors[key]))
            for key, vector, there in zip(keys, vectors, present, strict=True)
        )


class Checker:
    """Compares batches with the snapshots of their version."""

    def __init__(self, snapshots: Path) -> None:
        self._snapshots = snapshots
        self._truths: dict[str, Truth] = {}
        self.user, self.pins = 0, [0]
        self.mixed = 0
        self.versions: dict[int, int] = {}

    def score(self, batch: RankerBatch) -> Scores:
        """Stand in a ranker's place: look at what it would see."""
        (version,) = batch.versions.values()
        self.versions[version] = self.versions.get(version, 0) + 1
        views = {view: view.endswith(f"_v{version}") for view in batch.vectors}
        right = all(views.values()) and all(self._agrees(view, batch) for view in views)
        self.mixed += not right
        nothing = torch.zeros(len(batch))
        return Scores(nothing, nothing)

    def _agrees(self, view: str, batch: RankerBatch) -> bool:
        if view not in self._truths:
            self._truths[view] = Truth(self._snapshots, view)
        vectors, present = batch.vectors[view].numpy(), batch.present[view].numpy()
        if view.startswith("pin"):
            # Pins of which the ranker reads the same come once.
            return self._truths[view].agrees(batch.keys["pin_id"].to_pylist(), vectors, present)
        # One row a candidate, all of the one user.
        alike = bool((vectors == vectors[0]).all() and (present == present[0]).all())
        return alike and self._truths[view].agrees([self.user], vectors[:1], present[:1])


def only_vectors(store: FeatureStore, ranker: Ranker) -> Ranker:
    """What reads the embeddings of a ranker's version and nothing else."""
    version = ranker.layout.embeddings[0].version
    layout = FeatureLayout.of_service(store, f"vectors_v{version}")
    return Ranker(ranker.config, layout, ranker.preprocessing)


def read(
    home: Path, rankers: list[Path], requests: int, seed: int, now: datetime
) -> dict[str, Any]:
    """Make the requests; returns what was counted."""
    place = Home(home)
    store = FeatureStore(str(place.repo))
    checker = Checker(place.snapshots)
    readers = [only_vectors(store, load_ranker(path)) for path in rankers]
    for reader in readers:
        reader.score = checker.score  # type: ignore[method-assign]
    ranking = ReleasedRanking(store, readers, seconds=0.05, now=now)
    users, pins = (
        find_snapshots(place.snapshots, f"{entity}_transra_v1")[-1].read()[0].to_numpy()
        for entity in ("user", "pin")
    )
    generator = np.random.default_rng(seed)
    failed, first_error, took = 0, "", []
    for _ in range(requests):
        checker.user = int(generator.choice(users))
        checker.pins = generator.choice(pins, PINS).tolist()
        started = time.perf_counter()
        try:
            ranking.rank(checker.user, checker.pins)
        except ProvenderError as error:
            failed += 1
            first_error = first_error or str(error)
        took.append(time.perf_counter() - started)
    return {
        "requests": requests,
        "mixed": checker.mixed,
        "failed": failed,
        "first_error": first_error,
        "versions": checker.versions,
        "milliseconds": 1000 * statistics.median(took),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rankers", type=Path, nargs="+", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--now", type=datetime.fromisoformat, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = read(given.home, given.rankers, given.requests, given.seed, given.now)
    given.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
