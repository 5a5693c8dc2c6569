"""What releases cost: a promotion with all its gates, the move alone, reading states, the guard.

    python benchmarks/release_costs.py --home /tmp/costs [--url postgresql+psycopg://... --url ...]

Two versions of users and pins, `--rows` of each, 64 floats a row, are written, loaded and released
on SQLite, and on each database that is named. Each figure is the median of several. The guard is
measured on fetches of 1 user and 500 pins, in turns: as a ranker fetches, and with what is to be
read settled before. Writes benchmarks/results/release_costs.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from feast import FeatureStore
from release_story import FAMILY
from story_home import StoryHome, say

from provender.consumers.features import FeatureLayout
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig
from provender.plugin.drift import drift
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.manifest import RunInfo
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.release_moves import promotion, rollback
from provender.plugin.releases import Releases
from provender.plugin.snapshot import write_snapshot

RESULTS = Path(__file__).parent / "results"
T = datetime(2026, 3, 14, tzinfo=UTC)
DIM, PINS, TIMES = 64, 500, 7
SECOND_VERSION = """

user_transra_v2 = embedding_view(
    name="user_transra", version=2, entity=user, dim=64, space="transra_v2", producer="transra",
    ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
pin_transra_v2 = embedding_view(
    name="pin_transra", version=2, entity=pin, dim=64, space="transra_v2", producer="transra",
    ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
"""


def made(home: Path, url: str | None, rows: int) -> StoryHome:
    """Both versions: declared, written, registered, loaded."""
    story = StoryHome(home, url)
    views = story.place.repo / "embedding_views.py"
    views.write_text(views.read_text() + SECOND_VERSION)
    story.feast("apply")
    generator = np.random.default_rng(7)
    keys = pa.array(range(rows), pa.int64())
    for spec in embedding_specs(story.store).values():
        run = RunInfo(f"run-{spec.version}", "transra", "c0", T, T, {"quality": 0.5})
        vectors = generator.standard_normal((rows, DIM), dtype=np.float32)
        write_snapshot(story.place.snapshots, spec, T, keys, vectors, run)
    names = list(embedding_specs(story.store))
    story.store.materialize(T - timedelta(days=1), T, names)
    return story


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def promotions(store: FeatureStore) -> dict[str, float]:
    """Seconds of the gates and of the move, each promotion undone by a rollback."""
    promotion(store, FAMILY, 1, now=T).make()
    gates, moves = [], []
    for _ in range(TIMES):
        started = time.perf_counter()
        move = promotion(store, FAMILY, 2, now=T)
        gates.append(time.perf_counter() - started)
        moves.append(seconds(move.make))
        rollback(store, FAMILY, now=T)
    return {"gates": statistics.median(gates), "move": statistics.median(moves)}


def states(store: FeatureStore, moves: int) -> float:
    """Seconds to read all states behind so many moves."""
    releases = Releases.of(store)
    state = releases.current(FAMILY)
    for _ in range(moves):
        state = releases.move(state, action="canary", candidate=2, share=0.5)
    releases.move(state, action="canary", candidate=None, share=0.0)
    return statistics.median(seconds(releases.states) for _ in range(TIMES))


def guard(store: FeatureStore, rows: int, fetches: int) -> dict[str, float]:
    """Seconds of a fetch with and without the guard, and of the guard alone."""
    layout = FeatureLayout.of_service(store, "ranker_transra")
    sample = OnlineFetcher(store, "ranker_transra", now=T).fetch(1, [1, 2, 3])
    ranker = Ranker(RankerConfig(), layout, Preprocessing.fit(layout, sample, []))
    fetcher = OnlineFetcher(store, "ranker_transra", ranker=ranker, now=T)
    settled = fetcher.assignment()
    generator = np.random.default_rng(7)
    took: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(2 * fetches):
        user, *pins = generator.integers(rows, size=1 + PINS).tolist()
        kind, given = ("with", None) if turn % 2 else ("without", settled)
        took[kind].append(
            seconds(lambda u=user, p=pins, g=given: fetcher.fetch(u, p, assignment=g))
        )
    several = 100_000
    alone = seconds(lambda: [fetcher.assignment() for _ in range(several)]) / several
    return {**{kind: statistics.median(each) for kind, each in took.items()}, "alone": alone}


def database_of(store: FeatureStore) -> str:
    """The name of the database, which of MariaDB is not that of its URL."""
    engine = ProvenderOnlineStore().database(store.config).engine
    with engine.connect():  # Which server it is, is asked when the first connection is made.
        dialect = engine.dialect
    return "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name


def drifted(rows: int) -> float:
    """Seconds to measure the drift of a view."""
    generator = np.random.default_rng(7)
    keys = pa.array(range(rows), pa.int64())
    former = generator.standard_normal((rows, DIM), dtype=np.float32)
    later = former + np.float32(0.1) * generator.standard_normal((rows, DIM), dtype=np.float32)
    return seconds(lambda: drift(keys, former, keys, later))


def table(told: dict[str, Any]) -> str:
    lines = [
        "| online store | all gates, ms | the move, ms | states behind "
        f"{told['moves']:,} moves, ms | fetch with the guard, ms | without, ms | guard alone, us |",
        "|---" * 7 + "|",
    ]
    for name, one in told["stores"].items():
        milli = [one["gates"], one["move"], one["states"], one["with"], one["without"]]
        cells = " | ".join(f"{1e3 * each:.2f}" for each in milli)
        lines.append(f"| {name} | {cells} | {1e6 * one['alone']:.2f} |")
    rows = told["drift"]["rows"]
    lines += [
        "",
        f"Versions of {told['rows']:,} users and as many pins x {DIM}; fetches of 1 user and "
        f"{PINS} pins. Measuring the drift of {rows:,} x {DIM} takes "
        f"{told['drift']['seconds']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a new folder")
    parser.add_argument("--url", action="append", default=[], help="of another online store")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--moves", type=int, default=3_000)
    parser.add_argument("--fetches", type=int, default=1_000)
    parser.add_argument("--drift-rows", type=int, default=1_000_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    stores = {}
    for number, url in enumerate([None, *given.url]):
        story = made(given.home / str(number), url, given.rows)
        name = database_of(story.store)
        cost = promotions(story.store)
        cost |= guard(story.store, given.rows, given.fetches)
        stores[name] = {**cost, "states": states(story.store, given.moves)}
        say(name, stores[name])
        story.feast("teardown")
    told = {
        "machine": f"{os.cpu_count()} cores",
        "rows": given.rows,
        "moves": given.moves,
        "stores": stores,
        "drift": {"rows": given.drift_rows, "seconds": drifted(given.drift_rows)},
    }
    (RESULTS / "release_costs.json").write_text(json.dumps(told, indent=2) + "\n")
    (RESULTS / "release_costs.md").write_text(table(told))
    say(table(told))


if __name__ == "__main__":
    main()
