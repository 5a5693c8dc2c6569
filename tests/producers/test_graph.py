"""Merging, decay and caps against a naive loop; degrees by torch and by DGL."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers import dgl_graph
from provender.producers import graph as torch_graph
from provender.producers.graph import TripleGraph, build_graph

AS_OF = datetime(2026, 3, 10, tzinfo=UTC)
KEYS = {
    "user": pa.array([10, 20, 30]),
    "page": pa.array([], pa.string()),
    "pin": pa.array(["a", "b", "c", "d"]),
}


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("to", "pin", "pin"),
    Relation("never", "user", "page"),
)
#: relation, head, tail, whole days of age (None: structure), weight
Row = tuple[int, int, int, int | None, float]


def _table(rows: list[Row]) -> pa.Table:
    times = [None if row[3] is None else AS_OF - timedelta(days=row[3]) for row in rows]
    return pa.table(
        {
            "relation": pa.array([row[0] for row in rows], pa.int16()),
            "head": pa.array([row[1] for row in rows], pa.int64()),
            "tail": pa.array([row[2] for row in rows], pa.int64()),
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "weight": pa.array([row[4] for row in rows], pa.float32()),
        }
    )


def _build(
    rows: list[Row],
    *,
    half_life_days: float | None = None,
    degree_cap: int | None = None,
    chosen: list[str] | None = None,
    aside: list[str] | None = None,
) -> TripleGraph:
    return build_graph(
        _table(rows),
        RELATIONS,
        KEYS,
        as_of=AS_OF,
        half_life_days=half_life_days,
        degree_cap=degree_cap,
        chosen=chosen,
        aside=aside or (),
    )


def _edges(graph: TripleGraph) -> dict[tuple[int, int, int], float]:
    columns = (graph.relation, graph.head, graph.tail)
    keys = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(keys, graph.weight.tolist(), strict=True))


def _naive(
    rows: list[Row], half_life: float | None, cap: int | None
) -> dict[tuple[int, int, int], float]:
    offset = {"user": 0, "page": 3, "pin": 3}
    merged: dict[tuple[int, int, int], float] = defaultdict(float)
    for relation, head, tail, age, weight in rows:
        one = RELATIONS[relation]
        decay = 1.0 if age is None or half_life is None else 0.5 ** (age / half_life)
        merged[relation, head + offset[one.head], tail + offset[one.tail]] += weight * decay
    kept = dict(merged)
    for end in (1, 2):
        groups = defaultdict(list)
        for edge in kept:
            groups[edge[0], edge[end]].append(edge)
        kept = {
            edge: kept[edge]
            for group in groups.values()
            for edge in sorted(group, key=lambda e: (-kept[e], e[3 - end]))[:cap]
        }
    return kept


rows_of_events = st.lists(
    st.one_of(
        st.tuples(
            st.just(0),
            st.integers(0, 2),
            st.integers(0, 3),
            st.one_of(st.none(), st.integers(1, 20)),
            st.sampled_from([0.5, 1.0, 2.0]),
        ),
        st.tuples(
            st.just(1), st.integers(0, 3), st.integers(0, 3), st.none(), st.sampled_from([1.0, 4.0])
        ),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(rows_of_events, st.sampled_from([None, 1.0, 7.0]), st.sampled_from([None, 1, 2]))
def test_merging_decay_and_cap_equal_a_naive_loop(
    rows: list[Row], half_life: float | None, cap: int | None
) -> None:
    graph = _build(rows, half_life_days=half_life, degree_cap=cap)
    edges = _edges(graph)
    assert edges == pytest.approx(_naive(rows, half_life, cap))
    assert list(edges) == sorted(edges)
    assert all(weight > 0 for weight in edges.values())


@settings(deadline=None)
@given(rows_of_events, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _edges(_build(rows, degree_cap=2)) == _edges(_build(shuffled, degree_cap=2))


def test_ids_counts_and_spans() -> None:
    graph = _build([(0, 2, 3, 1, 1.0), (1, 0, 1, None, 2.0)])
    assert graph.counts == {"user": 3, "page": 0, "pin": 4}
    assert graph.offsets == {"user": 0, "page": 3, "pin": 3}
    assert graph.entities == 7
    assert graph.span("pin") == slice(3, 7)
    assert (graph.edges_of(0), graph.edges_of(1)) == (slice(0, 1), slice(1, 2))
    assert graph.edges_of(2) == slice(2, 2)
    assert (graph.head.tolist(), graph.tail.tolist()) == ([2, 3], [6, 4])


def test_only_chosen_relations_have_edges() -> None:
    rows: list[Row] = [(0, 0, 0, 1, 1.0), (1, 0, 1, None, 1.0)]
    assert list(_edges(_build(rows, chosen=["to"]))) == [(1, 3, 4)]
    with pytest.raises(ConfigError, match=r"'clck'; expected one of click, to, never"):
        _build(rows, chosen=["clck"])


def test_what_cannot_be_is_refused() -> None:
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TrainingError, match=r"relation 'to'.*weight"):
            _build([(0, 0, 0, 1, 1.0), (1, 0, 1, None, weight)])
    with pytest.raises(TrainingError, match="1 events at or after"):
        _build([(0, 0, 0, 0, 1.0), (0, 0, 1, 1, 1.0)])


def test_weights_that_vanish_leave_no_edge() -> None:
    rows: list[Row] = [(0, 0, 0, 900, 1.0), (0, 0, 1, None, 0.0), (0, 0, 2, 1, 1.0)]
    assert list(_edges(_build(rows, half_life_days=1.0))) == [(0, 0, 5)]


def test_what_is_set_aside_is_read_whole_and_not_learned_from() -> None:
    rows: list[Row] = [(0, 0, tail, 1, 1.0) for tail in range(4)] + [(1, 0, 1, None, 1.0)]
    graph = _build(rows, degree_cap=2, chosen=["click"], aside=["to", "click"])
    assert sorted(_edges(graph)) == sorted(_edges(_build(rows[:4], degree_cap=2)))
    assert graph.aside is not None
    assert sorted(_edges(graph.aside)) == sorted(_edges(_build(rows)))  # Without a cap.
    assert _build(rows).aside is None
    with pytest.raises(ConfigError, match="'tap'; expected one of click, to, never"):
        _build(rows, aside=["tap"])


def test_the_fingerprint_sees_every_change() -> None:
    rows: list[Row] = [(0, 0, 0, 1, 1.0), (0, 1, 2, 2, 1.0)]
    same = _build(rows).fingerprint
    assert _build(rows).fingerprint == same
    changed = [
        _build([*rows, (0, 2, 2, 1, 1.0)]).fingerprint,
        _build([rows[0], (0, 1, 2, 2, 2.0)]).fingerprint,
        _build(rows, half_life_days=3.0).fingerprint,
        _build(rows, aside=["click"]).fingerprint,
        build_graph(
            _table(rows), RELATIONS, {**KEYS, "user": pa.array([10, 20, 31])}, as_of=AS_OF
        ).fingerprint,
        build_graph(
            _table(rows), (Relation("tap", "user", "pin"), *RELATIONS[1:]), KEYS, as_of=AS_OF
        ).fingerprint,
    ]
    assert len({same, *changed}) == 7


@settings(deadline=None, max_examples=30)
@given(rows_of_events)
def test_dgl_and_torch_count_the_same_degrees(rows: list[Row]) -> None:
    graph = _build(rows)
    naive = [0] * graph.entities
    for _, head, tail in _edges(graph):
        naive[head] += 1
        naive[tail] += 1
    assert torch_graph.degrees(graph).tolist() == naive
    assert dgl_graph.degrees(graph).tolist() == naive


def test_degrees_without_dgl(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _build([(0, 0, 0, 1, 1.0), (1, 0, 1, None, 1.0)])
    expected = dgl_graph.degrees(graph)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(dgl_graph, "to_heterograph", None)
    assert torch.equal(dgl_graph.degrees(graph), expected)
