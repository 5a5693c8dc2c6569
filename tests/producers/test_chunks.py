"""Chunks: of one relation, each edge once an epoch, drawn alike by whoever draws them."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from provender.producers.chunks import Chunk, ChunkSource, EpochPlan, generator_of, loss_weights
from provender.producers.graph import TripleGraph
from tests.producers.planted import GRAPH, SMALL, Relation, changed

CPU = torch.device("cpu")


def _plan(seed: int = 0, epoch: int = 0) -> EpochPlan:
    return EpochPlan.cut(GRAPH, 32, seed, epoch)


def test_an_epoch_covers_every_edge_once_and_mixes_no_relations() -> None:
    chunks = _plan().chunks
    assert sorted(torch.cat(list(chunks)).tolist()) == list(range(GRAPH.edges))
    assert all(len(chunk) <= 32 for chunk in chunks)
    assert all(len(GRAPH.relation[chunk].unique()) == 1 for chunk in chunks)
    for other in (_plan(seed=1), _plan(epoch=1)):
        assert [c.tolist() for c in other.chunks] != [c.tolist() for c in chunks]


def _ends(chunk: Chunk) -> tuple[torch.Tensor, ...]:
    """Heads, negative heads, tails, negative tails, as global ids."""
    count, shared = len(chunk.weight), len(chunk.log_expected_head)
    parts = chunk.rows[chunk.place].split([count, shared, shared, count])
    return parts[0], parts[1], parts[3], parts[2]


def test_a_chunk_holds_its_edges_and_negatives_of_the_right_types() -> None:
    source, plan = ChunkSource.prepare(GRAPH, SMALL, CPU), _plan()
    weight = loss_weights(GRAPH, SMALL)
    for index, edges in enumerate(plan.chunks):
        chunk = source.draw(plan, index)
        head, negative_head, tail, negative_tail = _ends(chunk)
        relation = GRAPH.relations[chunk.relation]
        assert chunk.relation == int(GRAPH.relation[edges[0]])
        assert torch.equal(head, GRAPH.head[edges])
        assert torch.equal(tail, GRAPH.tail[edges])
        assert torch.equal(chunk.weight, weight[edges])
        assert len(chunk.rows.unique()) == len(chunk.rows)
        for drawn, entity in ((negative_head, relation.head), (negative_tail, relation.tail)):
            span = GRAPH.span(entity)
            assert len(drawn) == SMALL.negatives
            assert span.start <= int(drawn.min()) <= int(drawn.max()) < span.stop
        for own, drawn, hit in (
            (head, negative_head, chunk.hit_head),
            (tail, negative_tail, chunk.hit_tail),
        ):
            found = (own.unsqueeze(1) == drawn).nonzero().tolist()
            assert (hit is None) == (not found)
            assert hit is None or sorted(torch.stack(hit, dim=1).tolist()) == found


def test_draws_follow_from_seed_epoch_and_index_alone() -> None:
    source, plan = ChunkSource.prepare(GRAPH, SMALL, CPU), _plan()
    first = source.draw(plan, 2)
    state = torch.get_rng_state()
    source.draw(plan, 5)
    again = ChunkSource.prepare(GRAPH, SMALL, CPU).draw(_plan(), 2)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.place, again.place)
    assert torch.equal(state, torch.get_rng_state())
    other = ChunkSource.prepare(GRAPH, changed(seed=1), CPU).draw(plan, 2)
    later = source.draw(EpochPlan(1, plan.chunks), 2)
    for drawn in (other, later):
        assert not all(
            torch.equal(a, b) for a, b in zip(_ends(first)[1::2], _ends(drawn)[1::2], strict=True)
        )


def test_neighbouring_generators_have_nothing_in_common() -> None:
    draws = [
        torch.rand(1000, generator=generator_of(*what)) for what in ((0, 1), (0, 2), (1, 1), (0, 1))
    ]
    assert torch.equal(draws[0], draws[3])
    shared = torch.corrcoef(torch.stack(draws[:3]))
    assert float((shared - torch.eye(3)).abs().max()) < 0.15


def test_weights_have_the_mean_of_their_relation() -> None:
    config = changed(relations={"click": 3.0, "promotes": 0.5})
    weights = loss_weights(GRAPH, config)
    clicks = GRAPH.edges_of(0)
    assert weights[clicks].mean().item() == pytest.approx(3.0, rel=1e-5)
    ratio = weights[clicks] / GRAPH.weight[clicks]
    assert ratio.std().item() == pytest.approx(0.0, abs=1e-5)
    assert weights[GRAPH.edges_of(2)].mean().item() == pytest.approx(0.5, rel=1e-5)


def test_both_sides_of_a_relation_within_one_type_share_their_negatives() -> None:
    random = torch.Generator().manual_seed(0)
    head, tail = torch.randint(0, 30, (2, 100), generator=random)
    friends = Relation("friend", "user", "user")
    keys = {"user": pa.array(range(30))}
    graph = TripleGraph((friends,), keys, head, tail, torch.zeros_like(head), torch.ones(100))
    source = ChunkSource.prepare(graph, SMALL, CPU)
    plan = EpochPlan.cut(graph, 32, 0, 0)
    for index, edges in enumerate(plan.chunks):
        chunk = source.draw(plan, index)
        ends = chunk.rows[chunk.place]
        head, negative, tail = ends.split([len(edges), SMALL.negatives, len(edges)])
        assert chunk.one_type
        assert torch.equal(head, graph.head[edges])
        assert torch.equal(tail, graph.tail[edges])
        assert torch.equal(ends[chunk.heads], torch.cat([head, negative]))
        assert torch.equal(ends[chunk.tails], torch.cat([negative, tail]))
        assert torch.equal(chunk.loops(), head == tail)
        for own, hit in ((head, chunk.hit_head), (tail, chunk.hit_tail)):
            found = (own.unsqueeze(1) == negative).nonzero().tolist()
            assert sorted(torch.stack(hit, dim=1).tolist() if hit else []) == found
