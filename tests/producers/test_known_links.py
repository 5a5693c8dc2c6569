"""Known links against sets of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.producers.chunks import ChunkSource, EpochPlan
from provender.producers.evaluation import next_day
from provender.producers.known_links import KnownLinks, linked
from provender.producers.losses import Hits
from provender.producers.neighbours import LinkSet, Neighbours
from provender.producers.trainer import train
from tests.producers.planted import GRAPH, SMALL, WINDOW, changed, equal

Pairs = set[tuple[int, int]]
PAIRS = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20)
IDS = st.lists(st.integers(0, 7), min_size=1, max_size=8)


def _listed(hits: Hits) -> Sequence[tuple[int, int]]:
    return list(zip(*(each.tolist() for each in hits), strict=True))


def _columns(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)
    return drawn[:, 0].contiguous(), drawn[:, 1].contiguous()


@settings(deadline=None, max_examples=50)
@given(PAIRS, IDS, IDS)
def test_hits_equal_a_set_of_pairs(pairs: Pairs, own: list[int], others: list[int]) -> None:
    hit = linked(Neighbours.of(*_columns(pairs)), torch.tensor(own), torch.tensor(others))
    wanted = [(i, j) for i, a in enumerate(own) for j, b in enumerate(others) if (a, b) in pairs]
    assert (hit is None) == (not wanted)
    assert hit is None or sorted(_listed(hit)) == wanted


@settings(deadline=None, max_examples=30)
@given(PAIRS, IDS, IDS)
def test_pairs_are_found(pairs: Pairs, heads: list[int], tails: list[int]) -> None:
    links = LinkSet.of(*_columns(pairs), entities=8)
    found = links.contains(torch.tensor(heads).unsqueeze(1), torch.tensor([tails] * len(heads)))
    assert found.tolist() == [[(a, b) in pairs for b in tails] for a in heads]


def test_links_in_order_are_taken_as_they_lie() -> None:
    own, other = torch.tensor([1, 1, 4]), torch.tensor([5, 3, 2])
    assert Neighbours.of(own, other).other is other
    turned = Neighbours.of(other, own)
    assert (turned.own.tolist(), turned.other.tolist()) == ([2, 3, 5], [4, 1, 1])


def test_every_chunk_marks_what_the_graph_knows_of_its_relation() -> None:
    source = ChunkSource.prepare(GRAPH, changed(filter_negatives=True), torch.device("cpu"))
    plain = ChunkSource.prepare(GRAPH, SMALL, torch.device("cpu"))
    columns = (GRAPH.relation.tolist(), GRAPH.head.tolist(), GRAPH.tail.tolist())
    known, plan = set(zip(*columns, strict=True)), EpochPlan.cut(GRAPH, 32, 0, 0)
    for index in range(len(plan.chunks)):
        chunk = source.draw(plan, index)
        count, shared = len(chunk.weight), SMALL.negatives
        ends = chunk.rows[chunk.place].split([count, shared, shared, count])
        head, negative_head, negative_tail, tail = (each.tolist() for each in ends)
        relation = chunk.relation
        of_tails = [
            (i, j)
            for i, h in enumerate(head)
            for j, n in enumerate(negative_tail)
            if (relation, h, n) in known
        ]
        of_heads = [
            (i, j)
            for i, t in enumerate(tail)
            for j, n in enumerate(negative_head)
            if (relation, n, t) in known
        ]
        for hit, wanted in ((chunk.hit_tail, of_tails), (chunk.hit_head, of_heads)):
            assert (hit is None) == (not wanted)
            assert hit is None or sorted(_listed(hit)) == wanted
        accidental = plain.draw(plan, index).hit_tail
        if accidental is not None:  # A triple's own tail is known, so it never counts.
            assert chunk.hit_tail is not None
            assert set(_listed(accidental)) <= set(_listed(chunk.hit_tail))


@pytest.mark.parametrize("loss", ["softmax", "margin"])
def test_training_with_the_filter_finds_the_planted_structure(loss: str) -> None:
    config = changed(epochs=10, shrinkage=1.0, loss=loss)
    filtered = train(GRAPH, config.model_copy(update={"filter_negatives": True}))
    assert not equal(filtered, train(GRAPH, config))
    assert next_day(filtered, GRAPH, WINDOW, recalls=[10])["click"].model.recall[10] > 0.8


def test_relations_are_told_apart() -> None:
    links = KnownLinks.of(GRAPH, GRAPH.head, GRAPH.tail)
    of = GRAPH.edges_of(1)
    user, items = GRAPH.head[of][:1], GRAPH.tail[of].unique()
    bought = links.hit_tails(1, user, items)
    assert bought is not None
    assert links.hit_tails(0, user, items) is None
