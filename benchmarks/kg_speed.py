"""Training speed beside the peers of knowledge-graph embedding: triples a CPU second of one core.

    python benchmarks/kg_speed.py --peer-python pykeen=/tmp/peers/pykeen/bin/python \\
        --peer-python torchkge=... --peer-python biggraph=...

200k entities, 8 relations, 2M triples by power laws, dim 128. Each run is a process of its own
under the same settings (peer_process.py) and on the same clock (peers/track.py), without its
warm-up; the peers take turns. Ours is measured against the machine's GEMM rate, taken right before
and after in the same process, and at 20k to 2M entities with the memory that training adds. A peer
whose environment isn't named is left out. Writes benchmarks/results/kg_speed.{json,md}.

The environments: `python3.11 -m venv DIR; DIR/bin/pip install torch==2.13.0`, then pykeen==1.11.*,
or torchkge==0.17.7, or `'setuptools<81'` and, with --no-build-isolation, torchbiggraph==1.0.*.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from kg_tables import speed_tables
from peer_process import SETTINGS, Peer, Told, chosen, peer_options
from planted_graph import power_law

RESULTS = Path(__file__).parent / "results"
DIM, CHUNK, NEGATIVES = 128, 1024, 256
OURS = {"dim": DIM, "batch": CHUNK, "negatives": NEGATIVES, "gemm": True}
PER_TRIPLE = {"dim": DIM, "batch": CHUNK, "negatives": 8}
BIGGRAPH = {"dim": DIM, "batch": CHUNK}
#: No penalties: what is compared is the same work, not our defaults.
PLAIN = {"shrinkage": 0.0, "deviation_shrinkage": 0.0}
BRAIN = {**PLAIN, "precision": "bfloat16"}
#: Triples before and under the clock.
SHORT = {"warm_up": 2 * CHUNK, "triples": 6 * CHUNK}
LONG = {"warm_up": 100 * CHUNK, "triples": 400 * CHUNK}

PEERS = [
    Peer(
        "provender TransR, fp32", "provender", "provender_transr", OURS | LONG | {"settings": PLAIN}
    ),
    Peer(
        "provender TransR, bf16", "provender", "provender_transr", OURS | LONG | {"settings": BRAIN}
    ),
    Peer("PyKEEN TransR, 8 negatives", "pykeen", "pykeen_transr", PER_TRIPLE | SHORT),
    Peer("torchkge TransR, 8 negatives", "torchkge", "torchkge_transr", PER_TRIPLE | SHORT),
    Peer(
        "BigGraph affine, 128 + 128 negatives",
        "biggraph",
        "biggraph_affine",
        BIGGRAPH | LONG | {"batch_negatives": 128, "uniform_negatives": 128},
    ),
    Peer(
        "BigGraph affine, 256 uniform negatives",
        "biggraph",
        "biggraph_affine",
        BIGGRAPH | LONG | {"batch_negatives": 0, "uniform_negatives": 256},
    ),
]
#: (ours, the figure, against, to reach)
GOALS = [
    ("provender TransR, fp32", "times", "PyKEEN TransR, 8 negatives", 100.0),
    ("provender TransR, bf16", "times", "PyKEEN TransR, 8 negatives", 160.0),
    ("provender TransR, fp32", "roofline", "shapes", 0.65),
    ("provender TransR, bf16", "roofline", "shapes", 0.45),
    ("provender TransR, fp32", "roofline", "large", 0.65),
    ("provender TransR, bf16", "roofline", "large", 0.45),
]
GROWTH = Peer("growth", "provender", "provender_transr", OURS | LONG | {"gemm": False})
SIZES = (20_000, 200_000, 2_000_000)
#: At most so much slower a triple, and so much memory beside the table and its row-wise state.
SLOWER, MEMORY = 1.15, 1.10


def graph_of(options: argparse.Namespace, entities: int) -> Path:
    """The folder of a power-law graph, made where it is not there yet."""
    triples = 100_000 if options.quick else 2_000_000
    folder: Path = options.work / f"power_law_{entities}_{triples}"
    if not (folder / "graph.json").exists():
        power_law(entities, 8, triples).write(folder)
    return folder


def turns(peers: list[Peer], jobs: list[Told], options: argparse.Namespace) -> list[list[Told]]:
    """Each peer's runs with its own job; they take turns, and one that fails is not asked again."""
    runs: list[list[Told]] = [[] for _ in peers]
    for _ in range(options.runs):
        for peer, job, own in zip(peers, jobs, runs, strict=True):
            if not any(set(run) & {"error", "skipped"} for run in own):
                own.append(peer.run(options, job))
                shown = {name: own[-1].get(name) for name in ("per_cpu_s", "cpu_s", "wall_s")}
                print(
                    peer.label,
                    job.get("entities", ""),
                    own[-1] if None in shown.values() else shown,
                    flush=True,
                )
    return runs


