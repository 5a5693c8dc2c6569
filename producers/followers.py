"""Commands over several processes: rank 0 does the command, the others train with it.

torchrun --standalone --nproc-per-node 2 --no-python provender produce --home demo
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import pyarrow as pa
import torch

from provender.producers import ranks
from provender.producers.chunks import ChunkSource, EpochPlan
from provender.producers.graph import TripleGraph
from provender.producers.memory import keep_freed_memory
from provender.producers.optimizer_state import first_moments
from provender.producers.parameters import Parameters
from provender.producers.ranks import Ranks
from provender.producers.row_shards import scattered
from provender.producers.scores import identity
from provender.producers.sharded_training import ShardedTraining, replicated
from provender.producers.trainer import Run
from provender.producers.training_state import TrainingState
from provender.producers.transra_config import TransRAConfig
from provender.producers.warm_start import Reference

P = ParamSpec("P")


def over_ranks(command: Callable[P, None]) -> Callable[P, None]:
    """Under torchrun, rank 0 alone does the command, and the others help whenever it trains."""

    @wraps(command)
    def led(*args: P.args, **kwargs: P.kwargs) -> None:
        if not ranks.several():
            return command(*args, **kwargs)
        with ranks.joined() as here:
            if here.rank:
                return follow(here)
            try:
                return command(*args, **kwargs)
            finally:
                here.post(do="stop")

    return led


def follow(here: Ranks) -> None:
    """Do as rank 0 orders until it says stop; raises TrainingError where a rank is gone."""
    torch.set_num_threads(1)
    keep_freed_memory()
    training: ShardedTraining | None = None
    plan: EpochPlan | None = None
    while (order := here.awaited())["do"] != "stop":
        if order["do"] == "start":
            training, plan = _started(here, order), None
        elif order["do"] == "towers":
            from provender.producers.upstream.tower_refresh import train_along

            train_along(order)
        elif training is None:
            raise AssertionError(f"ordered to {order['do']} before the start")
        elif order["do"] == "train":
            if plan is None or plan.epoch != order["epoch"]:
                plan = _plan(training.run, order["epoch"])
            training.train(plan, range(order["start"], order["stop"]))
        else:
            ranks.send(training.state.parameters.entity, 0)
            ranks.send(training.state.squares, 0)


class _Relation(NamedTuple):
    """Of a graph: a name, and the entity types at its ends."""

    name: str
    head: str
    tail: str


def _started(here: Ranks, order: dict[str, Any]) -> ShardedTraining:
    """Receive what `sharded_training.hand_out` sends, in its order."""
    config = TransRAConfig.parse(order["config"])
    graph = _graph(order)
    relation = identity(config.model, len(graph.relations), config.dim)
    moments, steps = first_moments(graph, relation, None)
    nothing = torch.zeros(0)
    state = TrainingState(Parameters(config.model, nothing, relation), nothing, moments, steps)
    for tensor in replicated(state):
        ranks.broadcast(tensor)
    entity = scattered(graph.entities, config.dim)
    state.parameters = Parameters(config.model, entity, relation)
    state.squares = scattered(graph.entities)
    reference = None
    if order["refresh"]:
        vectors = scattered(graph.entities, config.dim)
        reference = Reference(vectors, scattered(graph.entities, dtype=torch.bool))
    source = ChunkSource.prepare(graph, config, torch.device("cpu"))
    return ShardedTraining.of(here, Run.over(source, config, reference), state)


def _graph(order: dict[str, Any]) -> TripleGraph:
    """Receive the graph; of the entities a follower knows how many there are, and no keys."""
    edges = order["edges"]
    relation, head, tail = (
        ranks.broadcast(torch.empty(edges, dtype=torch.int64)) for _ in range(3)
    )
    return TripleGraph(
        relations=tuple(_Relation(*one) for one in order["relations"]),
        keys={entity: pa.nulls(count) for entity, count in order["counts"].items()},
        head=head,
        tail=tail,
        relation=relation,
        weight=ranks.broadcast(torch.empty(edges)),
    )


def _plan(run: Run, epoch: int) -> EpochPlan:
    return EpochPlan.cut(run.source.graph, run.config.chunk_size, run.config.seed, epoch)
