"""Neighbours for training, against walks in graphs that were built without the pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from provender.producers.linksage.config import WalkConfig
from provender.producers.linksage.page_folds import _folds, neighbours_apart
from provender.producers.linksage.page_graph import Csr, PageGraph
from provender.producers.linksage.page_neighbours import Neighbours, find_neighbours

PAGES, PINS, BOARDS = 12, 20, 3


def csr(pairs: set[tuple[int, int]], sources: int) -> Csr:
    ordered = sorted(pairs)
    counts = torch.bincount(
        torch.tensor([a for a, _ in ordered], dtype=torch.int64), minlength=sources
    )
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Csr(offsets, torch.tensor([b for _, b in ordered]), torch.ones(len(ordered)))


def graph(pairs: set[tuple[int, int]]) -> PageGraph:
    """Of (pin, page) pairs, all of them positives, and boards on which pins are."""
    boards = {(board, pin) for board in range(BOARDS) for pin in range(board, PINS, BOARDS + 1)}
    pin, page = torch.tensor(sorted(pairs)).T.contiguous()
    return PageGraph(
        counts={"page": PAGES, "pin": PINS, "board": BOARDS, "link": 0},
        edges={
            ("pin", "page"): csr(pairs, PINS),
            ("page", "pin"): csr({(b, a) for a, b in pairs}, PAGES),
            ("board", "pin"): csr(boards, BOARDS),
            ("pin", "board"): csr({(b, a) for a, b in boards}, PINS),
        },
        cluster=torch.arange(PINS),
        representative=torch.arange(PINS),
        positive_pin=pin,
        positive_page=page,
        positive_weight=torch.ones(len(pin)),
        page_hashes=torch.arange(PAGES) * 7919 + 13,
        report={},
    )


PAIRS = {(pin, (pin * 5 + k) % PAGES) for pin in range(PINS) for k in range(3)}
GRAPH = graph(PAIRS)
WALKS = WalkConfig(walks=30, length=4, neighbours=10, folds=3)


def row(found: Neighbours, place: int) -> list[tuple[int, int, int]]:
    of = slice(int(found.offsets[place]), int(found.offsets[place + 1]))
    columns = (found.types[of], found.nodes[of], found.visits[of])
    return list(zip(*(each.tolist() for each in columns), strict=True))


def positives() -> list[tuple[int, int]]:
    return list(zip(GRAPH.positive_pin.tolist(), GRAPH.positive_page.tolist(), strict=True))


def test_a_positives_neighbours_are_those_without_its_fold() -> None:
    found = neighbours_apart(GRAPH, WALKS, seed=3)
    folds = _folds(GRAPH, 3)
    assert set(folds.tolist()) == {0, 1, 2}
    for fold in range(3):
        gone = {pair for pair, of in zip(positives(), folds.tolist(), strict=True) if of == fold}
        less = graph(PAIRS - gone)
        walked = find_neighbours(replace(less, page_hashes=GRAPH.page_hashes), WALKS, 3)
        for place, (_, page) in enumerate(positives()):
            if int(folds[place]) == fold:
                assert row(found, place) == row(walked, page)
                assert int(found.degrees[place]) == int(walked.degrees[page])


def test_folds_follow_the_pairs_and_not_their_places() -> None:
    fewer = sorted(PAIRS)[::2]
    whole = dict(zip(positives(), _folds(GRAPH, 3).tolist(), strict=True))
    some = _folds(graph(set(fewer)), 3)
    assert some.tolist() == [whole[pair] for pair in fewer]


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_a_row_each(folds: int) -> None:
    walks = WALKS.model_copy(update={"folds": folds})
    found = neighbours_apart(GRAPH, walks, seed=3)
    sizes: Tensor = found.offsets.diff()
    assert len(sizes) == len(PAIRS)
    if folds == 1:
        whole = find_neighbours(GRAPH, walks, 3)
        assert all(row(found, n) == row(whole, page) for n, (_, page) in enumerate(positives()))
