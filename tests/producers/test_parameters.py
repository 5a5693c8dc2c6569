"""Rows as a relation sees them, vectors by key, and the rotation that changes no score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters, principal_axes, rotate
from provender.producers.scores import SCORES


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (Relation("click", "user", "pin"), Relation("save", "user", "pin"))


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _parameters(model: str, entities: int = 60, dim: int = 4) -> Parameters:
    relation = {
        name: _randn(2, *shape, seed=1 + i)
        for i, (name, shape) in enumerate(SCORES[model].shapes(dim).items())
    }
    return Parameters(model, _randn(entities, dim), relation)


def _graph(users: int, pins: int) -> TripleGraph:
    none = torch.zeros(0, dtype=torch.int64)
    keys = {"user": pa.array(np.arange(users)), "pin": pa.array([f"p{i}" for i in range(pins)])}
    return TripleGraph(RELATIONS, keys, none, none, none, torch.zeros(0))


@pytest.mark.parametrize("model", SCORES)
def test_left_against_right_is_the_score_of_that_relation(model: str) -> None:
    parameters = _parameters(model)
    h, t = parameters.entity[:3], parameters.entity[3:8]
    crossed = parameters.cross(parameters.left(1, h), parameters.right(1, t))
    relation = {name: values[1] for name, values in parameters.relation.items()}
    if "deviation" in relation:
        M = torch.eye(4) + relation["deviation"]
        difference = (h @ M + relation["translation"]).unsqueeze(1) - (t @ M).unsqueeze(0)
    elif "translation" in relation:
        difference = (h + relation["translation"]).unsqueeze(1) - t.unsqueeze(0)
    elif model == "distmult":
        torch.testing.assert_close(crossed, (h * (1 + relation["diagonal"])) @ t.T)
        return
    else:
        a, b = (torch.complex(*rows.chunk(2, dim=1)) for rows in (h, t))
        if model == "complex":
            factor = 1 + torch.complex(*relation["diagonal"].chunk(2))
            torch.testing.assert_close(crossed, ((a * factor) @ b.conj().T).real)
            return
        difference = (a * torch.exp(1j * relation["phase"])).unsqueeze(1) - b.unsqueeze(0)
    wanted = -difference.abs().square().sum(-1)
    torch.testing.assert_close(crossed, wanted, rtol=1e-4, atol=1e-4)
    backwards = parameters.cross(parameters.right(1, t), parameters.left(1, h))
    torch.testing.assert_close(backwards, crossed.T, rtol=1e-4, atol=1e-4)


def test_a_projection_that_is_the_identity_is_left_out() -> None:
    parameters = _parameters("transra")
    parameters.relation["deviation"][0] = 0.0
    assert sorted(parameters.of(0)) == ["translation"]
    assert sorted(parameters.of(1)) == ["deviation", "translation"]
    assert torch.equal(parameters.right(0, parameters.entity), parameters.entity)


@pytest.mark.parametrize("model", ["transe", "transra"])
def test_rotating_changes_no_score_and_sorts_directions(model: str) -> None:
    drawn = _parameters(model)
    parameters = Parameters(
        model, drawn.entity * torch.tensor([0.1, 3.0, 1.0, 0.5]), drawn.relation
    )
    rotation = principal_axes(parameters, _graph(30, 30))
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(4), atol=1e-5, rtol=0)
    copy = Parameters(model, parameters.entity.clone(), parameters.relation)
    turned = rotate(copy, rotation)
    assert sorted(turned.relation) == sorted(parameters.relation)
    spread = turned.entity[:30].var(0) + turned.entity[30:].var(0)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)
    for relation in range(2):
        scores = [
            p.cross(p.left(relation, p.entity[:30]), p.right(relation, p.entity))
            for p in (parameters, turned)
        ]
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-3)


def test_vectors_are_exported_by_type_and_key() -> None:
    parameters = _parameters("distmult", entities=5)
    graph = _graph(2, 3)
    pins = parameters.vectors(graph, "pin")
    assert pins.keys.to_pylist() == ["p0", "p1", "p2"]
    assert pins.vectors.dtype == np.float32
    assert pins.vectors.tolist() == parameters.entity[2:].tolist()
    with pytest.raises(KeyError):
        parameters.vectors(graph, "page")


def test_relations_are_exported_by_name() -> None:
    parameters = _parameters("transr")
    named = parameters.by_name(_graph(2, 3))
    assert list(named) == ["click", "save"]
    assert torch.equal(named["save"]["deviation"], parameters.relation["deviation"][1])
    assert torch.equal(named["click"]["translation"], parameters.relation["translation"][0])
