"""PyTorch-BigGraph with an affine operator a relation, by its own training loop and optimizers.

Settings: `dim`, `batch`, `batch_negatives` and `uniform_negatives` (their sum a side is what each
triple meets), `rate` of the entities' row-wise Adagrad, `relation_rate` of the operators'
Adagrad, `comparator`. As in its own example for FB15k: softmax loss, no global embedding, nothing
withheld. Its one worker runs in this process, where the clock sees it, and not in another; edges
are shuffled once an epoch by BigGraph itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import torch
import torchbiggraph.train as biggraph
from filtered_mrr import Sides
from torch import Tensor
from torchbiggraph.config import ConfigSchema
from torchbiggraph.edgelist import EdgeList
from torchbiggraph.model import MultiRelationEmbedder, make_model
from torchbiggraph.row_adagrad import RowAdagrad  # noqa: F401  (what the loop makes for entities)
from torchbiggraph.types import Side
from track import Graph, Track


class OneWorker:
    """A pool of one that works at once, in this process."""

    _pool = ()

    def map_async(self, call: Callable[..., Any], works: list[Any]) -> OneWorker:
        self.results = [call(work) for work in works]
        return self

    def get(self, timeout: float) -> list[Any]:
        return self.results


class CountingTrainer(biggraph.Trainer):
    """BigGraph's trainer, which tells the track of each batch."""

    def __init__(self, track: Track, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.track = track

    def process_one_batch(self, model: MultiRelationEmbedder, batch_edges: EdgeList) -> Any:
        stats = super().process_one_batch(model, batch_edges)
        self.track.step(len(batch_edges), partial(sides_of, model, self.track.graph))
        return stats


def sides_of(model: MultiRelationEmbedder, graph: Graph) -> Sides:
    """The comparator's two sides: the head as it is, the tail through the relation's operator."""
    heads, tails = model.get_embeddings("head", Side.LHS), model.get_embeddings("tail", Side.RHS)
    name = type(model.comparator).__name__
    similarity = {"DotComparator": "dot", "CosComparator": "dot"}.get(name, "distance")

    @torch.no_grad()
    def left(relation: int, entities: Tensor) -> Tensor:
        return model.adjust_embs(heads[entities], relation, "head", None)

    @torch.no_grad()
    def right(relation: int, entities: Tensor) -> Tensor:
        operator = model.rhs_operators[relation]
        return model.adjust_embs(tails[entities - graph.heads], relation, "tail", operator)

    return Sides(left, right, similarity)


def write_input(graph: Graph, folder: Path) -> None:
    """The entity counts and the one bucket of edges."""
    for name, count in (("head", graph.heads), ("tail", graph.tails)):
        (folder / f"entity_count_{name}_0.txt").write_text(f"{count}\n")
    edges = folder / "edges"
    edges.mkdir()
    with h5py.File(edges / "edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        file["lhs"] = graph.train[:, 0]
        file["rhs"] = graph.train[:, 2] - graph.heads
        file["rel"] = graph.train[:, 1]


def config_of(track: Track, folder: Path) -> ConfigSchema:
    job = track.job
    ends = {"lhs": "head", "rhs": "tail", "operator": "affine"}
    return ConfigSchema.from_dict(
        {
            "entities": {"head": {"num_partitions": 1}, "tail": {"num_partitions": 1}},
            "relations": [{"name": str(r), **ends} for r in range(track.graph.relations)],
            "entity_path": str(folder),
            "edge_paths": [str(folder / "edges")],
            "checkpoint_path": str(folder / "model"),
            "dimension": job["dim"],
            "comparator": job.get("comparator", "dot"),
            "global_emb": False,
            "loss_fn": "softmax",
            "batch_size": job["batch"],
            "num_batch_negs": job["batch_negatives"],
            "num_uniform_negs": job["uniform_negatives"],
            "lr": job.get("rate", 0.1),
            "relation_lr": job.get("relation_rate", 0.01),
            "init_scale": job.get("init_scale", 0.001),
            "num_epochs": 1_000,
            "eval_fraction": 0,
            "workers": 1,
        }
    )


def peer(track: Track) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(track.graph, folder)
        config = config_of(track, folder)
        model = make_model(config)
        biggraph.create_pool = lambda *_, **__: OneWorker()
        biggraph.get_async_result = lambda future, pool: future.get(0.0)
        biggraph.Trainer = partial(CountingTrainer, track)
        track.begin()
        biggraph.train(config, model)


if __name__ == "__main__":
    Track().run(peer)
