"""A graph whose truth is known: users, pins and items of a few topics like those of their own."""

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
    """A relation between two entity types."""

    name: str
    head: str
    tail: str


RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("checkout", "user", "item"),
    Relation("promotes", "pin", "item"),
)
USERS, PINS, ITEMS, TOPICS = 60, 40, 20, 4
SMALL = TransRAConfig(dim=8, epochs=2, chunk_size=32, negatives=16, checkpoint_minutes=0)


def changed(**values: object) -> TransRAConfig:
    """SMALL with other values."""
    return SMALL.model_copy(update=values)


def planted(seed: int = 0) -> tuple[TripleGraph, pa.Table]:
    """The graph, and clicks of the next day."""
    rng = np.random.default_rng(seed)
    counts = {"user": USERS, "pin": PINS, "item": ITEMS}
    topic = {entity: np.arange(count) % TOPICS for entity, count in counts.items()}
    starts = {"user": 0, "pin": USERS, "item": USERS + PINS}
    columns: list[list[np.ndarray]] = [[], [], []]
    for index, one in enumerate(RELATIONS):
        like = topic[one.head][:, None] == topic[one.tail][None, :]
        heads, tails = np.nonzero(rng.random(like.shape) < np.where(like, 0.5, 0.03))
        columns[0].append(np.full(len(heads), index))
        columns[1].append(heads + starts[one.head])
        columns[2].append(tails + starts[one.tail])
    relation, head, tail = (torch.from_numpy(np.concatenate(c)) for c in columns)
    keys = {"user": pa.array(range(USERS)), "pin": pa.array(range(PINS))}
    keys["item"] = pa.array([f"item {i:03}" for i in range(ITEMS)])
    weight = torch.from_numpy(rng.uniform(0.5, 2.0, len(head)).astype(np.float32))
    like = topic["user"][:, None] == topic["pin"][None, :]
    users, pins = np.nonzero(like & (rng.random(like.shape) < 0.3))
    window = pa.table({"relation": np.zeros(len(users), np.int16), "head": users, "tail": pins})
    return TripleGraph(RELATIONS, keys, head, tail, relation, weight), window


GRAPH, WINDOW = planted()


def only_clicks(graph: TripleGraph = GRAPH) -> TripleGraph:
    """The clicks alone, with users and pins."""
    of = graph.edges_of(0)
    return TripleGraph(
        graph.relations[:1],
        {entity: graph.keys[entity] for entity in ("user", "pin")},
        graph.head[of],
        graph.tail[of],
        graph.relation[of],
        graph.weight[of],
    )


def equal(a: Parameters, b: Parameters) -> bool:
    """Whether two results share every bit."""
    same = a.model == b.model and sorted(a.relation) == sorted(b.relation)
    parts = [(a.entity, b.entity), *((a.relation[name], b.relation[name]) for name in a.relation)]
    return same and all(torch.equal(x, y) for x, y in parts)
