"""Facets against each model's formula, and what can be none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec
from provender.producers.event_set import Relation
from provender.producers.facets import end_of, facet_vectors
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.scores import SCORES, identity

RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("buy", "user", "item"),
    Relation("similar", "pin", "pin"),
)
KEYS = {"user": 4, "pin": 5, "item": 3}
Floats = NDArray[np.float64]
Own = dict[str, Floats]


def _view(entity: str, facet: str | None) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=f"{entity}_seen",
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=6,
        space="somewhere",
        producer="transra",
        ttl=timedelta(days=1),
        facet=facet,
    )


def _graph() -> TripleGraph:
    none = torch.zeros(0, dtype=torch.int64)
    keys = {each: pa.array([10 * i for i in range(count)]) for each, count in KEYS.items()}
    return TripleGraph(RELATIONS, keys, none, none, none, torch.zeros(0))


def _parameters(model: str, dim: int, seed: int) -> Parameters:
    draw = torch.Generator().manual_seed(seed)
    relation = {
        name: torch.randn(values.shape, generator=draw)
        for name, values in identity(model, len(RELATIONS), dim).items()
    }
    return Parameters(model, torch.randn(sum(KEYS.values()), dim, generator=draw), relation)


# The scores, one triple at a time, as the papers write them ----------------------------------


def _transr(h: Floats, t: Floats, own: Own) -> float:
    m = np.eye(len(h)) + own.get("deviation", np.zeros((len(h), len(h))))
    return -float(np.sum((h @ m + own["translation"] - t @ m) ** 2))


def _rotate(h: Floats, t: Floats, own: Own) -> float:
    turned = _complex(h) * np.exp(1j * own["phase"])
    return -float(np.sum(np.abs(turned - _complex(t)) ** 2))


def _distmult(h: Floats, t: Floats, own: Own) -> float:
    return float(np.sum(h * (1 + own["diagonal"]) * t))


def _complex_dot(h: Floats, t: Floats, own: Own) -> float:
    return float(np.sum(_complex(h) * (1 + _complex(own["diagonal"])) * _complex(t).conj()).real)


def _complex(values: Floats) -> NDArray[np.complex128]:
    half = len(values) // 2
    return np.asarray(values[:half] + 1j * values[half:])


FORMULAS: dict[str, Callable[[Floats, Floats, Own], float]] = {
    "transe": _transr,
    "transr": _transr,
    "transra": _transr,
    "rotate": _rotate,
    "distmult": _distmult,
    "complex": _complex_dot,
}


def test_every_model_is_tested() -> None:
    assert set(FORMULAS) == set(SCORES)


@given(
    model=st.sampled_from(sorted(FORMULAS)),
    half=st.integers(1, 4),
    seed=st.integers(0, 1000),
    relation=st.sampled_from(RELATIONS),
)
@settings(max_examples=60, deadline=None)
def test_the_similarity_of_two_facets_is_the_score(
    model: str, half: int, seed: int, relation: Relation
) -> None:
    graph, parameters = _graph(), _parameters(model, 2 * half, seed)
    heads = facet_vectors(_view(relation.head, f"{relation.name}/head"), parameters, graph)
    tails = facet_vectors(_view(relation.tail, f"{relation.name}/tail"), parameters, graph)

    found = parameters.cross(torch.from_numpy(heads.vectors), torch.from_numpy(tails.vectors))

    index = RELATIONS.index(relation)
    own = {name: v[index].double().numpy() for name, v in parameters.relation.items()}
    rows = parameters.entity.double().numpy()
    expected = [
        [FORMULAS[model](h, t, own) for t in rows[graph.span(relation.tail)]]
        for h in rows[graph.span(relation.head)]
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert heads.keys.equals(graph.keys[relation.head])
    assert {heads.vectors.dtype, tails.vectors.dtype} == {np.dtype(np.float32)}


def test_without_a_facet_vectors_are_raw() -> None:
    graph, parameters = _graph(), _parameters("transra", 6, 0)
    found = facet_vectors(_view("pin", None), parameters, graph)
    assert found.keys.equals(graph.keys["pin"])
    np.testing.assert_array_equal(found.vectors, parameters.entity[graph.span("pin")].numpy())


@pytest.mark.parametrize(
    ("entity", "facet", "end"),
    [
        ("user", "click", "head"),
        ("pin", "click", "tail"),
        ("user", "buy/head", "head"),
        ("pin", "similar/head", "head"),
        ("pin", "similar/tail", "tail"),
    ],
)
def test_the_end_follows_from_the_entity(entity: str, facet: str, end: str) -> None:
    assert end_of(_view(entity, facet), RELATIONS) == end


@pytest.mark.parametrize(
    ("entity", "facet", "line"),
    [
        ("user", "checkout", "'checkout'; expected a relation that is learned from: click, buy, "),
        ("pin", "buy", "'buy', and buy leads from user to item; expected pin at an end of it"),
        ("user", "click/tail", "click leads from user to pin; expected user at tail of it"),
        (
            "pin",
            "similar",
            "'similar', and pin is both its head and its tail; "
            "expected 'similar/head' or 'similar/tail'.",
        ),
    ],
)
def test_what_can_be_no_facet(entity: str, facet: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        end_of(_view(entity, facet), RELATIONS)
    told = str(caught.value)
    assert told.startswith(f"embedding view {entity}_seen_v1, facet: found ")
    assert line in told
    assert "\n" not in told
