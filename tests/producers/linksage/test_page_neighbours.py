"""Neighbours by walks: against walks in plain Python, and against the chances of all walks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError
from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_neighbours import find_neighbours
from tests.producers.linksage.small_graphs import (
    page_graph,
    plain_neighbours,
    random_graph,
    rows_of,
)

ROUND = ("page", "pin", "page")
FAR = ("page", "pin", "board", "pin", "page")
SITE = ("page", "link", "page")
CONFIGS: list[dict[str, Any]] = [
    {},
    {"restart": {}},
    {"restart": {"page": 0.5, "pin": 0.3, "board": 1.0}},
    {"metapaths": (ROUND,), "restart": {}},
    {"metapaths": (ROUND,), "neighbour_types": ("page",)},
    {"metapaths": (FAR,), "length": 8},
    {"metapaths": (ROUND, FAR, SITE), "restart": {"page": 0.1, "pin": 0.2}},
    {"metapaths": (FAR,), "neighbour_types": ("pin",), "restart": {"board": 0.5}},
    {"length": 1},
    {"neighbour_types": ("page",), "length": 3},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("changed", CONFIGS)
def test_plain_walks(changed: dict[str, Any], weighted: bool) -> None:
    for seed in range(3):
        graph = random_graph(seed, weighted)
        config = WalkConfig(**({"walks": 23, "neighbours": 6} | changed))
        found = find_neighbours(graph, config, seed)
        assert rows_of(found) == [plain_neighbours(graph, config, seed, page) for page in range(9)]
        degrees = [graph.edges["page", kind].degrees for kind in ("pin", "link")]
        assert found.degrees.tolist() == sum(degrees).tolist()  # type: ignore[union-attr]


def test_all_of_a_graph_goes_to_a_device() -> None:
    graph = random_graph(0).to("meta")
    parts = [
        *vars(graph).values(),
        *(p for csr in graph.edges.values() for p in vars(csr).values()),
    ]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    assert len(tensors) == 6 + 3 * len(graph.edges)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changed", CONFIGS)
def test_a_gpu_walks_as_a_cpu(changed: dict[str, Any]) -> None:
    graph, config = random_graph(0, weighted=True), WalkConfig(**changed)
    found = find_neighbours(graph.to("cuda"), config, 1)
    assert found.nodes.device.type == "cuda"
    assert rows_of(found) == rows_of(find_neighbours(graph, config, 1))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 3),
    st.permutations(range(9)),
    st.integers(1, 9),
    st.sampled_from(CONFIGS),
    st.sampled_from([1, 40, 100, 10_000]),
)
def test_blocks_shards_and_order_change_nothing(
    seed: int, order: list[int], some: int, changed: dict[str, Any], at_once: int
) -> None:
    graph, config = random_graph(seed, weighted=True), WalkConfig(**({"walks": 17} | changed))
    whole = rows_of(find_neighbours(graph, config, 5))
    starts = torch.tensor(order[:some])
    part = find_neighbours(graph, config, 5, starts, walks_at_once=at_once)
    assert rows_of(part) == [whole[page] for page in order[:some]]
    assert part.degrees.tolist() == find_neighbours(graph, config, 5).degrees[starts].tolist()


def test_the_rest_of_the_graph_changes_nothing() -> None:
    """Pages that come and go elsewhere shift numbers, but not what a page's walks do."""
    counts = {"page": 2, "pin": 3, "board": 0, "link": 0}
    near = [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 2.0), (2, 1, 0.3)]
    alone = page_graph(counts, {("pin", "page"): near}, [11, 12])
    far = [(a + 40, b + 30, w) for a, b, w in near]
    other = [(a, b, 0.1 + a) for a in range(0, 40, 3) for b in range(0, 30, 7)]
    counts = {"page": 32, "pin": 43, "board": 0, "link": 0}
    larger = page_graph(counts, {("pin", "page"): far + other}, [*range(30), 11, 12])
    found = rows_of(find_neighbours(alone, WalkConfig(), 1))
    moved = rows_of(find_neighbours(larger, WalkConfig(), 1, torch.tensor([30, 31])))
    shift = {"pin": 40, "page": 30}
    assert moved == [[(kind, n + shift[kind], v) for kind, n, v in row] for row in found]


