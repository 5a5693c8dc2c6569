"""What walks go over: a page graph, and the place in a metapath, as one plain graph of states.

Without metapaths a state is a node. Along a metapath it is a node at a place of the path, with
edges to the nodes of the next place only, the last being the first. A walk that finds no edge goes
to a further state, the end, and stays there, so that no step has an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers.linksage.alias_tables import alias_tables
from provender.producers.linksage.config import NodeType, WalkConfig
from provender.producers.linksage.page_graph import Csr, PageGraph

#: What can be a neighbour, in the order in which neighbours of equal visits come.
NEIGHBOUR_TYPES: tuple[NodeType, ...] = ("pin", "page")
#: Their states come first, so that most often a state's number is that of the neighbour.
_ORDER: tuple[NodeType, ...] = (*NEIGHBOUR_TYPES, "board", "link")
Block = tuple[NodeType, int]


@dataclass(frozen=True, eq=False)
class StateGraph:
    """States in blocks of one node type each, and edges from state to state.

    Attributes:
        offsets: int64 (s + 1,), of the s states and the end, which is the last.
        targets: int64 (m,), states.
        weights: float32 (m,); None where all edges of each state weigh alike.
        spans: (node type, place in the metapath) -> its first state, and one past its last.
        follows: block -> the blocks that a step from it leads to.
        start: the block of starts.
        nodes: int64 (s,), the neighbour that each state is: pins by number, then pages; what is
            neither, and the end, gets a number past them. None where it is the state's own.
    """

    offsets: Tensor
    targets: Tensor
    weights: Tensor | None
    spans: Mapping[Block, tuple[int, int]]
    follows: Mapping[Block, Sequence[Block]]
    start: Block
    nodes: Tensor | None

    @cached_property
    def alias(self) -> tuple[Tensor, Tensor] | None:
        """`keep` int32 (m,) and `other` int64 (m,), the state to go to instead (alias_tables)."""
        if self.weights is None:
            return None
        offsets, weights = (array.cpu().numpy() for array in (self.offsets, self.weights))
        keep, alias = (torch.from_numpy(array) for array in alias_tables(offsets, weights))
        device = self.targets.device
        return keep.to(device), self.targets[alias.to(device)]


def state_graphs(graph: PageGraph, config: WalkConfig) -> list[StateGraph]:
    """One for each metapath, or one of all edges; raises ConfigError for a path that can't be."""
    if not config.metapaths:
        return [_of_all_edges(graph)]
    return [_of_metapath(graph, path) for path in config.metapaths]


def _of_all_edges(graph: PageGraph) -> StateGraph:
    blocks = {(kind, 0): graph.counts.get(kind, 0) for kind in _ORDER}
    follows = {
        (kind, 0): [(other, 0) for other in _ORDER if (kind, other) in graph.edges]
        for kind in _ORDER
    }
    return _assembled(graph, blocks, follows)


def _of_metapath(graph: PageGraph, path: Sequence[NodeType]) -> StateGraph:
    shown = " - ".join(path)
    if len(path) < 2 or path[0] != "page" or path[-1] != "page":
        raise ConfigError(
            "section linksage, walks.metapaths",
            found=shown,
            expected="a path from page to page",
            remedy="Walks go through it over and over: begin and end it with `page`.",
        )
    for step in pairwise(path):
        if step not in graph.edges:
            raise ConfigError(
                "section linksage, walks.metapaths",
                found=f"{shown}, and no edges from {step[0]} to {step[1]}",
                expected=f"steps of {', '.join('-'.join(kind) for kind in sorted(graph.edges))}",
                remedy="Correct the path.",
            )
    places = sorted(enumerate(path[:-1]), key=lambda one: (_ORDER.index(one[1]), one[0]))
    blocks = {(kind, place): graph.counts[kind] for place, kind in places}
    length = len(path) - 1
    follows = {
        (kind, place): [(path[(place + 1) % length], (place + 1) % length)]
        for kind, place in blocks
    }
    return _assembled(graph, blocks, follows)


def _assembled(
    graph: PageGraph, sizes: Mapping[Block, int], follows: Mapping[Block, Sequence[Block]]
) -> StateGraph:
    """The edges of all blocks, one after the other, with an edge to the end where there is none."""
    device = graph.cluster.device
    spans, end = {}, 0
    for block, size in sizes.items():
        spans[block] = (end, end + size)
        end += size
    rows = [
        _merged([graph.edges[block[0], to[0]] for to in follows[block]],
                [spans[to][0] for to in follows[block]], size, end, device)
        for block, size in sizes.items()
    ]  # fmt: skip
    rows.append(_merged([], [], 1, end, device))
    degrees = torch.cat([degree for degree, _, _ in rows])
    offsets = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    weights = torch.cat([weight for _, _, weight in rows])
    return StateGraph(
        offsets,
        torch.cat([targets for _, targets, _ in rows]),
        None if _alike(offsets, weights) else weights,
        spans,
        follows,
        ("page", 0),
        _neighbour_numbers(graph, sizes, end),
    )


def _merged(
    parts: Sequence[Csr], shifts: Sequence[int], size: int, end: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Degrees (size,), targets and weights of nodes over several kinds of edges, kind by kind."""
    degrees = sum(
        (part.degrees for part in parts), torch.zeros(size, dtype=torch.int64, device=device)
    )
    lost = degrees == 0
    total = degrees + lost
    first = total.cumsum(0) - total
    targets = torch.full((int(total.sum()),), end, dtype=torch.int64, device=device)
    weights = torch.ones(len(targets), device=device)
    for part, shift in zip(parts, shifts, strict=True):
        own = torch.repeat_interleave(torch.arange(size, device=device), part.degrees)
        within = torch.arange(len(own), device=device) - part.offsets[:-1][own]
        targets[first[own] + within] = part.targets + shift
        weights[first[own] + within] = part.weights
        first = first + part.degrees
    return total, targets, weights


def _alike(offsets: Tensor, weights: Tensor) -> bool:
    own = torch.repeat_interleave(offsets[:-1], offsets.diff())
    return bool((weights == weights[own]).all())


def _neighbour_numbers(graph: PageGraph, sizes: Mapping[Block, int], end: int) -> Tensor | None:
    device = graph.cluster.device
    pins, pages = (graph.counts[kind] for kind in NEIGHBOUR_TYPES)
    first = {"pin": 0, "page": pins}
    past = max(pins + pages, end)
    parts = [
        torch.arange(first[kind], first[kind] + size, device=device)
        if kind in first
        else torch.full((size,), past, device=device)
        for (kind, _), size in sizes.items()
    ]
    numbers = torch.cat([*parts, torch.full((1,), past, device=device)])
    counted = numbers < pins + pages
    states = torch.arange(len(numbers), device=device)
    same = bool((numbers == states)[counted].all()) and bool(
        (states[~counted] >= pins + pages).all()
    )
    return None if same else numbers
