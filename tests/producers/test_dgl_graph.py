"""The heterograph has the graph's nodes, edges and weights, under names that are safe."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest
import torch

from provender.producers.dgl_graph import RelationSummary, edge_type, summarise, to_heterograph
from provender.producers.graph import TripleGraph


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


@pytest.fixture
def graph() -> TripleGraph:
    relations = (
        Relation("to", "user", "pin"),
        Relation("page visit.2", "pin", "page"),
        Relation("page-visit.2", "pin", "page"),
    )
    keys = {"user": pa.array([1, 2]), "pin": pa.array([5, 6, 7]), "page": pa.array(["x"])}
    return TripleGraph(
        relations,
        {**keys, "lonely": pa.array([1])},
        head=torch.tensor([0, 1, 1, 2, 4]),
        tail=torch.tensor([2, 2, 4, 5, 5]),
        relation=torch.tensor([0, 0, 0, 1, 2]),
        weight=torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0]),
    )


def test_nodes_edges_and_weights(graph: TripleGraph) -> None:
    heterograph = to_heterograph(graph)
    assert {t: heterograph.num_nodes(t) for t in heterograph.ntypes} == {
        "user": 2,
        "pin": 3,
        "page": 1,
    }
    clicks = edge_type(graph, 0)
    heads, tails = heterograph.edges(etype=clicks)
    assert (heads.tolist(), tails.tolist()) == ([0, 1, 1], [0, 0, 2])
    assert heterograph.edges[clicks].data["weight"].tolist() == [1.0, 2.0, 0.5]


def test_names_are_safe_and_stay_apart(graph: TripleGraph) -> None:
    names = [edge_type(graph, index)[1] for index in range(3)]
    assert names == ["r0_to", "r1_page_visit_2", "r2_page_visit_2"]


def test_summary(graph: TripleGraph) -> None:
    assert summarise(graph) == [
        RelationSummary("to", "user", "pin", edges=3, heads=2, tails=2),
        RelationSummary("page visit.2", "pin", "page", edges=1, heads=1, tails=1),
        RelationSummary("page-visit.2", "pin", "page", edges=1, heads=1, tails=1),
    ]
