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
    "deviation_shrinkage": 0.1,
    "relation_learning_rate": 0.002,
}
#: Links an entity, on average, below which little is known of each, and how much they are shrunk
#: then and otherwise: on WN18RR (4.2) 1.0 is much better, on WN18 (6.9) and FB15k-237 (37) less.
_FEW_LINKS, _SHRINKAGE_OF_FEW, _SHRINKAGE = 5.0, 1.0, 0.4


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
        **(_links(sizes) if kind == "kg" else _interactions(model)),
    }


def _links(sizes: GraphSizes) -> dict[str, Any]:
    """Many relations, each within or between types."""
    few = 2 * sizes.triples < _FEW_LINKS * sizes.entities
    return {**_LINKS, "shrinkage": _SHRINKAGE_OF_FEW if few else _SHRINKAGE}


def _interactions(model: str) -> dict[str, Any]:
    """One relation between two types."""
    return {
        "chunk_size": 1024,
        "epochs": 60,
        "learning_rate": 0.1,
        "shrinkage": 0.5 if model in _DOT else 1.0,
        "deviation_shrinkage": 0.1,
    }
