"""Neighbours for training: those that a page has without the pair that is learned from.

A walk from a page goes through its own pairs. What lies behind the pin that is to be found tells of
it, even where the pin itself is left out of the tokens; and a pin that is not linked yet, which the
model is for, tells nothing of itself. So positives are dealt into folds, and the pages of a fold
are walked from in a graph without the fold's pairs, as stacked models are trained on predictions
for rows that were left out (Wolpert, Stacked Generalization, 1992).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_graph import Csr, PageGraph
from provender.producers.linksage.page_neighbours import Neighbours, find_neighbours


def neighbours_apart(graph: PageGraph, config: WalkConfig, seed: int) -> Neighbours:
    """Of each positive, in the graph's order, its page's neighbours without its fold's pairs.

    With one fold all pages would be without any pair: then they are those of the whole graph.
    """
    pages, folds = graph.positive_page, _folds(graph, config.folds)
    if config.folds == 1:
        used, rows = pages.unique(return_inverse=True)
        return taken(find_neighbours(graph, config, seed, used), rows)
    parts, order = [], []
    for fold in range(config.folds):
        of = (folds == fold).nonzero().squeeze(1)
        used, rows = pages[of].unique(return_inverse=True)
        less = _without(graph, graph.positive_pin[of], pages[of])
        parts.append(taken(find_neighbours(less, config, seed, used), rows))
        order.append(of)
    return taken(_joined(parts), torch.cat(order).argsort())


def _folds(graph: PageGraph, count: int) -> Tensor:
    """The fold of each positive, by what it is and not by its place: int64 (p,)."""
    mixed = graph.page_hashes[graph.positive_page] ^ (graph.positive_pin * 0x9E3779B97F4A7C1)
    mixed = (mixed ^ (mixed >> 29)) * 0x3C6EF372FE94F82B
    return ((mixed ^ (mixed >> 32)) & 0x7FFFFFFF) % count


def _without(graph: PageGraph, pins: Tensor, pages: Tensor) -> PageGraph:
    """The graph without the edges between these pins and pages."""
    gone = {
        ("pin", "page"): pins * graph.counts["page"] + pages,
        ("page", "pin"): pages * graph.counts["pin"] + pins,
    }
    edges = dict(graph.edges)
    for ends, codes in gone.items():
        if ends in edges:
            edges[ends] = _cut(edges[ends], codes, graph.counts[ends[1]])
    return replace(graph, edges=edges)


def _cut(edges: Csr, codes: Tensor, targets: int) -> Csr:
    source = torch.arange(len(edges.degrees)).repeat_interleave(edges.degrees)
    kept = ~torch.isin(source * targets + edges.targets, codes)
    degrees = torch.bincount(source[kept], minlength=len(edges.degrees))
    return Csr(_offsets(degrees), edges.targets[kept], edges.weights[kept])


def taken(found: Neighbours, rows: Tensor) -> Neighbours:
    """Some rows, in this order, perhaps several times."""
    sizes = found.offsets.diff()[rows]
    offsets = _offsets(sizes)
    within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(sizes)
    places = found.offsets[rows].repeat_interleave(sizes) + within
    return Neighbours(
        offsets,
        found.types[places],
        found.nodes[places],
        found.visits[places],
        found.degrees[rows],
    )


def _joined(parts: list[Neighbours]) -> Neighbours:
    """One after the other."""
    return Neighbours(
        _offsets(torch.cat([part.offsets.diff() for part in parts])),
        torch.cat([part.types for part in parts]),
        torch.cat([part.nodes for part in parts]),
        torch.cat([part.visits for part in parts]),
        torch.cat([part.degrees for part in parts]),
    )


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
