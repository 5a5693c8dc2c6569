"""Processor time to the same filtered MRR on a planted graph, beside the peers, each tuned alike.

    python benchmarks/kg_race.py --peer-python pykeen=/tmp/peers/pykeen/bin/python \\
        --peer-python biggraph=/tmp/peers/biggraph/bin/python [--budget 120 --budget pykeen=600]

A hidden TransR draws 200k triples of 20k entities and 8 relations (planted_graph.py). Each racer
tries every setting of its grid on the validation split, with other seeds than the race's; its best
one races on the test split. The clock (peers/track.py) stands still for the judge, who is the
same for all (peers/filtered_mrr.py). How long a peer takes to its own best MRR, and to 95 % and
80 % of it, is compared with how long ours takes to that MRR. `--tuned` takes the settings of the
former results and tunes no more. Writes benchmarks/results/kg_race.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kg_tables import race_tables
from peer_process import SETTINGS, Peer, Told, chosen, peer_options
from planted_graph import planted

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from filtered_mrr import Sides, filtered_mrr

RESULTS = Path(__file__).parent / "results"
DIM = 64
#: Parts of a racer's own best MRR, to which times are compared.
SHARES = (1.0, 0.95, 0.8)
ASKED = 2_000


@dataclass(frozen=True)
class Racer:
    """A peer, the settings it may choose from, and the share of its time that ours may take."""

    peer: Peer
    grid: tuple[Told, ...]
    most: float | None = None

    @property
    def label(self) -> str:
        return self.peer.label


def grid(**choices: Sequence[object]) -> tuple[Told, ...]:
    """Every combination of the choices."""
    return tuple(
        dict(zip(choices, one, strict=True)) for one in itertools.product(*choices.values())
    )


OURS = Racer(
    Peer("provender TransR", "provender", "provender_transr", {"dim": DIM}),
    tuple(
        {"batch": batch, "negatives": 256, "settings": settings | {"shrinkage": shrinkage}}
        for batch in (256, 1024)
        for shrinkage in (0.0, 0.5)
        for settings in grid(
            learning_rate=(0.05, 0.1), score_scale=(8.0,), deviation_shrinkage=(0.0,)
        )
    ),
)
RACERS = (
    OURS,
    Racer(
        Peer("PyKEEN TransR", "pykeen", "pykeen_transr", {"dim": DIM, "batch": 1024}),
        grid(rate=(0.001, 0.01), sampler=("basic", "pseudotyped"), negatives=(8,)),
        most=1 / 20,
    ),
    Racer(
        Peer("BigGraph affine", "biggraph", "biggraph_affine", {"dim": DIM, "batch": 1024}),
        tuple(
            rates
            | {"batch_negatives": 128, "uniform_negatives": 128, "comparator": comparator}
            | ({"init_scale": 0.05} if comparator == "squared_l2" else {})
            for comparator in ("dot", "squared_l2")
            for rates in grid(rate=(0.03, 0.1, 0.3), relation_rate=(0.003, 0.03))
        ),
        most=1 / 2,
    ),
)


def stops(budget: float) -> list[float]:
    """CPU seconds at which a run is judged: ten a decade, from a hundredth of the budget on."""
    return [float(second) for second in np.geomspace(budget / 100, budget, 21)]


def tune(racer: Racer, job: Told, options: argparse.Namespace) -> Told:
    """Every setting of the grid for a third of the budget, by the validation split."""
    tried = []
    seconds = budget(racer, options) / 3
    for settings in racer.grid:
        run = racer.peer.run(options, job | settings | {"stops": stops(seconds), "seed": 101})
        tried.append({"settings": settings, "mrr": best(run), **_wrong(run)})
        print(racer.label, tried[-1], flush=True)
        if "skipped" in run:
            break
    return {"tried": tried, "settings": max(tried, key=lambda one: one["mrr"])["settings"]}


def race(racers: list[Racer], tuned: Told, job: Told, options: argparse.Namespace) -> Told:
    """Each racer's runs on the test split, with seeds of their own, in turns."""
    runs: Told = {racer.label: [] for racer in racers}
    for seed in range(options.runs):
        for racer in racers:
            settings = tuned[racer.label]["settings"] | {"split": "test", "seed": seed}
            settings |= {"stops": stops(budget(racer, options)), "patience": 5}
            runs[racer.label].append(racer.peer.run(options, job | settings))
            print(racer.label, best(runs[racer.label][-1]), flush=True)
    return runs


