"""Small page graphs made by hand or by chance, and what walks over them do, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_graph import Csr, PageGraph
from provender.producers.linksage.page_neighbours import NEIGHBOUR_TYPES, Neighbours
from provender.producers.linksage.state_graph import StateGraph, state_graphs
from provender.producers.linksage.walks import ALIAS, DRAWS, EDGE, RESTART
from tests.plugin.test_counter_random import plain_draw

Links = Mapping[tuple[str, str], Sequence[tuple[int, int, float]]]
#: (type, node), visits: the neighbours of a page.
Row = list[tuple[str, int, int]]


def page_graph(counts: Mapping[str, int], links: Links, hashes: Sequence[int]) -> PageGraph:
    """A graph of edges (node, other, weight) by kind, of which both directions are made."""
    edges = {}
    for (source, target), rows in links.items():
        edges[source, target] = _csr(sorted(rows), counts[source])
        edges[target, source] = _csr(sorted((b, a, w) for a, b, w in rows), counts[target])
    none, pins = torch.zeros(0, dtype=torch.int64), torch.arange(counts["pin"])
    return PageGraph(counts, edges, pins, pins, none, none, none.float(), torch.tensor(hashes), {})


def _csr(rows: Sequence[tuple[int, int, float]], nodes: int) -> Csr:
    degrees = Counter(row[0] for row in rows)
    offsets = np.cumsum([0, *(degrees[node] for node in range(nodes))])
    targets = torch.tensor([row[1] for row in rows], dtype=torch.int64)
    weights = torch.tensor([row[2] for row in rows], dtype=torch.float32)
    return Csr(torch.from_numpy(offsets), targets, weights)


def random_graph(seed: int, weighted: bool = False) -> PageGraph:
    """Nine pages, twelve pins, three boards and two sites; some nodes without any edge."""
    rng = np.random.default_rng(seed)
    counts = {"page": 9, "pin": 12, "board": 3, "link": 2}
    links = {}
    for source, target, many in (("pin", "page", 25), ("pin", "board", 10), ("page", "link", 6)):
        pairs = rng.integers(0, (counts[source] - 1, counts[target]), (many, 2)).tolist()
        links[source, target] = [
            (a, b, float(rng.integers(1, 6)) if weighted else 1.0)
            for a, b in set(map(tuple, pairs))
        ]
    return page_graph(counts, links, rng.integers(-(2**63), 2**63 - 1, counts["page"]).tolist())


def rows_of(found: Neighbours) -> list[Row]:
    """Each page's neighbours, in order."""
    flat = [
        (NEIGHBOUR_TYPES[kind], node, visits)
        for kind, node, visits in zip(
            found.types.tolist(), found.nodes.tolist(), found.visits.tolist(), strict=True
        )
    ]
    offsets = found.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(offsets)]


def plain_neighbours(graph: PageGraph, config: WalkConfig, seed: int, page: int) -> Row:
    """A page's neighbours by walks in plain Python, one at a time."""
    states, visits = state_graphs(graph, config), Counter[tuple[str, int]]()
    for walk in range(config.walks):
        one = states[walk % len(states)]
        for node in plain_walk(graph, one, config, seed, page, walk):
            if node[0] in config.neighbour_types and node != ("page", page):
                visits[node] += 1
    ordered = sorted(
        visits.items(), key=lambda one: (-one[1], NEIGHBOUR_TYPES.index(one[0][0]), one[0][1])
    )
    return [(kind, node, count) for (kind, node), count in ordered[: config.neighbours]]


def plain_walk(
    graph: PageGraph, states: StateGraph, config: WalkConfig, seed: int, page: int, walk: int
) -> list[tuple[str, int]]:
    """The nodes that a walk comes to; edges and aliases are taken from the state graph."""

    def drawn(step: int, which: int) -> int:
        """As the walker reads it: the first bit is the sign, so that half is taken off."""
        return plain_draw(seed, int(graph.page_hashes[page]), walk, DRAWS * step + which) ^ 1 << 31

    begin = states.spans[states.start][0] + page
    state, found = begin, []
    for step in range(config.length):
        first, end = int(states.offsets[state]), int(states.offsets[state + 1])
        place = first + (drawn(step, EDGE) >> 8) * (end - first) // (1 << 24)
        state = int(states.targets[place])
        if states.alias is not None and drawn(step, ALIAS) >> 8 >= int(states.alias[0][place]):
            state = int(states.alias[1][place])
        if state == len(states.offsets) - 2:
            break
        kind, at = next(
            (block[0], first)
            for block, (first, end) in states.spans.items()
            if first <= state < end
        )
        found.append((str(kind), state - at))
        chance = config.restart.get(kind, 0.0)
        if chance and drawn(step, RESTART) >> 8 < round(chance * (1 << 24)):
            state = begin
    return found
