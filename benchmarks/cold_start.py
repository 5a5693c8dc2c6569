"""Who is new an hour ago: how many requests meet them, and what `provender cold` makes of them.

    python benchmarks/cold_start.py                # writes benchmarks/results/cold_start.json

A simulated world of 3,000 users and 3,000 pins, of which 3% more come a day, is refreshed as of
noon of its twelfth day. Then, hour after hour:

- the share of the hour's impressions whose user or pin has no vector, with the refresh alone and
  with a supplement as of the hour's beginning;
- at some hours, how well the links of the newcomers' next 24 hours are predicted by each way to
  place them: Recall@100 among the refresh's pins or items for new users, Hits@10 among the new pins
  for new pins. The bounds are popularity and a whole refresh as of that hour, which trains for
  minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.plugin.home import Home
from provender.plugin.repo import lay_out, views_in_repo
from provender.plugin.snapshot import find_snapshots
from provender.plugin.world import World
from provender.producers.cold import expected_rows, supplement
from provender.producers.content import read_content
from provender.producers.evaluation import Scorer, model_scorer, popularity, rank
from provender.producers.event_mapping import EventMapping
from provender.producers.events import read_window
from provender.producers.graph import TripleGraph
from provender.producers.inductive import Expected, fold_in, type_means
from provender.producers.job import Job
from provender.producers.parameters import Parameters
from provender.producers.parent_quality import load_run
from provender.producers.refresh import read_graph, refresh
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.trainer import train
from provender.producers.warm_start import Reference, align, first_entities, first_relations

RESULTS = Path(__file__).parent / "results"
BASE = datetime(2026, 3, 12, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLACED_AT = (12, 36)
#: Relations whose next links are predicted.
JUDGED = ("click", "save", "page_visit")


def quiet(stage: str, done: int, total: int, note: str) -> None:
    """An OnStage that shows nothing."""


def laid_out(home: Home) -> Job:
    """A home with a simulated world and the job of its views."""
    config = {"users": 3_000, "pins": 3_000, "days": 14, "user_growth": 0.03, "pin_growth": 0.03}
    simulate(SimulatorConfig.parse(config), home.simulation)
    lay_out(home.repo)
    home.world.write_bytes((home.repo / "worlds" / "simulator.yaml").read_bytes())
    return Job.declare(World.load(home.world), home.data, home, views_in_repo(home.repo), "cpu")


def timed(action: Any, *given: Any, **named: Any) -> tuple[Any, float]:
    """What an action returns, and its processor seconds: other work on the machine counts less."""
    started = time.process_time()
    return action(*given, **named), time.process_time() - started


def hourly(job: Job, hours: int) -> list[dict[str, Any]]:
    """By hour: impressions, and the share of those without both vectors, before and after."""
    told = []
    for hour in range(1, hours + 1):
        start = BASE + hour * HOUR
        done, seconds = timed(supplement, job, start, quiet)
        without, with_it = (lacking(job, start, supplements=each) for each in (False, True))
        placed = {name: view.rows for name, view in done.views.items()}
        told.append({"hour": hour, "without": without, "with": with_it, "placed": placed,
                     "cpu_seconds": seconds})  # fmt: skip
        print(json.dumps(told[-1]), flush=True)
    return told


def lacking(job: Job, start: datetime, *, supplements: bool) -> dict[str, int]:
    """Of the impressions of the hour from `start`: how many lack the user's or the pin's vector."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for spec in job.specs:
            found = find_snapshots(job.home.snapshots, spec.view_name, supplements=supplements)
            known = [each.keys() for each in found if each.manifest.as_of <= start]
            connection.register(spec.entity, pa.table({"key": pa.concat_arrays(known)}))
        query = (
            "SELECT count(*), count(*) FILTER (user_id NOT IN (SELECT key FROM user)), "
            "count(*) FILTER (pin_id NOT IN (SELECT key FROM pin)), count(*) FILTER ("
            "user_id NOT IN (SELECT key FROM user) OR pin_id NOT IN (SELECT key FROM pin)) "
            f"FROM '{job.data}/impressions/*.parquet' WHERE event_timestamp >= ? "
            "AND event_timestamp < ?"
        )
        query = query.replace("FROM user", 'FROM "user"')
        row = connection.execute(query, [start, start + HOUR]).fetchall()[0]
    return dict(zip(("impressions", "user", "pin", "either"), row, strict=True))


def placements(job: Job, hour: int, work: Path) -> dict[str, Any]:
    """How well each way to place them predicts the newcomers' links, as of some hours later."""
    as_of = BASE + hour * HOUR
    events, graph = read_graph(job, as_of, work, quiet)
    base = find_snapshots(job.home.snapshots, job.specs[0].view_name)[0].manifest
    parent = load_run(job, base.run_id)
    reference = align(graph, base.dim, parent)
    known, relation = reference.known, first_relations(graph, job.config.model, base.dim, parent)
    refreshed = Parameters(job.config.model, reference.vectors, relation)
    mapping = EventMapping.from_world(job.world)
    window = read_window(mapping, job.data, events, as_of + 24 * HOUR, work)
    rows: dict[str, Any] = {}
    for name, place in WAYS.items():
        placed, seconds = timed(place, Seen(job, refreshed, graph, known, as_of, work))
        moved = Parameters(refreshed.model, placed, relation)
        rows[name] = judged(moved, graph, window, known) | {"cpu_seconds": seconds}
    whole, seconds = timed(train, graph, job.config, device="cpu", parent=parent)
    rows["refreshed"] = judged(whole, graph, window, known) | {"cpu_seconds": seconds}
    rows["popularity"] = judged(None, graph, window, known)
    unseen = {each: int((~known[graph.span(each)]).sum()) for each in graph.counts}
    print(json.dumps({"hour": hour, "unseen": unseen, "ways": rows}), flush=True)
    return {"hour": hour, "unseen": unseen, "ways": rows}


