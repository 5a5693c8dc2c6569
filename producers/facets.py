"""Facets: an entity's vectors as one relation sees them, in the place of the raw ones.

A relation's score is a similarity of what it makes of both ends, `parameters.left` of heads and
`parameters.right` of tails: in TransR -|(h M_r + r) - t M_r|^2. A facet is one of these sides. So
whoever compares a relation's two facets, by that very similarity, has the model's scores of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.event_mapping import EventMapping
from provender.producers.event_set import Relation
from provender.producers.graph import RelationType, TripleGraph
from provender.producers.mapped_rows import BLOCK, gathered
from provender.producers.parameters import Parameters
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors

End = Literal["head", "tail"]


def facet_vectors(
    spec: EmbeddingSpec, parameters: Parameters, graph: TripleGraph, scratch: Path | None = None
) -> Vectors:
    """The vectors (n, d) that a view holds, by key, on the CPU: raw ones or those of its facet.

    Raw ones are no copies. With a `scratch` folder those of a facet are mapped from a file in it.
    """
    raw = parameters.vectors(graph, spec.entity)
    if spec.relation is None:
        return raw
    rows, relation = parameters.entity[graph.span(spec.entity)], graph.index_of(spec.relation)
    side = parameters.left if end_of(spec, graph.relations) == "head" else parameters.right
    seen = (side(relation, block).detach().cpu().numpy() for block in rows.split(BLOCK))
    return Vectors(raw.keys, gathered(seen, len(raw.keys), raw.dim, scratch))


def check_facets(specs: Iterable[EmbeddingSpec], world: World, config: TransRAConfig) -> None:
    """Raise ConfigError for a facet that can't be: of a relation that is not learned from, say."""
    learned = [
        Relation(name, event.head_entity, event.tail_entity)
        for name, event in EventMapping.from_world(world).events.items()
        if config.relation_weight(name) > 0
    ]
    for spec in specs:
        if spec.relation is not None:
            end_of(spec, learned)


def end_of(spec: EmbeddingSpec, relations: Sequence[RelationType]) -> End:
    """The end of its facet's relation at which a view's entity stands.

    Raises ConfigError where the relation is none of `relations`, where the entity is not at the
    end that is declared or at neither, and where it is at both and none is declared.
    """
    found = [one for one in relations if one.name == spec.relation]
    if not found:
        known = ", ".join(one.name for one in relations)
        raise _refusal(spec, repr(spec.facet), f"a relation that is learned from: {known}")
    (relation,) = found
    at: dict[End, str] = {"head": relation.head, "tail": relation.tail}
    ends = [end for end in at if at[end] == spec.entity and spec.end in (None, end)]
    if not ends:
        there = f"{spec.relation} leads from {relation.head} to {relation.tail}"
        end = spec.end or "an end"
        raise _refusal(spec, f"{spec.facet!r}, and {there}", f"{spec.entity} at {end} of it")
    if len(ends) > 1:
        both = f"{spec.facet!r}, and {spec.entity} is both its head and its tail"
        raise _refusal(spec, both, " or ".join(repr(f"{spec.relation}/{end}") for end in ends))
    return ends[0]


def _refusal(spec: EmbeddingSpec, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"embedding view {spec.view_name}, facet",
        found=found,
        expected=expected,
        remedy="Correct facet in embedding_views.py, or the world file's events and relations.",
    )
