"""The neighbours of pages: the nodes that random walks from them visit most.

So did Pixie (Eksombatchai et al. 2018) and PinSage (Ying et al. 2018, section 3.1).

Legend of shapes: n starts, k visits of a start's walks, m neighbours in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.state_graph import NEIGHBOUR_TYPES as NEIGHBOUR_TYPES
from provender.producers.linksage.state_graph import StateGraph, state_graphs
from provender.producers.linksage.walks import TorchWalker, Walker, plan

#: Walks that go on together: on a CPU what a step needs of them stays in the caches.
WALKS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 22}
#: Of a block: how many neighbours each start has, their numbers, and their visits.
Block = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most visited nodes of n pages: of all, or of those that were asked for, in that order.

    Attributes:
        offsets: int64 (n + 1,): those of page i are ``nodes[offsets[i] : offsets[i + 1]]``.
        types: uint8 (m,), indices into NEIGHBOUR_TYPES.
        nodes: int64 (m,), numbers within their types.
        visits: int32 (m,), descending within a page; ties by type, then node.
        degrees: int64 (n,), the page's edges in the graph.
    """

    offsets: Tensor
    types: Tensor
    nodes: Tensor
    visits: Tensor
    degrees: Tensor


def find_neighbours(
    graph: PageGraph,
    config: WalkConfig,
    seed: int,
    starts: Tensor | None = None,
    *,
    walks_at_once: int | None = None,
) -> Neighbours:
    """Walk from pages and keep the nodes that are visited most, never the start itself.

    By torch's walker a page's neighbours depend on the seed, the hash of its key and what its walks
    can reach: not on other starts, their order, or `walks_at_once`, which bounds the memory. It
    runs where the graph's tensors are.

    Args:
        graph: of the pages.
        config: how they are walked from, and how many neighbours are kept.
        seed: of all draws.
        starts: int64 (n,), pages; None means all.
        walks_at_once: by device where not given.

    Raises:
        ConfigError: a metapath that the graph has no edges for, or DGL asked for and not there.
    """
    search = NeighbourSearch.of(graph, config, seed)
    return search.find(starts, walks_at_once=walks_at_once)


@dataclass(frozen=True, eq=False)
class NeighbourSearch:
    """What all searches of a graph need: its tables and walkers, for who asks again and again."""

    graph: PageGraph
    config: WalkConfig
    ways: tuple[tuple[Walker, StateGraph, Tensor], ...]

    @classmethod
    def of(cls, graph: PageGraph, config: WalkConfig, seed: int) -> NeighbourSearch:
        """Make them; raises as :func:`find_neighbours` does."""
        states = state_graphs(graph, config)
        numbers = torch.arange(config.walks, device=graph.cluster.device)
        ways = (
            (_walker(one, config, seed), one, numbers[place :: len(states)])
            for place, one in enumerate(states)
        )
        return cls(graph, config, tuple(ways))

    def find(self, starts: Tensor | None = None, *, walks_at_once: int | None = None) -> Neighbours:
        """The neighbours of `starts`, as :func:`find_neighbours` finds them."""
        graph, config, device = self.graph, self.config, self.graph.cluster.device
        if starts is None:
            starts = torch.arange(graph.counts["page"], device=device)
        most = walks_at_once or WALKS_AT_ONCE.get(device.type, WALKS_AT_ONCE["cuda"])
        blocks = []
        for block in starts.split(max(1, most // config.walks)) if len(starts) else ():
            hashes = graph.page_hashes[block]
            visited = [
                _neighbour_numbers(one, walker.walk(block, hashes, walks))
                for walker, one, walks in self.ways
            ]
            blocks.append(_most_visited(torch.cat(visited, dim=1), block, graph, config))
        return _joined(blocks, graph, starts)


def _walker(states: StateGraph, config: WalkConfig, seed: int) -> Walker:
    steps = plan(states, config.length, config.restart, config.neighbour_types)
    if config.walker == "dgl":
        from provender.producers.linksage.dgl_walks import DglWalker

        return DglWalker(states, steps, seed)
    return TorchWalker(states, steps, seed)


def _neighbour_numbers(states: StateGraph, visited: Tensor) -> Tensor:
    if states.nodes is None:
        return visited
    return states.nodes.to(visited.dtype).index_select(0, visited.view(-1)).view(visited.shape)


def _most_visited(visited: Tensor, starts: Tensor, graph: PageGraph, config: WalkConfig) -> Block:
    """Counts (n,) of neighbours, then their numbers and visits (m,), from visits (n, k).

    Visits in ascending order are runs of equal numbers, one a node. A run's length and where it
    begins make one number, of which the lowest are the longest runs, and of these the first.
    """
    width = visited.shape[1]
    visited = _sort_rows(visited)
    begins = torch.ones_like(visited, dtype=torch.bool)
    torch.ne(visited[:, 1:], visited[:, :-1], out=begins[:, 1:])
    places = begins.view(-1).nonzero().view(-1)
    lengths = places.diff(append=places.new_tensor([visited.numel()]))
    bits = width.bit_length()
    room = torch.int32 if 2 * bits < 32 else torch.int64
    never = torch.iinfo(room).max - width
    ranks = torch.full((visited.numel(),), never, dtype=room, device=visited.device)
    ranks[places] = ((width - lengths) << bits).to(room)
    ranks = ranks.view(visited.shape).add_(torch.arange(width, dtype=room, device=visited.device))
    ranks.masked_fill_(_are_none(visited, starts, graph, config), never)
    best = _sort_rows(ranks)[:, : config.neighbours]
    taken = best < never
    numbers = visited.gather(1, best.bitwise_and((1 << bits) - 1).clamp_(max=width - 1).long())
    return taken.sum(1), numbers[taken].long(), (width - (best >> bits))[taken].int()


def _are_none(visited: Tensor, starts: Tensor, graph: PageGraph, config: WalkConfig) -> Tensor:
    """Which of the visited (n, k) do not count: the start, and types that are not asked for."""
    pins, pages = (graph.counts[kind] for kind in NEIGHBOUR_TYPES)
    first = 0 if "pin" in config.neighbour_types else pins
    end = pins + pages if "page" in config.neighbour_types else pins
    none = visited == (starts + pins).to(visited.dtype)[:, None]
    if first:
        none |= visited < first
    return none.logical_or_(visited >= end)


def _joined(blocks: Sequence[Block], graph: PageGraph, starts: Tensor) -> Neighbours:
    """The blocks' neighbours, one after the other."""
    nothing = starts.new_zeros(0)
    counts, numbers, visits = (
        torch.cat([nothing, *parts])
        for parts in (zip(*blocks, strict=True) if blocks else [()] * 3)
    )
    pins = graph.counts[NEIGHBOUR_TYPES[0]]
    are_pages = numbers >= pins
    degrees = torch.zeros_like(starts)
    for (source, _), edges in graph.edges.items():
        if source == "page":
            degrees += edges.offsets[starts + 1] - edges.offsets[starts]
    return Neighbours(
        torch.cat([nothing.new_zeros(1), counts.cumsum(0)]),
        are_pages.to(torch.uint8),
        numbers - pins * are_pages,
        visits.int(),
        degrees,
    )


def _sort_rows(rows: Tensor) -> Tensor:
    """Each row ascending; on a CPU by NumPy, whose sort uses vector instructions."""
    if rows.device.type == "cpu":
        rows.numpy().sort(axis=1)
        return rows
    return rows.sort(dim=1).values
