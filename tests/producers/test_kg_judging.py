"""Rankings against nested loops over all candidates by name, and means over every tie-break."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provender.plugin.errors import SourceError, TrainingError
from provender.producers import link_ranking
from provender.producers.kg_data import LinkSets, number_links
from provender.producers.kg_judging import HeadJudge, LinkJudge, model_scorer
from provender.producers.link_ranking import End, RelationScorer, Scorer
from provender.producers.parameters import Parameters
from provender.producers.scores import SCORES, identity
from provender.producers.transra_config import TransRAConfig
from tests.producers.test_kg_data import named

Row = tuple[str, str, str]
Score = Callable[[str, str, str], float]

ROWS = st.lists(st.tuples(*[st.sampled_from(names) for names in ("abcde", "pqs", "abcde")]))
SEEN = [("a", "p", "b"), ("b", "q", "c"), ("c", "p", "d")]


def _few_scores(salt: int, sets: LinkSets) -> Score:
    """Few different scores, so that many are level; minus infinity for what is unseen."""
    one = sets.relations[0]
    seen_heads = set(sets.keys[one.head].to_pylist()[: sets.seen[one.head]])
    seen_tails = set(sets.keys[one.tail].to_pylist()[: sets.seen[one.tail]])
    seen_relations = {each.name for each in sets.relations[: sets.seen_relations]}

    def score(head: str, relation: str, tail: str) -> float:
        if head in seen_heads and tail in seen_tails and relation in seen_relations:
            return float(zlib.crc32(f"{salt} {head} {relation} {tail}".encode()) % 3)
        return -math.inf

    return score


def _scorer(score: Score, sets: LinkSets) -> Scorer:
    """The same scores as tables of what is seen."""

    def one(relation: int) -> RelationScorer | None:
        kind = sets.relations[relation]
        heads = sets.keys[kind.head].to_pylist()[: sets.seen[kind.head]]
        tails = sets.keys[kind.tail].to_pylist()[: sets.seen[kind.tail]]
        table = torch.tensor([[score(head, kind.name, tail) for tail in tails] for head in heads])

        def scores(answer: End, asked: Tensor) -> Tensor:
            return table[asked] if answer == "tail" else table.T[asked]

        return scores if relation < sets.seen_relations else None

    return one


def _ranks(true: float, others: list[float]) -> list[int]:
    """Every rank that the order of the level ones may give."""
    above = sum(other > true for other in others)
    return [above + 1 + place for place in range(1 + sum(other == true for other in others))]


def _loops(rows: list[Row], known: set[Row], entities: list[str], score: Score) -> dict[str, float]:
    """Filtered figures of both sides by loops over all candidates."""
    found = []
    for head, relation, tail in rows:
        heads = [(e, relation, tail) for e in entities]
        tails = [(head, relation, e) for e in entities]
        for side in (heads, tails):
            rivals = [rival for rival in side if rival not in known]
            ranks = _ranks(score(head, relation, tail), [score(*rival) for rival in rivals])
            found.append((np.mean([1 / r for r in ranks]), *_hits(ranks), np.mean(ranks)))
    names = ("mrr", "hits@1", "hits@3", "hits@10", "mean_rank")
    return dict(zip(names, np.mean(np.array(found, dtype=float), axis=0).tolist(), strict=True))


def _hits(ranks: list[int]) -> list[float]:
    return [float(np.mean([rank <= k for rank in ranks])) for k in (1, 3, 10)]


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS, ROWS.filter(bool), st.integers(0, 99), st.integers(1, 9))
def test_both_sides_equal_loops_over_all_candidates(
    train: list[Row], valid: list[Row], test: list[Row], salt: int, batch: int
) -> None:
    train = SEEN + train
    sets = number_links([named(rows) for rows in (train, valid, test) if rows])
    score = _few_scores(salt, sets)
    with patch.object(link_ranking, "SCORES", batch):
        figures = LinkJudge.of(sets, "test").figures(_scorer(score, sets))
    known, entities = {*train, *valid, *test}, sets.keys["entity"].to_pylist()
    expected = _loops(test, known, entities, score)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert figures["links"] == len(test)
    for relation, own in figures["relations"].items():
        rows = [row for row in test if row[1] == relation]
        alone = _loops(rows, known, entities, score)
        assert (own["links"], own["mrr"], own["hits@10"]) == (
            len(rows),
            pytest.approx(alone["mrr"]),
            pytest.approx(alone["hits@10"]),
        )
        assert own["mrr"] == pytest.approx((own["head_mrr"] + own["tail_mrr"]) / 2)
    for name in expected:
        assert figures[name] == pytest.approx((figures["head"][name] + figures["tail"][name]) / 2)


def _orders(scores: dict[str, float]) -> list[tuple[str, ...]]:
    return [
        order
        for order in itertools.permutations(scores)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]


def _by_head(
    truth: dict[str, set[str]], scores: dict[str, dict[str, float]], k: int
) -> list[float]:
    """Recall@k and NDCG@k, the mean over heads of the mean over every order."""
    recalls, gains = [], []
    for head, tails in truth.items():
        orders = _orders(scores[head])
        recalls.append(np.mean([len(set(order[:k]) & tails) / len(tails) for order in orders]))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(tails))))
        gain = [
            sum(1 / math.log2(i + 2) for i, tail in enumerate(order[:k]) if tail in tails)
            for order in orders
        ]
        gains.append(np.mean(gain) / ideal)
    return [float(np.mean(recalls)), float(np.mean(gains))]


PAIRS = st.lists(st.tuples(st.sampled_from("123"), st.sampled_from("12345")))


@settings(deadline=None, max_examples=25)
@given(PAIRS, PAIRS, PAIRS, st.integers(0, 99), st.integers(1, 6), st.booleans())
def test_heads_equal_every_order_of_what_they_do_not_have(
    train: list[tuple[str, str]],
    valid: list[tuple[str, str]],
    test: list[tuple[str, str]],
    salt: int,
    k: int,
    three: bool,
) -> None:
    train, test = [("1", "2"), ("2", "1"), *train], [("1", "3"), *test]
    files = [train, valid, test] if valid else [train, test]
    if {("1", "3")} & {*train, *valid}:
        return
    if three:  # Other relations have other tails: these are no candidates.
        rows = [[(h, "r", t) for h, t in rows] for rows in files]
        rows[0] += [("1", "other", "x"), ("x", "other", "5")]
        sets = number_links([named(each) for each in rows], relation="r")
    else:
        sets = number_links([named(each) for each in files], relation="r")
    score = _few_scores(salt, sets)
    judge = HeadJudge.of(sets, "test")
    candidates = {tail for rows in files for _, tail in rows}
    former: dict[str, set[str]] = {h: {t for g, t in train + valid if g == h} for h in "123"}
    truth = {h: {t for g, t in test if g == h} - former[h] for h in "123"}
    truth = {h: tails for h, tails in truth.items() if tails}
    scores = {h: {t: score(h, "r", t) for t in candidates - former[h]} for h in truth}
    recall, gain = _by_head(truth, scores, k)
    expected = {f"recall@{k}": recall, f"ndcg@{k}": gain, "heads": len(truth)}
    expected["links"] = sum(map(len, truth.values()))
    assert judge.figures(_scorer(score, sets), [k]) == pytest.approx(expected)
    counts = {t: sum(each == t for _, each in train) for t in candidates}
    seen = {t for _, t in train} | ({h for h, _ in train} | {"5", "x"} if three else set())
    popular = {t: float(counts[t]) if t in seen else -math.inf for t in candidates}
    scores = {h: {t: popular[t] for t in candidates - former[h]} for h in truth}
    recall, gain = _by_head(truth, scores, k)
    floor = judge.popularity([k])
    assert (floor[f"recall@{k}"], floor[f"ndcg@{k}"]) == pytest.approx((recall, gain))


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("model", SCORES)
def test_a_model_is_ranked_by_its_formula(model: str, two: bool) -> None:
    train = [(h, r, t) for h, t in ("ab", "bc", "cd", "da") for r in "pq"]
    test = [("a", "p", "c"), ("b", "q", "d"), ("d", "q", "b")]
    sets = number_links([named(train), named(test)], one_type=not two)
    graph = sets.graph(TransRAConfig(anchor_relation=None, degree_cap=None))
    generator = torch.Generator().manual_seed(3)
    relation = {
        name: torch.randn(values.shape, generator=generator)
        for name, values in identity(model, 2, 4).items()
    }
    parameters = Parameters(model, torch.randn(graph.entities, 4, generator=generator), relation)

    def score(head: str, name: str, tail: str) -> float:
        index = graph.index_of(name)
        kind = graph.relations[index]
        rows = [
            parameters.entity[graph.offsets[entity] + graph.keys[entity].index(key).as_py()]
            for entity, key in ((kind.head, head), (kind.tail, tail))
        ]
        own = {each: values[index].double() for each, values in relation.items()}
        return _formula(model, rows[0].double(), rows[1].double(), own)

    figures = LinkJudge.of(sets, "test").figures(model_scorer(parameters, graph))
    expected = _loops(test, {*train, *test}, list("abcd"), score)
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def _formula(model: str, head: Tensor, tail: Tensor, own: dict[str, Tensor]) -> float:
    if model == "distmult":
        return float((head * (1 + own["diagonal"]) * tail).sum())
    if model in ("complex", "rotate"):
        h, t = (torch.complex(*row.chunk(2)) for row in (head, tail))
        if model == "complex":
            return float((h * (1 + torch.complex(*own["diagonal"].chunk(2))) * t.conj()).sum().real)
        return -float((h * torch.exp(1j * own["phase"]) - t).abs().square().sum())
    M = torch.eye(len(head), dtype=torch.float64) + own.get("deviation", torch.zeros(1))
    return -float((head @ M + own["translation"] - tail @ M).square().sum())


def test_constant_scores_gain_nothing() -> None:
    train = [("a", "p", "b"), ("b", "p", "c"), ("c", "p", "d")]
    sets = number_links([named(train), named([("a", "p", "c")])])
    figures = LinkJudge.of(sets, "test").figures(
        lambda _: lambda _, asked: torch.ones(len(asked), 4)
    )
    # b is known for (a, p) and for c, so that a, c and d are left on either side.
    assert figures["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (figures["hits@1"], figures["mean_rank"]) == (pytest.approx(1 / 3), 2.0)


def test_scores_that_are_no_numbers_are_refused() -> None:
    sets = number_links([named(SEEN), named([("a", "p", "c")])])
    with pytest.raises(TrainingError, match="no numbers"):
        LinkJudge.of(sets, "test").mrr(
            lambda _: lambda _, asked: torch.full((len(asked), 4), math.nan)
        )


def test_a_sample_is_drawn_once_and_whole() -> None:
    rows = [(str(i), str(j)) for i in range(9) for j in range(4)]
    sets = number_links([named(rows), named([(str(i), str(j)) for i in range(9) for j in (5, 6)])])
    sample, again = (HeadJudge.of(sets, "test", most=4, seed=1).links for _ in range(2))
    assert sample.head.unique(return_counts=True)[1].tolist() == [2, 2, 2, 2]
    assert sample.head.tolist() == again.head.tolist()
    assert len(LinkJudge.of(sets, "test", most=5).links) == 5


def test_test_links_that_training_has_leave_nothing_to_rank() -> None:
    sets = number_links([named([("1", "2")]), named([("1", "2")])])
    with pytest.raises(SourceError, match="none that the training links lack"):
        HeadJudge.of(sets, "test")
