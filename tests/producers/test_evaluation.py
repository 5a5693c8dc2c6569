"""Ranks against a naive average over tie-breaks; the floors by hand."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.producers.evaluation import EvaluationReport, next_day, popularity, rank
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (Relation("click", "user", "pin"), Relation("save", "user", "pin"))


def _graph(clicks: list[tuple[int, int]], users: int = 2, pins: int = 4) -> TripleGraph:
    clicks = sorted(clicks)
    return TripleGraph(
        RELATIONS,
        {"user": pa.array(range(users)), "pin": pa.array(range(pins))},
        head=torch.tensor([head for head, _ in clicks]),
        tail=torch.tensor([tail + users for _, tail in clicks]),
        relation=torch.zeros(len(clicks), dtype=torch.int64),
        weight=torch.ones(len(clicks)),
    )


def _window(triples: list[tuple[int, int, int]]) -> pa.Table:
    columns = zip(*triples, strict=True)
    return pa.table(dict(zip(("relation", "head", "tail"), map(list, columns), strict=True)))


def _parameters(seed: int = 0) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    deviation = torch.randn(2, 3, 3, generator=generator)
    deviation[0] = 0.0
    relation = {"translation": torch.randn(2, 3, generator=generator), "deviation": deviation}
    return Parameters("transra", torch.randn(6, 3, generator=generator), relation)


def _naive(scores: list[list[float]], truth: dict[int, list[int]], k: int) -> list[float]:
    """MRR, Hits@k and Recall@k, the mean over every order that respects the scores."""
    reciprocal, hits, recalls = [], [], []
    for head, tails in truth.items():
        row = scores[head]
        orders = [
            order
            for order in itertools.permutations(range(len(row)))
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
        ]
        found = [len(set(order[:k]) & set(tails)) / len(tails) for order in orders]
        recalls.append(np.mean(found))
        for tail in tails:
            kept = [[e for e in order if e == tail or e not in tails] for order in orders]
            ranks = [order.index(tail) + 1 for order in kept]
            reciprocal.append(np.mean([1 / r for r in ranks]))
            hits.append(np.mean([r <= k for r in ranks]))
    return [float(np.mean(values)) for values in (reciprocal, hits, recalls)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=3, max_size=3),
    st.dictionaries(
        st.integers(0, 2),
        st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True),
        min_size=1,
    ),
    st.integers(1, 6),
)
def test_ranks_equal_the_mean_over_all_tie_breaks(
    scores: list[list[int]], truth: dict[int, list[int]], k: int
) -> None:
    table = torch.tensor(scores, dtype=torch.float32)
    ranking = rank(
        lambda heads: table[heads],
        [(head, np.array(tails)) for head, tails in truth.items()],
        5,
        hits=[k],
        recalls=[k],
        batch=2,
    )
    naive = _naive([[float(x) for x in row] for row in scores], truth, k)
    assert [ranking.mrr, ranking.hits[k], ranking.recall[k]] == pytest.approx(naive)


def test_the_model_equals_a_naive_loop() -> None:
    graph, parameters = _graph([(0, 1)]), _parameters()
    pairs = [(0, 1), (0, 3), (1, 0)]
    report = next_day(
        parameters, graph, _window([(0, *pair) for pair in pairs]), hits=[2], recalls=[2]
    )
    r = parameters.relation["translation"][0]
    scores = [
        [
            -sum(float(parameters.entity[head][i] + r[i] - t[i]) ** 2 for i in range(3))
            for t in parameters.entity[2:]
        ]
        for head in range(2)
    ]
    truth = defaultdict(list)
    for head, tail in pairs:
        truth[head].append(tail)
    model = report["click"].model
    assert [model.mrr, model.hits[2], model.recall[2]] == pytest.approx(_naive(scores, truth, 2))


def test_projections_are_used_in_ranking() -> None:
    parameters, graph = _parameters(), _graph([(0, 1)])
    saves = TripleGraph(
        RELATIONS,
        graph.keys,
        graph.head,
        graph.tail,
        torch.ones(1, dtype=torch.int64),
        graph.weight,
    )
    report = next_day(parameters, saves, _window([(1, 0, 2)]), hits=[1], recalls=[1])
    M = torch.eye(3) + parameters.relation["deviation"][1]
    wanted = parameters.entity[0] @ M + parameters.relation["translation"][1]
    distances = [float((wanted - t @ M).square().sum()) for t in parameters.entity[2:]]
    place = sorted(distances).index(distances[2]) + 1
    assert report["save"].model.mrr == pytest.approx(1 / place)


def test_dot_products_rank_by_size_and_direction() -> None:
    """Re <h * (1 + r), conj t>, by Python's own complex numbers."""
    generator = torch.Generator().manual_seed(1)
    entity = torch.randn(6, 4, generator=generator)
    diagonal = torch.randn(2, 4, generator=generator)
    parameters = Parameters("complex", entity, {"diagonal": diagonal})
    report = next_day(parameters, _graph([(0, 1)]), _window([(0, 1, 2)]), hits=[1], recalls=[1])
    rows = [[complex(a, b) for a, b in zip(x[:2], x[2:], strict=True)] for x in entity.tolist()]
    r = [complex(a, b) for a, b in zip(diagonal[0, :2], diagonal[0, 2:], strict=True)]
    scores = [
        sum((a * (1 + b) * c.conjugate()).real for a, b, c in zip(rows[1], r, t, strict=True))
        for t in rows[2:]
    ]
    place = sorted(scores, reverse=True).index(scores[2]) + 1
    assert report["click"].model.mrr == pytest.approx(1 / place)


