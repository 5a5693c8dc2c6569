"""Hard negatives: from the right pool, never a true tail, none twice, each as often as the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError
from provender.producers import ranks
from provender.producers.chunks import ChunkSource, EpochPlan, generator_of
from provender.producers.disk_training import train_on_disk
from provender.producers.edge_streams import GraphEdges
from provender.producers.evaluation import next_day
from provender.producers.graph import TripleGraph
from provender.producers.hard_negatives import HardSource, hard_sources
from provender.producers.trainer import train
from provender.producers.transra_config import TransRAConfig
from tests.producers.planted import GRAPH, SMALL, WINDOW, changed, equal

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("shown", "user", "pin"),
    Relation("sold_by", "pin", "shop"),
    Relation("sells", "shop", "pin"),
)
USERS, PINS, SHOPS = 5, 7, 3
Pairs = set[tuple[int, int]]


def _graph(click: Pairs, other: Pairs, relation: int) -> TripleGraph:
    """Clicks and one other relation; global ids are users, pins, shops in this order."""
    starts = {"user": 0, "pin": USERS, "shop": USERS + PINS}
    keys = {"user": pa.array(range(USERS)), "pin": pa.array(range(PINS))}
    keys["shop"] = pa.array(range(SHOPS))
    rows = [
        (index, head + starts[RELATIONS[index].head], tail + starts[RELATIONS[index].tail])
        for index, pairs in ((0, click), (relation, other))
        for head, tail in sorted(pairs)
    ]
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return TripleGraph(RELATIONS, keys, columns[1], columns[2], columns[0], torch.ones(len(rows)))


def _config(**declared: object) -> TransRAConfig:
    return TransRAConfig.parse({"hard_negatives": {"click": declared}})


def _drawn(source: HardSource, triples: list[tuple[int, int]], seed: int) -> list[list[int]]:
    """The pins drawn for (user, pin) triples; what is missing is left out."""
    head = torch.tensor([user for user, _ in triples])
    tail = torch.tensor([pin + USERS for _, pin in triples])
    ids, missing = source.draw(head, tail, generator_of(seed))
    assert ids.dtype == torch.int64
    assert torch.equal(ids[missing], tail.unsqueeze(1).expand_as(ids)[missing])
    return [
        [pin - USERS for pin, gone in zip(row, out, strict=True) if not gone]
        for row, out in zip(ids.tolist(), missing.tolist(), strict=True)
    ]


CLICKS = st.sets(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, PINS - 1)), min_size=1, max_size=15
)


@settings(deadline=None, max_examples=40)
@given(CLICKS, CLICKS, st.integers(1, 4), st.integers(0, 99))
def test_shown_and_not_clicked(click: Pairs, shown: Pairs, count: int, seed: int) -> None:
    config = _config(**{"from": "shown", "count": count})
    sources = hard_sources(_graph(click, shown, 1), config, CPU)
    if shown <= click:
        assert not sources
        return
    triples = sorted(click)
    for (user, _), pins in zip(triples, _drawn(sources[0], triples, seed), strict=True):
        pool = {pin for who, pin in shown - click if who == user}
        assert set(pins) <= pool
        assert len(pins) == len(set(pins)) == min(count, len(pool))


@settings(deadline=None, max_examples=40)
@given(
    CLICKS,
    st.sets(st.tuples(st.integers(0, PINS - 1), st.integers(0, SHOPS - 1)), max_size=12),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_tails_of_the_same_shop(
    click: Pairs, sold_by: Pairs, count: int, turned: bool, seed: int
) -> None:
    config = _config(shared="sells" if turned else "sold_by", count=count)
    other = {(shop, pin) for pin, shop in sold_by} if turned else sold_by
    sources = hard_sources(_graph(click, other, 3 if turned else 2), config, CPU)
    if not sold_by:
        assert not sources
        return
    triples = sorted(click)
    for (user, pin), pins in zip(triples, _drawn(sources[0], triples, seed), strict=True):
        shops = {shop for one, shop in sold_by if one == pin}
        pools = [{one for one, each in sold_by if each == shop} for shop in shops]
        true = {tail for who, tail in click if who == user}
        assert len(pins) == len(set(pins))
        assert not set(pins) & true
        assert not pins or any(set(pins) <= pool for pool in pools)
        # So many of the shop are drawn, the true ones among them then left out.
        assert not shops or any(
            len(pins) >= min(count, len(pool)) - len(pool & true) for pool in pools
        )


def test_each_comes_as_often_as_the_next() -> None:
    shown = {(0, pin) for pin in range(1, 7)} | {(1, 0)}
    source = hard_sources(_graph({(0, 0)}, shown, 1), _config(**{"from": "shown", "count": 2}), CPU)
    rows = _drawn(source[0], [(0, 0)] * 6000, 0)
    counts = torch.bincount(torch.tensor(rows).flatten(), minlength=PINS) / 6000
    assert counts.tolist() == pytest.approx([0.0] + [2 / 6] * 6, abs=0.03)


def test_edges_that_are_read_aside_are_used() -> None:
    graph = _graph({(0, 0)}, set(), 1)
    aside = _graph({(0, 0), (0, 1)}, {(0, 1), (0, 2)}, 1)
    with_aside = TripleGraph(
        RELATIONS, graph.keys, graph.head, graph.tail, graph.relation, graph.weight, aside
    )
    config = _config(**{"from": "shown"})
    assert hard_sources(graph, config, CPU) == {}
    assert _drawn(hard_sources(with_aside, config, CPU)[0], [(0, 0)], 0) == [[2]]
    assert graph.fingerprint != with_aside.fingerprint


def test_relations_that_do_not_fit_are_refused() -> None:
    graph = _graph({(0, 0)}, {(0, 1)}, 1)
    with pytest.raises(ConfigError, match="'shwon'; expected one of click, shown"):
        hard_sources(graph, _config(**{"from": "shwon"}), CPU)
    with pytest.raises(ConfigError, match="'sold_by' from pin to shop; expected user to pin"):
        hard_sources(graph, _config(**{"from": "sold_by"}), CPU)
    backwards = TransRAConfig.parse({"hard_negatives": {"sold_by": {"shared": "click"}}})
    with pytest.raises(ConfigError, match="'click' from user to pin; expected a relation of shop"):
        hard_sources(graph, backwards, CPU)


def test_a_training_that_has_not_all_links_at_hand_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = _config(shared="promotes")
    for config in (hard, changed(filter_negatives=True)):
        with pytest.raises(ConfigError, match=r"_negatives: found a training from disk"):
            train_on_disk(GraphEdges(GRAPH), config, tmp_path / config.hash)
    monkeypatch.setattr(ranks, "current", lambda: SimpleNamespace(count=2))
    with pytest.raises(ConfigError, match="found a training over 2 processes"):
        train(replace(GRAPH, aside=GRAPH), hard)


HARD = {"click": {"shared": "promotes", "count": 3}}


def test_chunks_carry_each_triples_own() -> None:
    config = TransRAConfig.parse(
        SMALL.model_dump(by_alias=True) | {"hard_negatives": HARD, "checkpoint_minutes": 0}
    )
    plan = EpochPlan.cut(GRAPH, 32, 0, 0)
    source, plain = (ChunkSource.prepare(GRAPH, each, CPU) for each in (config, SMALL))
    pins = GRAPH.span("pin")
    for index in range(len(plan.chunks)):
        chunk, without = source.draw(plan, index), plain.draw(plan, index)
        ends = chunk.rows[chunk.place]
        shared = without.rows[without.place]
        assert torch.equal(ends[: len(shared)], shared)  # What is shared is drawn as before.
        if chunk.relation != 0:
            assert chunk.hit_hard is None
            assert len(ends) == len(shared)
            continue
        assert chunk.hit_hard is not None
        assert chunk.hit_hard.shape == (len(chunk.weight), 3)
        hard = ends[len(shared) :]
        assert len(hard) == chunk.hit_hard.numel()
        assert pins.start <= int(hard.min()) <= int(hard.max()) < pins.stop


@pytest.mark.parametrize("loss", ["softmax", "self_adversarial", "margin"])
def test_training_with_them_learns_on_and_differs(loss: str) -> None:
    values = changed(loss=loss, epochs=10, shrinkage=1.0).model_dump(by_alias=True)
    config = TransRAConfig.parse(values | {"hard_negatives": HARD})
    parameters = train(GRAPH, config)
    assert not equal(parameters, train(GRAPH, TransRAConfig.parse(values)))
    assert next_day(parameters, GRAPH, WINDOW, recalls=[10])["click"].model.recall[10] > 0.6
