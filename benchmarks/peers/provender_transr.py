"""provender's TransR by `train` on a graph in memory; with `anchor` the first relation's M is I.

Settings: `dim`, `batch` (the chunk), `negatives` a side, and any field of TransRAConfig in
`settings`. Before the track begins, a graph of nothing is trained on, so that what torch loads at
its first product isn't counted as memory of the table; the peers' base holds theirs as well. With
`gemm` the machine's GEMM rate is taken right before and right after. Parameters can be seen after
each epoch only: those are the stops of a race.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from filtered_mrr import Sides
from gemm_rate import flop_per_triple, gemm_rates
from track import Finished, Graph, Track

from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_loop import Progress
from provender.producers.transra_config import TransRAConfig
from provender.producers.validation import Validation

_FEW = np.stack(np.divmod(np.arange(1_000), 10), axis=1)[:, [0, 1, 1]] * [1, 0, 1] + [0, 0, 100]
SMALL = Graph(heads=100, tails=10, relations=1, train=_FEW, valid=_FEW[:0], test=_FEW[:0])


@dataclass(frozen=True)
class Relation:
    name: str
    head: str = "head"
    tail: str = "tail"


def triple_graph(graph: Graph) -> TripleGraph:
    order = np.lexsort((graph.train[:, 2], graph.train[:, 0], graph.train[:, 1]))
    head, relation, tail = (torch.from_numpy(column) for column in graph.train[order].T.copy())
    keys = {"head": pa.array(np.arange(graph.heads)), "tail": pa.array(np.arange(graph.tails))}
    relations = tuple(Relation(f"r{number}") for number in range(graph.relations))
    return TripleGraph(relations, keys, head, tail, relation, torch.ones(len(head)))


def config_of(track: Track) -> TransRAConfig:
    job = track.job
    fixed = {
        "model": "transra" if job.get("anchor") else "transr",
        "anchor_relation": "r0" if job.get("anchor") else None,
        "principal_axes": False,
        "dim": job["dim"],
        "chunk_size": job["batch"],
        "negatives": job["negatives"],
        "seed": job.get("seed", 0),
        "epochs": 1_000,
    }
    return TransRAConfig.parse(fixed | job.get("settings", {}))


def sides_of(parameters: Parameters) -> Sides:
    """The model's own two sides of the entities' rows."""
    return Sides(
        lambda relation, ids: parameters.left(relation, parameters.entity[ids]),
        lambda relation, ids: parameters.right(relation, parameters.entity[ids]),
        parameters.score.similarity,
    )


def peer(track: Track) -> None:
    graph, config = triple_graph(track.graph), config_of(track)
    train(triple_graph(SMALL), config.model_copy(update={"epochs": 1}))

    def judged(parameters: Parameters) -> float:
        track.step(0, lambda: sides_of(parameters))
        return 0.0

    def progressed(progress: Progress) -> None:
        track.step(progress.count)

    judge = Validation(judged, patience=1_000) if track.stops else None
    rates = [_rates(track, config)]
    track.begin()
    try:
        train(graph, config, validation=judge, on_progress=progressed)
    except Finished:
        rates.append(_rates(track, config))
        track.told["gemm"] = {name: (rates[0][name] + rates[1][name]) / 2 for name in rates[0]}
        raise


def _rates(track: Track, config: TransRAConfig) -> dict[str, float]:
    if not track.job.get("gemm"):
        return {}
    sizes = config.dim, config.chunk_size, config.negatives
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    return gemm_rates(*sizes, dtype) | {"flop_per_triple": flop_per_triple(*sizes)}


if __name__ == "__main__":
    Track().run(peer)