def test_popularity_and_chance_by_hand() -> None:
    graph = _graph([(0, 0), (1, 0), (0, 1), (0, 2)])
    assert popularity(graph, 0).tolist() == [2, 1, 1, 0]
    report = next_day(_parameters(), graph, _window([(0, 1, 1)]), hits=[2], recalls=[2, 3])
    one = report["click"]
    # Pin 1 is second or third, with the same chance; at random it is anywhere among four.
    assert one.popularity.mrr == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert one.popularity.hits == {2: pytest.approx(0.5)}
    assert one.popularity.recall == {2: pytest.approx(0.5), 3: pytest.approx(1.0)}
    assert one.random.mrr == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert one.random.recall == {2: pytest.approx(0.5), 3: pytest.approx(0.75)}
    assert (one.heads, one.pairs, one.candidates) == (1, 1, 4)


def test_repeated_events_count_once_and_unlearned_relations_not_at_all() -> None:
    graph = _graph([(0, 0)])
    once = next_day(_parameters(), graph, _window([(0, 0, 1), (0, 1, 2)]))
    twice = next_day(_parameters(), graph, _window([(0, 0, 1)] * 5 + [(0, 1, 2), (1, 0, 0)]))
    assert once == twice
    assert [one.relation for one in twice.relations] == ["click"]


def test_an_empty_window_gives_an_empty_report() -> None:
    empty = pa.table({name: pa.array([], pa.int64()) for name in ("relation", "head", "tail")})
    assert next_day(_parameters(), _graph([(0, 0)]), empty) == EvaluationReport(())


def test_heads_are_sampled_with_all_their_tails() -> None:
    graph = _graph([(0, 0)], users=50, pins=4)
    parameters = Parameters("transe", torch.randn(54, 3), {"translation": torch.zeros(2, 3)})
    window = _window([(0, head, tail) for head in range(50) for tail in (1, 3)])
    reports = [next_day(parameters, graph, window, max_heads=7, seed=1) for _ in range(2)]
    assert (reports[0]["click"].heads, reports[0]["click"].pairs) == (7, 14)
    assert reports[0] == reports[1]


def test_flat_metrics() -> None:
    report = next_day(_parameters(), _graph([(0, 0)]), _window([(0, 0, 1)]))
    metrics = report.metrics()
    assert metrics["click/model/mrr"] == report["click"].model.mrr
    assert metrics["click/popularity/recall@100"] == 1.0
    assert metrics["click/random/hits@10"] == 1.0
    assert metrics["click/pairs"] == 1.0
