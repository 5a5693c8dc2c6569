"""Placing the unseen: ridge regressions, against NumPy's least squares on the stacked equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers import inductive
from provender.producers.event_set import Relation
from provender.producers.graph import TripleGraph
from provender.producers.inductive import Prior, fold_in, link_noise, regress, type_means
from provender.producers.parameters import Parameters
from provender.producers.scores import identity

DIM = 4
DISTANCES = ("transe", "transr", "transra", "rotate")
RELATIONS = (Relation("click", "user", "pin"), Relation("likes", "user", "user"))


@dataclass(frozen=True)
class Case:
    """Users 0..n-1 and pins after them, some of both unseen, with random links."""

    parameters: Parameters
    graph: TripleGraph
    known: Tensor
    prior: Prior


def case(seed: int, model: str = "transra", users: int = 6, pins: int = 5, links: int = 25) -> Case:
    draw = np.random.default_rng(seed)
    count = users + pins
    relation = np.sort(draw.integers(0, 2, links))
    head = draw.integers(0, users, links)
    tail = np.where(relation == 0, users + draw.integers(0, pins, links), draw.integers(0, users))
    graph = TripleGraph(
        relations=RELATIONS,
        keys={"user": pa.array(range(users)), "pin": pa.array(range(pins))},
        head=torch.from_numpy(head),
        tail=torch.from_numpy(tail),
        relation=torch.from_numpy(relation),
        weight=torch.from_numpy(draw.uniform(0.1, 2, links).astype(np.float32)),
    )
    relations = {
        name: torch.from_numpy(draw.normal(size=values.shape)).float() * 0.5
        for name, values in identity(model, 2, DIM).items()
    }
    known = torch.from_numpy(draw.random(count) < 0.6)
    rows = torch.from_numpy(draw.normal(size=(count, DIM))).float()
    rows[~known] = torch.nan  # Nobody may read them.
    prior = Prior(torch.randn(count, DIM), torch.rand(count) + 0.1)
    return Case(Parameters(model, rows, relations), graph, known, prior)


def stacked(one: Case, entity: int, rows: Tensor, usable: Tensor) -> Any:
    """The entity's row by NumPy: every link's equation under the other, and the prior's."""
    noise = link_noise(one.parameters, one.graph, one.known)
    left, right = [], []
    unit = torch.eye(DIM)
    for edge in range(one.graph.edges):
        head, tail, relation = (
            int(part[edge]) for part in (one.graph.head, one.graph.tail, one.graph.relation)
        )
        ends = [
            (head, tail, one.parameters.left, one.parameters.right),
            (tail, head, one.parameters.right, one.parameters.left),
        ]
        for own, other, mine, place in ends:
            if own == entity and usable[other]:
                offset = mine(relation, torch.zeros(1, DIM))
                slope = mine(relation, unit) - offset
                root = float(one.graph.weight[edge] / noise[relation]) ** 0.5
                left.append(root * slope.T.double().numpy())
                y = place(relation, rows[other : other + 1]) - offset
                right.append(root * y[0].double().numpy())
    root = float(one.prior.variance[entity]) ** -0.5
    left.append(root * np.eye(DIM))
    right.append(root * one.prior.mean[entity].double().numpy())
    return np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(DISTANCES))
def test_one_hop_is_the_least_squares_of_all_links(seed: int, model: str) -> None:
    one = case(seed, model)
    found = fold_in(one.parameters, one.graph, one.known, one.prior, hops=1)
    assert torch.equal(found[one.known], one.parameters.entity[one.known])
    for entity in torch.nonzero(~one.known).flatten().tolist():
        expected = stacked(one, entity, one.parameters.entity, one.known)
        assert found[entity].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_the_second_hop_counts_links_among_the_unseen(seed: int) -> None:
    one = case(seed)
    first = fold_in(one.parameters, one.graph, one.known, one.prior, hops=1)
    found = fold_in(one.parameters, one.graph, one.known, one.prior, hops=2)
    everybody = torch.ones_like(one.known)
    for entity in torch.nonzero(~one.known).flatten().tolist():
        expected = stacked(one, entity, first, everybody)
        assert found[entity].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = case(3, users=40, pins=30, links=300)
    whole = fold_in(one.parameters, one.graph, one.known, one.prior)
    monkeypatch.setattr(inductive, "_BLOCK", 7)
    parts = fold_in(one.parameters, one.graph, one.known, one.prior)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_without_links_the_prior_stands() -> None:
    one = case(5, links=0)
    found = fold_in(one.parameters, one.graph, one.known, one.prior)
    assert torch.allclose(found[~one.known], one.prior.mean[~one.known], atol=1e-6)


