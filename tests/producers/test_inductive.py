"""Placing the unseen: against the plainest minimiser of the same objective, entity by entity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.producers import inductive
from provender.producers.event_set import Relation
from provender.producers.graph import TripleGraph
from provender.producers.inductive import Expected, fold_in, regress, type_means
from provender.producers.parameters import Parameters
from provender.producers.scores import SCORES, identity

DIM, SCALE = 4, 2.0
RELATIONS = (Relation("click", "user", "pin"), Relation("likes", "user", "user"))


@dataclass(frozen=True)
class Case:
    """Users 0..n-1 and pins after them, some of both unseen, with random links."""

    parameters: Parameters
    graph: TripleGraph
    known: Tensor
    expected: Expected

    def placed(self, rounds: int = 1) -> Tensor:
        return fold_in(
            self.parameters, self.graph, self.known, self.expected, scale=SCALE,
            weights=lambda relation: {"click": 1.0, "likes": 0.5}[relation], rounds=rounds,
        )  # fmt: skip


def case(seed: int, model: str = "transra", users: int = 5, pins: int = 4, links: int = 12) -> Case:
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
    known[[0, users]] = True
    rows = torch.from_numpy(draw.normal(size=(count, DIM))).float()
    rows[~known] = torch.nan  # Nobody may read them.
    expected = Expected(
        torch.from_numpy(draw.normal(size=(count, DIM))).float(),
        torch.from_numpy(draw.uniform(1, 3, count)).float(),
    )
    return Case(Parameters(model, rows, relations), graph, known, expected)


def objective(one: Case, entity: int, x: Tensor, rows: Tensor, usable: Tensor) -> Tensor:
    """What the module's docstring says, link by link; all known are candidates."""
    p = one.parameters
    total = one.expected.pull[entity] * (x - one.expected.rows[entity]).square().sum()
    for edge in range(one.graph.edges):
        head, tail, r = (
            int(part[edge]) for part in (one.graph.head, one.graph.tail, one.graph.relation)
        )
        of_relation = one.graph.weight[one.graph.relation == r]
        weight = float(one.graph.weight[edge]) * (1.0, 0.5)[r] / of_relation.mean()

        for own, other, is_head in ((head, tail, True), (tail, head, False)):
            if own == entity and usable[other]:
                span = one.graph.span(getattr(RELATIONS[r], "tail" if is_head else "head"))
                candidates = p.entity[span][one.known[span]]
                others = torch.cat([rows[other : other + 1], candidates])
                mine, theirs = (p.left, p.right) if is_head else (p.right, p.left)
                scores = SCALE * p.cross(mine(r, x[None]), theirs(r, others))[0]
                total = total + weight * (scores.logsumexp(0) - scores[0])
    return total


def minimised(one: Case, entity: int, rows: Tensor, usable: Tensor) -> Tensor:
    x = one.expected.rows[entity].clone().requires_grad_()
    search = torch.optim.LBFGS([x], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(one, entity, x, rows, usable)
        value.backward()
        return value

    search.step(closure)
    return x.detach()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as it takes."""
    monkeypatch.setattr(inductive, "STEPS", 500)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("model", SCORES)
def test_the_steps_lead_to_the_minimum(model: str) -> None:
    one = case(list(SCORES).index(model), model)
    found = one.placed()
    assert torch.equal(found[one.known], one.parameters.entity[one.known])
    for entity in torch.nonzero(~one.known).flatten().tolist():
        expected = minimised(one, entity, one.parameters.entity, one.known)
        assert torch.allclose(found[entity], expected, atol=5e-3)


@pytest.mark.usefixtures("patient")
def test_the_second_round_counts_links_among_the_unseen() -> None:
    one = case(7)
    first, found = one.placed(), one.placed(rounds=2)
    assert not torch.equal(first, found)
    everybody = torch.ones_like(one.known)
    for entity in torch.nonzero(~one.known).flatten().tolist():
        expected = minimised(one, entity, first, everybody)
        assert torch.allclose(found[entity], expected, atol=5e-3)


def test_each_is_placed_as_if_alone() -> None:
    """In the first round the other unseen ones' links say nothing."""
    one = case(3, users=30, pins=20, links=120)
    found = one.placed()
    click, likes = (one.graph.relation == relation for relation in (0, 1))
    for entity in torch.nonzero(~one.known).flatten()[:5].tolist():
        here = one.known.clone()
        here[entity] = True
        ours = here[one.graph.head] & here[one.graph.tail]
        weight = torch.where(ours, one.graph.weight, 0.0)
        # Weights count beside their relation's mean, which is now another.
        means = [float(weight[r].mean() / one.graph.weight[r].mean()) for r in (click, likes)]
        scaled = {"click": means[0], "likes": 0.5 * means[1]}
        graph = replace(one.graph, weight=weight)
        alone = fold_in(one.parameters, graph, one.known, one.expected, scale=SCALE,
                        weights=scaled.__getitem__, rounds=1)  # fmt: skip
        assert torch.allclose(alone[entity], found[entity], atol=1e-4)


def test_the_same_inputs_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductive, "CANDIDATES", 3)  # So that they are drawn.
    one = case(11, users=30, pins=20, links=120)
    assert torch.equal(one.placed(2), one.placed(2))


def test_drawn_candidates_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of known pins that are all alike it does not matter how many are drawn."""
    one = case(5, users=8, pins=40, links=60)
    span = one.graph.span("pin")
    one.known[span] = True
    one.parameters.entity[span] = torch.ones(DIM)
    one.known[:8] = torch.arange(8) > 3
    one.parameters.entity[4:8] = 1.0
    whole = one.placed()
    monkeypatch.setattr(inductive, "CANDIDATES", 4)
    assert torch.allclose(one.placed(), whole, atol=1e-3)


def test_without_links_everyone_is_where_expected() -> None:
    one = case(5, links=0)
    found = one.placed()
    assert torch.equal(found[~one.known], one.expected.rows[~one.known])


def test_nobody_unseen_is_nothing_to_do() -> None:
    one = case(5)
    one.known[:] = True
    one.parameters.entity[:] = 1.0
    assert torch.equal(one.placed(), one.parameters.entity)


def test_a_type_is_expected_at_its_mean() -> None:
    one = case(1)
    found = type_means(one.parameters.entity, one.known, one.graph)
    for entity in ("user", "pin"):
        span = one.graph.span(entity)
        rows = one.parameters.entity[span][one.known[span]]
        assert torch.allclose(found.rows[span], rows.mean(0).expand_as(found.rows[span]))


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