def figures(racers: list[Racer], runs: Told) -> Told:
    """Of each racer its best MRR and the CPU seconds to parts of it, and ours to the same."""
    found: Told = {}
    for racer in racers:
        own = runs[racer.label]
        if wrong := next((_wrong(run) for run in own if _wrong(run)), None):
            found[racer.label] = wrong
            continue
        peak = statistics.median(best(run) for run in own)
        one: Told = {"best": peak, "to": {str(s): seconds_to(own, s * peak) for s in SHARES}}
        if racer is not OURS and OURS in racers:
            one["ours"] = {str(s): seconds_to(runs[OURS.label], s * peak) for s in SHARES}
            one["share"] = {
                share: _share(one["ours"][share], one["to"][share]) for share in one["to"]
            }
            one["most"] = racer.most
            whole = one["share"]["1.0"]
            one["reached"] = bool(racer.most and whole is not None and whole <= racer.most)
        found[racer.label] = one
    return found


def seconds_to(runs: list[Told], mrr: float) -> float | None:
    """The median CPU seconds to an MRR, between two stops by interpolation; None: not by most."""
    times = sorted(_first(run["points"], mrr) for run in runs)
    middle = times[(len(times) - 1) // 2]
    return middle if np.isfinite(middle) else None


def _first(points: list[Told], mrr: float) -> float:
    before = {"cpu_s": 0.0, "mrr": 0.0}
    for point in points:
        if point["mrr"] >= mrr:
            part = (mrr - before["mrr"]) / max(point["mrr"] - before["mrr"], 1e-12)
            return float(before["cpu_s"] + part * (point["cpu_s"] - before["cpu_s"]))
        before = point
    return float("inf")


def best(run: Told) -> float:
    return max((point["mrr"] for point in run.get("points", [])), default=0.0)


def _share(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours / theirs


def _wrong(run: Told) -> Told:
    return {name: run[name] for name in ("error", "skipped") if name in run}


def truth(folder: Path) -> float:
    """The filtered MRR of the model that drew the graph, over the same test triples."""
    sizes = json.loads((folder / "graph.json").read_text())
    drawn = np.load(folder / "truth.npz")
    left, right = torch.from_numpy(drawn["left"]), torch.from_numpy(drawn["right"])
    heads = sizes["heads"]
    sides = Sides(lambda r, ids: left[r][ids], lambda r, ids: right[r][ids - heads], "dot")
    parts = [np.load(folder / f"{name}.npy") for name in ("train", "valid", "test")]
    return filtered_mrr(sides, parts[2][:ASKED], parts, heads, sizes["tails"])


def budget(racer: Racer, options: argparse.Namespace) -> float:
    """CPU seconds of one run of a racer."""
    return dict(options.budget).get(racer.peer.environment, dict(options.budget).get("", 120.0))


def _budget(text: str) -> tuple[str, float]:
    name, _, seconds = text.rpartition("=")
    return name, float(seconds)


def main() -> None:
    parser = peer_options(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--triples", type=int, default=200_000)
    parser.add_argument(
        "--budget", type=_budget, action="append", default=[], help="CPU seconds, or NAME=SECONDS"
    )
    parser.add_argument("--tuned", action="store_true", help="settings of the former results")
    options = parser.parse_args()
    if options.quick:
        options.entities, options.triples, options.runs = 1_000, 20_000, 1
        options.budget = [("", 3.0)]
    results = options.work if options.quick or options.only else RESULTS
    folder = options.work / f"planted_{options.entities}_{options.triples}"
    if not (folder / "graph.json").exists():
        planted(options.entities, 8, options.triples).write(folder)
    names = [peer.label for peer in chosen([racer.peer for racer in RACERS], options)]
    racers = [racer for racer in RACERS if racer.label in names]
    job: Told = {"graph": str(folder), "asked": ASKED}
    former = json.loads((RESULTS / "kg_race.json").read_text()) if options.tuned else {}
    tuned = former.get("tuned") or {racer.label: tune(racer, job, options) for racer in racers}
    runs = race(racers, tuned, job, options)
    told = {"tuned": tuned, "runs": runs, "racers": figures(racers, runs), "truth": truth(folder)}
    told |= {"settings": SETTINGS, "budget": {one.label: budget(one, options) for one in racers}}
    told["graph"] = f"{options.entities:,} entities, 8 relations, {options.triples:,} triples"
    told["graph"] += f", dim {DIM}; {ASKED:,} test triples, both sides"
    results.mkdir(exist_ok=True)
    (results / "kg_race.json").write_text(json.dumps(told, indent=1) + "\n")
    (results / "kg_race.md").write_text(race_tables(told))
    print(race_tables(told))


if __name__ == "__main__":
    main()
