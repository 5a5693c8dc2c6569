"""What `provender evaluate kg` trains with where its --config says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: Judge on the validation links after so many epochs ...
VALIDATE_EVERY = 5
#: ... and stop after so many judgements that bring nothing better.
PATIENCE = 3

_DOT = ("distmult", "complex")
#: Negatives, and the fewest of them, where entities are few.
_NEGATIVES, _FEWEST = 1024, 64
#: Where many relations lie within one type, and each has few links.
_LINKS: dict[str, Any] = {
    "end_share": 0.7,
    "chunk_size": 256,
    "epochs": 60,
    "learning_rate": 0.03,
    "shrinkage": 0.3,
    "deviation_shrinkage": 0.3,
    "relation_learning_rate": 0.003,
}


@dataclass(frozen=True)
class GraphSizes:
    """What the defaults may go by: counts of training, and the relation with most links."""

    entities: int
    relations: int
    triples: int
    largest_relation: str


def defaults(model: str, sizes: GraphSizes, kind: Literal["kg", "interactions"]) -> dict[str, Any]:
    """Values of TransRAConfig for a model on a graph of these sizes."""
    return {
        "model": model,
        "anchor_relation": sizes.largest_relation if model == "transra" else None,
        "anchor_entities": "off",
        "half_life_days": None,
        "degree_cap": None,
        "dim": 128,
        **({"score_scale": 1.0, "init_norm": 1.0} if model in _DOT else {}),
        "negatives": min(_NEGATIVES, max(_FEWEST, sizes.entities)),
        **(_LINKS if kind == "kg" else _interactions(model)),
    }


def _interactions(model: str) -> dict[str, Any]:
    """One relation between two types."""
    return {
        "chunk_size": 1024,
        "epochs": 60,
        "learning_rate": 0.1,
        "shrinkage": 0.5 if model in _DOT else 1.0,
        "deviation_shrinkage": 0.1,
    }
