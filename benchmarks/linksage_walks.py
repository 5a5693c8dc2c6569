"""The top 50 neighbours of pages by visits: provender's walkers beside DGL's PinSAGESampler.

    OMP_NUM_THREADS=1 python benchmarks/linksage_walks.py

50k pages, 200k pins, 1M edges, 100 walks of 3 round trips from each page, without restarts, on a
graph whose edges are drawn evenly and on one where they follow power laws. All take turns in one
process with one thread; figures are medians of processor seconds. DGL's sampler gets its graph
ready made and is run on all pages at once and in blocks, of which the fastest counts; ours makes
its tables anew in each run. Agreement is the share of DGL's ten first neighbours that are among our
ten first, beside the same share for two seeds of DGL: that is as much as chance leaves.
Writes benchmarks/results/linksage_walks.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_graph import Csr, PageGraph
from provender.producers.linksage.page_neighbours import find_neighbours

RESULTS = Path(__file__).parent / "results"
PAGES, PINS, EDGES, WALKS, TRIPS, TOP = 50_000, 200_000, 1_000_000, 100, 3, 50
ROUND_TRIPS = {"metapaths": (("page", "pin", "page"),), "restart": {}}
#: Ours, by what they do beyond the sampler's work.
WAYS: dict[str, dict[str, Any]] = {
    "provender, torch: pages": {**ROUND_TRIPS, "neighbour_types": ("page",)},
    "provender, torch: pages, weighted edges": {**ROUND_TRIPS, "neighbour_types": ("page",)},
    "provender, torch: pages and pins": ROUND_TRIPS,
    "provender, torch: pages and pins, restarts": {},
    "provender, DGL: pages": {**ROUND_TRIPS, "neighbour_types": ("page",), "walker": "dgl"},
}
BLOCKS = (PAGES, 8192, 1024)
Ints = NDArray[np.int64]


def edges(skewed: bool) -> tuple[Ints, Ints]:
    """Distinct pairs of pin and page, sorted."""
    rng = np.random.default_rng(0)
    found = np.zeros(0, np.int64)
    while len(found) < EDGES:
        pins, pages = (
            ((rng.random(EDGES) ** 3) * count).astype(np.int64)
            if skewed
            else rng.integers(0, count, EDGES)
            for count in (PINS, PAGES)
        )
        found = np.unique(np.concatenate([found, pins * PAGES + pages]))
    found = np.sort(rng.choice(found, EDGES, replace=False))
    return found // PAGES, found % PAGES


def page_graph(pins: Ints, pages: Ints, *, weighted: bool) -> PageGraph:
    weights = np.ones(EDGES, np.float32)
    if weighted:
        weights = np.random.default_rng(1).integers(1, 5, EDGES).astype(np.float32)

    def csr(own: Ints, other: Ints, nodes: int) -> Csr:
        order = np.lexsort((other, own))
        offsets = np.concatenate([[0], np.bincount(own, minlength=nodes).cumsum()])
        parts = (offsets, other[order], weights[order])
        return Csr(*(torch.from_numpy(part) for part in parts))

    none = torch.zeros(0, dtype=torch.int64)
    hashes = torch.from_numpy(np.random.default_rng(2).integers(-(2**63), 2**63 - 1, PAGES))
    return PageGraph(
        counts={"page": PAGES, "pin": PINS, "board": 0, "link": 0},
        edges={("pin", "page"): csr(pins, pages, PINS), ("page", "pin"): csr(pages, pins, PAGES)},
        cluster=torch.arange(PINS),
        representative=torch.arange(PINS),
        positive_pin=none,
        positive_page=none,
        positive_weight=none.float(),
        page_hashes=hashes,
        report={},
    )


def dgl_sampler(pins: Ints, pages: Ints) -> Callable[[Tensor], Any]:
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl

    ends = torch.from_numpy(pins), torch.from_numpy(pages)
    graph = dgl.heterograph(
        {("pin", "on", "page"): ends, ("page", "has", "pin"): ends[::-1]},
        num_nodes_dict={"pin": PINS, "page": PAGES},
    ).formats("csr")
    # Its neighbours include the start itself: one more, and it is dropped by whoever uses it.
    sampler: Callable[[Tensor], Any] = dgl.sampling.PinSAGESampler(
        graph, "page", "pin", TRIPS, 0.0, WALKS, TOP + 1
    )
    return sampler


def first_ten_of_dgl(sampler: Callable[[Tensor], Any], starts: Tensor) -> list[set[int]]:
    found = sampler(starts)
    near, start = (end.numpy() for end in found.edges())
    order = np.lexsort((near, -found.edata["weights"].numpy(), start))
    rows: dict[int, list[int]] = {int(one): [] for one in starts}
    for place in order.tolist():
        if near[place] != start[place]:
            rows[int(start[place])].append(int(near[place]))
    return [set(row[:10]) for row in rows.values()]


def agreement(graph: PageGraph, config: WalkConfig, sampler: Callable[[Tensor], Any]) -> Any:
    starts = torch.arange(0, PAGES, 50)
    found = find_neighbours(graph, config, 0, starts)
    spans = zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)
    ours = [set(found.nodes[first : min(end, first + 10)].tolist()) for first, end in spans]
    one, other = (first_ten_of_dgl(sampler, starts) for _ in range(2))

    def shared(a: list[set[int]], b: list[set[int]]) -> float:
        both = [len(x & y) / len(x) for x, y in zip(a, b, strict=True) if x]
        return round(statistics.mean(both), 4)

    return {"ours and DGL's": shared(one, ours), "DGL's and DGL's": shared(one, other)}


def seconds(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def race(skewed: bool, rounds: int) -> dict[str, Any]:
    pins, pages = edges(skewed)
    plain, weighted = (page_graph(pins, pages, weighted=one) for one in (False, True))
    sampler, starts = dgl_sampler(pins, pages), torch.arange(PAGES)
    jobs: dict[str, Callable[[], Any]] = {}
    for size in BLOCKS:
        name = f"DGL PinSAGESampler, {size:,} pages at a time"
        jobs[name] = lambda size=size: [sampler(block) for block in starts.split(size)]  # type: ignore[misc]
    for name, settings in WAYS.items():
        steps = {"length": 2 * TRIPS, "walks": WALKS, "neighbours": TOP}
        config, graph = WalkConfig(**steps, **settings), weighted if "weighted" in name else plain
        jobs[name] = lambda graph=graph, config=config: find_neighbours(graph, config, 0)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):  # the first warms up
        for name, job in jobs.items():
            spent = seconds(job)
            times[name] += [spent] if turn else []
    medians = {name: statistics.median(each) for name, each in times.items()}
    best = min(median for name, median in medians.items() if name.startswith("DGL"))
    config = WalkConfig(
        length=2 * TRIPS, walks=WALKS, neighbours=TOP, **WAYS["provender, torch: pages"]
    )
    return {
        "cpu_seconds": {
            name: {
                "median": round(medians[name], 3),
                "least": round(min(each), 3),
                "most": round(max(each), 3),
                "times_as_fast_as_dgl": round(best / medians[name], 2),
            }
            for name, each in times.items()
        },
        "agreement_of_first_ten": agreement(plain, config, sampler),
    }


def tables(result: dict[str, Any]) -> str:
    lines = [
        f"{PAGES:,} pages, {PINS:,} pins, {EDGES:,} edges, {WALKS} walks x {TRIPS} round trips, "
        f"top {TOP}; processor seconds of one thread, medians of {result['rounds']} rounds.",
    ]
    for graph, told in result["graphs"].items():
        lines += [
            "",
            f"| edges {graph} | CPU s | least to most | DGL's best / this |",
            "|---|---|---|---|",
        ]
        for name, one in told["cpu_seconds"].items():
            spread = f"{one['least']:.2f} to {one['most']:.2f}"
            lines.append(
                f"| {name} | {one['median']:.2f} | {spread} | {one['times_as_fast_as_dgl']:.1f} |"
            )
        shares = told["agreement_of_first_ten"]
        both = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        lines += ["", f"The ten first neighbours in common: {both}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    graphs = {"drawn evenly": race(False, rounds), "by power laws": race(True, rounds)}
    result = {"rounds": rounds, "graphs": graphs}
    (RESULTS / "linksage_walks.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "linksage_walks.md").write_text(tables(result))
    print(tables(result))


if __name__ == "__main__":
    main()
