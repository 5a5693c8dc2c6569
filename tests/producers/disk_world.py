"""A small graph with planted topics, that can be trained in memory and from disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.transra_config import TransRAConfig


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("promotes", "pin", "item"),
    Relation("follows", "user", "user"),
)
COUNTS = {"user": 61, "pin": 40, "item": 9}
TOPICS = 4
SMALL = TransRAConfig(
    dim=16, epochs=2, chunk_size=32, negatives=16, partitions_held=2, checkpoint_minutes=0
)


def planted(seed: int = 0) -> TripleGraph:
    """Entities like those of their own topic: id modulo TOPICS."""
    rng = np.random.default_rng(seed)
    starts = dict(zip(COUNTS, np.cumsum([0, *COUNTS.values()]), strict=False))
    columns: list[list[np.ndarray]] = [[], [], []]
    for index, one in enumerate(RELATIONS):
        heads, tails = np.arange(COUNTS[one.head]), np.arange(COUNTS[one.tail])
        like = heads[:, None] % TOPICS == tails[None, :] % TOPICS
        head, tail = np.nonzero(rng.random(like.shape) < np.where(like, 0.5, 0.03))
        columns[0].append(np.full(len(head), index))
        columns[1].append(head + starts[one.head])
        columns[2].append(tail + starts[one.tail])
    relations, heads_, tails_ = (torch.from_numpy(np.concatenate(c)) for c in columns)
    weight = torch.from_numpy(rng.uniform(0.5, 2.0, len(heads_)).astype(np.float32))
    keys = {entity: pa.array(range(count)) for entity, count in COUNTS.items()}
    return TripleGraph(RELATIONS, keys, heads_, tails_, relations, weight)


def own_topic(parameters: Parameters, graph: TripleGraph) -> float:
    """The share of each user's ten likeliest pins that are of its topic."""
    users = parameters.left(0, parameters.entity[graph.span("user")])
    pins = parameters.right(0, parameters.entity[graph.span("pin")])
    top = parameters.cross(users, pins).topk(10).indices % TOPICS
    return float((top == (torch.arange(len(users)) % TOPICS).unsqueeze(1)).float().mean())