def medians(runs: list[Told]) -> Told:
    """The median of each figure, or what went wrong."""
    wrong = [run for run in runs if set(run) & {"error", "skipped"}]
    if wrong:
        return wrong[0]
    found: Told = {
        name: statistics.median(run[name] for run in runs)
        for name in ("triples", "cpu_s", "wall_s", "per_cpu_s", "base_mib", "peak_mib")
    }
    if "gemm" in runs[0] and runs[0]["gemm"]:
        per_triple = runs[0]["gemm"]["flop_per_triple"]
        for shape in ("large", "shapes"):
            shares = [run["per_cpu_s"] * per_triple / run["gemm"][shape] for run in runs]
            found[shape] = statistics.median(shares)
            found[f"{shape}_gflop_s"] = statistics.median(run["gemm"][shape] / 1e9 for run in runs)
    return found


def goals(told: Told) -> list[Told]:
    """Each goal that could be measured."""
    found = []
    for label, figure, against, least in GOALS:
        ours, other = told.get(label, {}), told.get(against, {})
        measured = ours.get(against)
        if figure == "times" and "per_cpu_s" in ours and "per_cpu_s" in other:
            measured = ours["per_cpu_s"] / other["per_cpu_s"]
        if measured is not None:
            found.append(
                {"label": label, "figure": figure, "against": against, "least": least}
                | {"measured": measured, "reached": measured >= least}
            )
    return found


def growth(options: argparse.Namespace) -> Told:
    """Time a triple and memory at each size; the triples stay as many."""
    sizes = [size // 10 for size in SIZES] if options.quick else list(SIZES)
    quick = {"warm_up": 10 * CHUNK, "triples": 50 * CHUNK} if options.quick else {}
    jobs = [{"graph": str(graph_of(options, size)), "entities": size} | quick for size in sizes]
    found = [
        medians(runs) | {"entities": size, "table_mib": size * (DIM + 1) * 4 / 2**20}
        for size, runs in zip(sizes, turns([GROWTH] * len(jobs), jobs, options), strict=True)
    ]
    slower = max(found[0]["per_cpu_s"] / one["per_cpu_s"] for one in found)
    memory = {
        str(one["entities"]): (one["peak_mib"] - one["base_mib"]) / one["table_mib"]
        for one in found
    }
    return {
        "sizes": found,
        "slower": slower,
        "memory": memory,
        "reached": {"slower": slower <= SLOWER, "memory": memory[str(sizes[-1])] <= MEMORY},
    }


def main() -> None:
    parser = peer_options(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-growth", action="store_true")
    options = parser.parse_args()
    results = options.work if options.quick or options.only else RESULTS
    peers = chosen(PEERS, options)
    job: Told = {"graph": str(graph_of(options, 2_000 if options.quick else 200_000))}
    if options.quick:
        job |= {"warm_up": 2 * CHUNK, "triples": 4 * CHUNK}
    runs = turns(peers, [job] * len(peers), options)
    found = {peer.label: medians(own) for peer, own in zip(peers, runs, strict=True)}
    told: Told = {"settings": SETTINGS, "peers": found, "goals": goals(found)}
    told["jobs"] = {peer.label: peer.job for peer in peers}
    if not options.no_growth:
        told["growth"] = growth(options)
    results.mkdir(exist_ok=True)
    (results / "kg_speed.json").write_text(json.dumps(told, indent=1) + "\n")
    (results / "kg_speed.md").write_text(speed_tables(told))
    print(speed_tables(told))


if __name__ == "__main__":
    main()
