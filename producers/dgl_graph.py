"""The graph as a DGL heterograph: the one module that knows DGL.

DGL is no longer developed and has no wheels for newer Pythons, so nothing else imports it, and
where it is missing `degrees` counts in torch (`graph.degrees`, tested to agree).
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from provender.producers import graph as torch_graph
from provender.producers.graph import TripleGraph


@dataclass(frozen=True)
class RelationSummary:
    """One line of the graph's summary: edges, and the entities that have at least one."""

    name: str
    head: str
    tail: str
    edges: int
    heads: int
    tails: int


def edge_type(graph: TripleGraph, relation: int) -> tuple[str, str, str]:
    """The canonical edge type of a relation.

    The relation's number and name, in letters that are safe as an attribute: DGL's modules break
    on some plain names (`to`), and names from a mapping may hold any character.
    """
    one = graph.relations[relation]
    return one.head, f"r{relation}_{re.sub(r'[^0-9a-zA-Z]', '_', one.name)}", one.tail


def to_heterograph(graph: TripleGraph) -> Any:
    """The `dgl.DGLHeteroGraph` of a graph: ids within their types, `weight` on every edge."""
    dgl = _dgl()
    edges, weights = {}, {}
    for index, one in enumerate(graph.relations):
        of = graph.edges_of(index)
        canonical = edge_type(graph, index)
        head = graph.head[of] - graph.offsets[one.head]
        edges[canonical] = (head, graph.tail[of] - graph.offsets[one.tail])
        weights[canonical] = graph.weight[of]
    heterograph = dgl.heterograph(edges, num_nodes_dict=_used_counts(graph))
    for canonical, weight in weights.items():
        heterograph.edges[canonical].data["weight"] = weight
    return heterograph


def degrees(graph: TripleGraph) -> Tensor:
    """The number of edges at each entity, as head or as tail: int64 (N,), counted by DGL."""
    if not graph.relations or importlib.util.find_spec("dgl") is None:
        return torch_graph.degrees(graph)
    heterograph = to_heterograph(graph)
    total = torch.zeros(graph.entities, dtype=torch.int64)
    for head, name, tail in heterograph.canonical_etypes:
        total[graph.span(head)] += heterograph.out_degrees(etype=(head, name, tail))
        total[graph.span(tail)] += heterograph.in_degrees(etype=(head, name, tail))
    return total


def summarise(graph: TripleGraph) -> list[RelationSummary]:
    """Edges, heads and tails of each relation."""
    heterograph = to_heterograph(graph)
    lines = []
    for index, one in enumerate(graph.relations):
        canonical = edge_type(graph, index)
        lines.append(
            RelationSummary(
                name=one.name,
                head=one.head,
                tail=one.tail,
                edges=heterograph.num_edges(canonical),
                heads=int((heterograph.out_degrees(etype=canonical) > 0).sum()),
                tails=int((heterograph.in_degrees(etype=canonical) > 0).sum()),
            )
        )
    return lines


def _used_counts(graph: TripleGraph) -> dict[str, int]:
    # DGL refuses counts of node types that no relation touches.
    used = {end for one in graph.relations for end in (one.head, one.tail)}
    return {entity: count for entity, count in graph.counts.items() if entity in used}


def _dgl() -> Any:
    # Without a backend DGL asks for one and writes to the home folder.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl

    return dgl