def test_an_exact_neighbour_weighs_all_a_noisy_one_nothing() -> None:
    """One link: the row lies between p and n - r, by their variances."""
    graph = TripleGraph(
        relations=RELATIONS[:1],
        keys={"user": pa.array([0, 1]), "pin": pa.array([0])},
        head=torch.tensor([0, 1]),
        tail=torch.tensor([2, 2]),
        relation=torch.tensor([0, 0]),
        weight=torch.tensor([1.0, 1.0]),
    )
    r = torch.tensor([[1.0, 0.0]])
    rows = torch.tensor([[0.0, 0.0], [torch.nan] * 2, [1.0, 2.0]])
    known = torch.tensor([True, False, True])
    parameters = Parameters("transe", rows, {"translation": r})
    assert link_noise(parameters, graph, known).tolist() == [2.0]  # |(1, 0) - (1, 2)|^2 / 2
    prior = Prior(torch.zeros(3, 2), torch.full((3,), 6.0))
    found = fold_in(parameters, graph, known, prior)
    # n - r = (0, 2), its variance 2 against 6.
    assert found[1].tolist() == pytest.approx([0.0, 2.0 * 6 / (6 + 2)])


def test_a_type_is_expected_at_its_mean() -> None:
    one = case(1)
    found = type_means(one.parameters.entity, one.known, one.graph)
    for entity in ("user", "pin"):
        span = one.graph.span(entity)
        rows = one.parameters.entity[span][one.known[span]]
        assert torch.allclose(found.mean[span], rows.mean(0).expand_as(found.mean[span]))
        assert found.variance[span][0] == pytest.approx(float(rows.var(0, correction=0).mean()))


def test_a_dot_product_has_no_place() -> None:
    one = case(1, "distmult")
    with pytest.raises(ConfigError, match="distmult"):
        fold_in(one.parameters, one.graph, one.known, one.prior)


class TestRegression:
    def test_a_line_is_found(self) -> None:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(200, 3, generator=draw)
        slope = torch.randn(3, 2, generator=draw)
        found = regress(x, x @ slope + 5)
        assert torch.allclose(found(x[:9]).float(), x[:9] @ slope + 5, atol=1e-2)
        assert found.variance < 1e-4

    def test_noise_is_told_by_the_mean(self) -> None:
        draw = torch.Generator().manual_seed(0)
        x, y = torch.randn(400, 30, generator=draw), torch.randn(400, 2, generator=draw)
        found = regress(x, y)
        assert (found(x).float() - y.mean(0)).abs().max() < 0.5
        assert found.variance == pytest.approx(1.0, abs=0.2)

    def test_the_closed_form_is_the_least_squares_with_a_penalty(self) -> None:
        x, y = (torch.randn(20, size, dtype=torch.float64) for size in (3, 2))
        found = inductive._ridge(x, y, 0.5)
        away, aim = (x - x.mean(0)).numpy(), (y - y.mean(0)).numpy()
        root = (0.5 * np.square(away).mean() * len(x)) ** 0.5
        left = np.concatenate([away, root * np.eye(3)])
        right = np.concatenate([aim, np.zeros((3, 2))])
        expected = np.linalg.lstsq(left, right, rcond=None)[0]
        assert found.slope.numpy() == pytest.approx(expected)

    def test_one_column_that_never_changes_tells_nothing(self) -> None:
        x, y = torch.ones(30, 1), torch.randn(30, 2)
        assert torch.allclose(regress(x, y)(x).float(), y.mean(0).expand(30, 2), atol=1e-4)
