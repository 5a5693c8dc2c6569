"""Does a ranker that is not trained again keep its lift while the embeddings are refreshed daily?

    python benchmarks/refresh_lift.py --work DIR                      # the simulator
    python benchmarks/refresh_lift.py --work DIR --data path/to/data  # and RetailRocket

A ranker learns once, from some days of impressions joined with what each day's refresh knew. Then
the same ranker scores the impressions of the fourteen days that follow, each with the vectors of
that morning, which come about in several ways: all fork from the last refresh that the ranker has
seen. The lift is its AUC less that of a ranker without embeddings, trained on the same rows.

On simulated impressions the simulator's own click probabilities stand in the place of clicks, for
learning as for judging (the AUC that is expected over all clicks that might have been), so that no
luck of a day's clicks is in a small world's figures. What is trained is kept in DIR, and a second
call goes on. Writes benchmarks/results/refresh_lift.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from refresh_lift_chain import ARMS, Chain
from refresh_lift_tables import table
from refresh_lift_worlds import Served, retail_rocket, simulator

from provender.consumers.ranker import Ranker, RankerConfig
from provender.consumers.ranker_training import TrainingConfig, train_ranker
from provender.consumers.training_join import TrainingSet

RESULTS = Path(__file__).parent / "results"
DAYS = 14
#: On these days a ranker is also trained anew, and the space too.
SEEN_AGAIN = (1, 7, 14)


#: What a ranker looks at. Dot products and distances of users and pins are the same in a space that
#: has been turned; a projection of the vectors themselves is not.
KINDS = ("geometry", "coordinates")


@dataclass(frozen=True)
class Rankers:
    """By kind a ranker with embeddings for each seed; and those without."""

    with_: dict[str, list[Ranker]]
    without: list[Ranker]

    @classmethod
    def train(cls, rows: TrainingSet, seeds: int, query: str) -> Rankers:
        def trained(rows: TrainingSet, config: RankerConfig) -> list[Ranker]:
            how = TrainingConfig()
            return [train_ranker(rows, config, how, seed=seed).ranker for seed in range(seeds)]

        with_ = {
            "geometry": trained(rows, RankerConfig(query=query)),
            "coordinates": trained(strangers(rows), RankerConfig(query=query)),
        }
        return cls(with_, trained(rows, RankerConfig()))

    def lifts(self, served: Served) -> dict[str, float]:
        """The mean over the seeds, by kind."""
        without = _auc(served, self.without)
        return {kind: _auc(served, rankers) - without for kind, rankers in self.with_.items()}


def strangers(rows: TrainingSet) -> TrainingSet:
    """The same rows, each view in a space of its own: a ranker then compares no two vectors."""
    apart = tuple(
        spec.model_copy(update={"space": f"{spec.space}_{spec.entity}"})
        for spec in rows.layout.embeddings
    )
    return replace(rows, layout=rows.layout.model_copy(update={"embeddings": apart}))


def _auc(served: Served, rankers: list[Ranker]) -> float:
    return float(np.mean([served.auc(one.score(served.rows.rows).click) for one in rankers]))


def studied(chain: Chain, arms: Sequence[str], days: int, seeds: int) -> dict[str, Any]:
    """Lift, next-day recall and drift of every arm on every day, in one world."""
    world = chain.world
    learned = world.joined({day: chain.vectors("tether", day) for day in world.training_days})
    rankers = Rankers.train(learned.rows, seeds, world.query)
    told: dict[str, Any] = {"rows": len(learned.rows), "quality": {}, "cosine": {}}
    told |= {"lift": {kind: {arm: {} for arm in arms} for kind in KINDS}}
    for arm in arms:
        told["quality"][arm], told["cosine"][arm] = {}, {}
        for day in range(1, days + 1) if not arm.startswith("afresh") else SEEN_AGAIN:
            at = world.last_training_day + day
            lifts = rankers.lifts(world.joined({at: chain.vectors(arm, at)}))
            for kind, lift in lifts.items():
                told["lift"][kind][arm][day] = lift
            told["quality"][arm][day] = chain.quality(arm, at)
            told["cosine"][arm][day] = chain.cosine(arm, at)
            print(world.name, arm, day, lifts, told["cosine"][arm][day], flush=True)
    told["retrained"] = retrained(chain, days, seeds)
    return told


def retrained(chain: Chain, days: int, seeds: int) -> dict[str, dict[int, float]]:
    """By kind and day: the lift of rankers that have learned up to the day before, tethered."""
    world, span = chain.world, len(chain.world.training_days)
    found: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    for day in (each for each in SEEN_AGAIN if span < each <= days):
        at = world.last_training_day + day
        rows = world.joined({d: chain.vectors("tether", d) for d in range(at - span, at)})
        served = world.joined({at: chain.vectors("tether", at)})
        lifts = Rankers.train(rows.rows, seeds, world.query).lifts(served)
        print(world.name, "trained anew", day, lifts, flush=True)
        for kind, lift in lifts.items():
            found[kind][day] = lift
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the public data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--still", type=int, nargs="*", default=[1, 2], help="where nothing changes"
    )
    parser.add_argument("--rankers", type=int, default=2, help="rankers a world, averaged")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    worlds = [simulator(given.work, seed, given.users) for seed in given.seeds]
    worlds += [simulator(given.work, seed, given.users, still=True) for seed in given.still]
    worlds += [retail_rocket(given.work, given.data)] if given.data else []
    told = {
        world.name: studied(Chain(world), given.arms, given.days, given.rankers) for world in worlds
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "refresh_lift.json").write_text(json.dumps(told, indent=2) + "\n")
    (RESULTS / "refresh_lift.md").write_text(table(told))
    print(table(told))


if __name__ == "__main__":
    main()