def expected_visits(graph: PageGraph, config: WalkConfig, page: int) -> np.ndarray[Any, Any]:
    """How often one walk comes to each pin, then each page, by matrices of chances."""
    kinds = ("pin", "page", "board", "link")
    sizes = [graph.counts[kind] for kind in kinds]
    first = dict(zip(kinds, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    weights = {kind: np.zeros((sum(sizes), sum(sizes))) for kind in graph.edges}
    for (source, target), csr in graph.edges.items():
        own = torch.repeat_interleave(torch.arange(graph.counts[source]), csr.degrees)
        place = (first[source] + own.numpy(), first[target] + csr.targets.numpy())
        weights[source, target][place] = csr.weights.numpy()
    begin = np.zeros(sum(sizes))
    begin[first["page"] + page] = 1
    again = np.zeros(sum(sizes))
    for kind, chance in config.restart.items():
        again[first[kind] : first[kind] + graph.counts[kind]] = chance
    total = np.zeros(sum(sizes))
    for path in config.metapaths or (None,):
        steps = (
            [np.sum(list(weights.values()), axis=0)]
            if path is None
            else [weights[step] for step in pairwise(path)]
        )
        moves = [
            w / np.where(w.sum(1, keepdims=True) > 0, w.sum(1, keepdims=True), 1) for w in steps
        ]
        chances = [np.zeros(sum(sizes)) for _ in moves]  # by the place in the path
        chances[0] = begin
        for _ in range(config.length):
            after = [np.zeros(sum(sizes)) for _ in moves]
            for at, move in enumerate(moves):
                come = chances[at] @ move
                total += come / len(config.metapaths or (None,))
                after[(at + 1) % len(moves)] += come * (1 - again)
                after[0] += (come * again).sum() * begin
            chances = after
    return total[: sizes[0] + sizes[1]]


@pytest.mark.parametrize("walker", ["torch", "dgl"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("changed", [CONFIGS[n] for n in (0, 1, 2, 3, 6, 7)])
def test_visits_are_as_likely_as_they_should_be(
    changed: dict[str, Any], weighted: bool, walker: str
) -> None:
    """Both walkers agree with the exact chances, and so with each other."""
    if walker == "dgl":
        pytest.importorskip("dgl")
    graph, walks = random_graph(1, weighted), 30_000
    config = WalkConfig(**changed, walks=walks, neighbours=99, walker=walker)
    found = rows_of(find_neighbours(graph, config, 3))
    for page, row in enumerate(found):
        expected = expected_visits(graph, config, page) * walks
        expected[graph.counts["pin"] + page] = 0
        visits = np.zeros_like(expected)
        for kind, node, count in row:
            visits[node + (graph.counts["pin"] if kind == "page" else 0)] = count
        counted = ["pin" in config.neighbour_types] * 12 + ["page" in config.neighbour_types] * 9
        expected[~np.array(counted)] = 0
        # A walk comes to a node `length` times at most, so that its visits vary by so much more.
        deviation = np.sqrt(expected * config.length) + 1
        assert (np.abs(visits - expected) < 5 * deviation).all()
        assert ((expected > 0) | (visits == 0)).all()


def test_dgl_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dgl")
    graph, config = random_graph(0), WalkConfig(walker="dgl")
    first = rows_of(find_neighbours(graph, config, 1))
    assert rows_of(find_neighbours(graph, config, 1)) == first
    assert rows_of(find_neighbours(graph, config, 2)) != first
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="set walker to torch"):
        find_neighbours(graph, config, 1)


def test_seeds_and_hashes_matter() -> None:
    graph = random_graph(0)
    assert rows_of(find_neighbours(graph, WalkConfig(), 1)) != rows_of(
        find_neighbours(graph, WalkConfig(), 2)
    )


def test_a_type_without_nodes_restarts_nobody() -> None:
    links = {("pin", "page"): [(0, 0, 1.0)], ("pin", "board"): [], ("page", "link"): [(0, 0, 1.0)]}
    graph = page_graph({"page": 1, "pin": 1, "board": 0, "link": 1}, links, [7])
    # Through restarts at pins, walks are at sites when others could be at boards.
    rules: list[dict[Any, float]] = [{"pin": 0.5, "board": 1.0}, {"pin": 0.5}]
    configs = [WalkConfig(walks=50, restart=rule) for rule in rules]
    found, expected = (rows_of(find_neighbours(graph, config, 0)) for config in configs)
    assert found == expected


def test_many_edges_are_drawn_alike() -> None:
    """A state of more edges than float32 tells apart well: all of them, none beyond."""
    many = 70_000
    links = {("pin", "page"): [(pin, 0, 1.0) for pin in range(many)]}
    graph = page_graph({"page": 1, "pin": many, "board": 0, "link": 0}, links, [7])
    found = find_neighbours(graph, WalkConfig(walks=1_000_000, length=1, neighbours=many), 0)
    visits = torch.zeros(many).index_put_((found.nodes,), found.visits.float())
    assert int(visits.sum()) == 1_000_000
    chi = float(((visits - visits.mean()) ** 2 / visits.mean()).sum())
    assert abs(chi - many) < 5 * (2 * many) ** 0.5


@pytest.mark.parametrize("walks", [40_000, 3])
def test_a_page_that_all_walks_come_back_to(walks: int) -> None:
    """Ranks of 32 bits hold few visits, those of 64 many; no neighbours is an answer."""
    links = {("pin", "page"): [(0, 0, 1.0)]}
    graph = page_graph({"page": 2, "pin": 1, "board": 0, "link": 0}, links, [7, 8])
    found = rows_of(find_neighbours(graph, WalkConfig(walks=walks, restart={}), 0))
    assert found == [[("pin", 0, 3 * walks)], []]
    none = find_neighbours(graph, WalkConfig(walks=walks, neighbours=0), 0)
    assert rows_of(none) == [[], []]
    empty = find_neighbours(graph, WalkConfig(), 0, torch.zeros(0, dtype=torch.int64))
    assert empty.offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("path", "told"),
    [(("pin", "page"), "from page to page"), (("page",), "from page to page"),
     (("page", "board", "page"), "no edges from page to board")],
)  # fmt: skip
def test_paths_that_cannot_be(path: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_neighbours(random_graph(0), WalkConfig(metapaths=(path,)), 0)