@dataclass(frozen=True)
class Seen:
    """What a way to place newcomers is given: the refresh's parameters and all links by now."""

    job: Job
    parameters: Parameters
    graph: TripleGraph
    known: Tensor
    as_of: datetime
    work: Path

    def placed(self, expected: Expected) -> Tensor:
        config = self.job.config
        return fold_in(
            self.parameters, self.graph, self.known, expected,
            scale=config.score_scale, weights=config.relation_weight,
        )  # fmt: skip

    def means(self) -> Expected:
        return type_means(self.parameters.entity, self.known, self.graph)

    def told(self) -> Expected:
        content = read_content(self.job.world, self.job.data, self.as_of, self.work)
        return expected_rows(self.graph, self.parameters.entity, self.known, content)

    def at(self, expected: Expected) -> Tensor:
        return torch.where(self.known.unsqueeze(1), self.parameters.entity, expected.rows)

    def neighbours(self) -> Tensor:
        reference = Reference(self.parameters.entity, self.known)
        draw = torch.Generator().manual_seed(0)
        return first_entities(self.graph, reference, self.job.config.init_norm, draw)


#: What places newcomers, from the least to the most.
WAYS: dict[str, Callable[[Seen], Tensor]] = {
    "mean of the type": lambda seen: seen.at(seen.means()),
    "mean of neighbours": Seen.neighbours,
    "content alone": lambda seen: seen.at(seen.told()),
    "links alone": lambda seen: seen.placed(seen.means()),
    "provender cold": lambda seen: seen.placed(seen.told()),
}


def judged(
    parameters: Parameters | None, graph: TripleGraph, window: pa.Table, known: Tensor
) -> dict[str, Any]:
    """By relation, for new users and new pins: pairs and the figure; and for all known users."""
    columns = (window.column(name).to_numpy() for name in ("relation", "head", "tail"))
    relation, head, tail = (np.asarray(each, dtype=np.int64) for each in columns)
    figures: dict[str, Any] = {}
    for name in JUDGED:
        index = graph.index_of(name)
        one, here = graph.relations[index], relation == index
        pairs = np.unique(np.stack([head[here], tail[here]]), axis=1)
        old_head = known[graph.span(one.head)].numpy()[pairs[0]]
        old_tails = known[graph.span(one.tail)]
        old_tail = old_tails.numpy()[pairs[1]]
        scores = scores_of(parameters, graph, index)
        cases = {
            "new users, Recall@100": (pairs[:, ~old_head & old_tail], ~old_tails),
            "new pins, Hits@10": (pairs[:, old_head & ~old_tail], old_tails),
            "known users, Recall@100": (pairs[:, old_head], torch.zeros_like(old_tails)),
        }
        for case, (asked, aside) in cases.items():
            if one.tail != "pin" and case == "new pins, Hits@10":
                continue
            scorer = without(scores, aside)
            figures[f"{name}: {case}"] = figure(scorer, asked, graph.counts[one.tail])
    return figures


def scores_of(parameters: Parameters | None, graph: TripleGraph, relation: int) -> Scorer:
    """A model's scores; without one, popularity's."""
    if parameters is not None:
        return model_scorer(parameters, graph, relation)
    counts = popularity(graph, relation)
    return lambda rows: counts.expand(len(rows), -1)


def without(scorer: Scorer, aside: Tensor) -> Scorer:
    """The scores, with some candidates set aside."""
    return lambda rows: scorer(rows).masked_fill(aside, -torch.inf)


def figure(scorer: Scorer, pairs: Any, candidates: int) -> dict[str, Any]:
    """Recall@100 and Hits@10 of the pairs, and how many there are."""
    heads, starts = np.unique(pairs[0], return_index=True)
    truth = list(zip(heads.tolist(), np.split(pairs[1], starts[1:]), strict=True))
    found = rank(scorer, truth, candidates, hits=(10,), recalls=(100,))
    return {"pairs": pairs.shape[1], "recall@100": found.recall[100], "hits@10": found.hits[10]}


def main() -> None:
    """Measure everything; a table of it is printed, and written as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=int, default=24)
    hours = parser.parse_args().hours
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job = laid_out(Home(Path(folder) / "home"))
        _, seconds = timed(refresh, job, BASE, quiet)
        report: dict[str, Any] = {"refresh_cpu_seconds": seconds, "hours": hourly(job, hours)}
        report["placed"] = [placements(job, hour, Path(folder) / "work") for hour in PLACED_AT]
    (RESULTS / "cold_start.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
