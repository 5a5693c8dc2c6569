"""Vectors of pages and pins, in blocks and in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers.linksage import page_embedding
from provender.producers.linksage.page_embedding import embed_pages, embed_pins
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_neighbours import Neighbours
from tests.producers.linksage.planted_pages import planted, small

PLANTED = planted()
FEATURES, GRAPH, NEIGHBOURS = PLANTED.features, PLANTED.graph, PLANTED.neighbours
torch.manual_seed(4)
GIVEN, JOINT = (
    PageModel.new(small(training={"targets": targets}), FEATURES) for targets in ("given", "joint")
)
WHOLE = embed_pages(GIVEN, FEATURES, GRAPH, NEIGHBOURS, device="cpu")


def _rows(pages: Tensor) -> Neighbours:
    """The neighbours of some pages only, in their order."""
    spans = [
        range(int(NEIGHBOURS.offsets[p]), int(NEIGHBOURS.offsets[p + 1])) for p in pages.tolist()
    ]
    kept = torch.tensor([i for span in spans for i in span])
    counts = torch.tensor([0] + [len(span) for span in spans])
    return Neighbours(
        counts.cumsum(0),
        NEIGHBOURS.types[kept],
        NEIGHBOURS.nodes[kept],
        NEIGHBOURS.visits[kept],
        NEIGHBOURS.degrees[pages],
    )


def test_vectors_have_norm_one_and_differ() -> None:
    assert WHOLE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(WHOLE, axis=1), 1, rtol=1e-5)
    assert len(np.unique(WHOLE.round(4), axis=0)) == len(WHOLE)


def test_some_pages_in_any_order_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_embedding, "BLOCK", 7)
    pages = torch.tensor([50, 3, 9, 19, 3, 0, 59, 21, 44])
    told: list[tuple[int, int]] = []
    found = embed_pages(
        GIVEN,
        FEATURES,
        GRAPH,
        NEIGHBOURS,
        pages,
        device="cpu",
        on_progress=lambda done, of: told.append((done, of)),
    )
    np.testing.assert_allclose(found, WHOLE[pages.numpy()], rtol=0, atol=1e-6)
    assert told == [(7, 9), (9, 9)]
    aligned = embed_pages(GIVEN, FEATURES, GRAPH, _rows(pages), pages, aligned=True, device="cpu")
    np.testing.assert_allclose(aligned, WHOLE[pages.numpy()], rtol=0, atol=1e-6)


def test_no_pages_and_no_neighbours_at_all() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert embed_pages(GIVEN, FEATURES, GRAPH, NEIGHBOURS, none).shape == (0, 16)
    nothing = Neighbours(
        torch.zeros(61, dtype=torch.int64),
        none.to(torch.uint8),
        none,
        none.to(torch.int32),
        torch.zeros(60, dtype=torch.int64),
    )
    alone = embed_pages(GIVEN, FEATURES, GRAPH, nothing, device="cpu")
    assert np.isfinite(alone).all()
    assert not np.allclose(alone, WHOLE, atol=1e-3)


def test_given_pins_are_given_back_at_norm_one() -> None:
    assert FEATURES.targets is not None
    targets = 3 * FEATURES.targets
    targets[5] = np.nan
    found = embed_pins(GIVEN, replace(FEATURES, targets=targets), torch.tensor([7, 5, 1]))
    np.testing.assert_allclose(found[[0, 2]], FEATURES.targets[[7, 1]], rtol=1e-5)
    assert np.isnan(found[1]).all()


def test_pins_of_the_tower_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed_pins(JOINT, FEATURES)
    monkeypatch.setattr(page_embedding, "BLOCK", 11)
    rows = torch.arange(len(whole)).flip(0)
    np.testing.assert_allclose(embed_pins(JOINT, FEATURES, rows), whole[::-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)


def test_features_of_another_length_are_refused() -> None:
    cut = replace(FEATURES.pages, text=FEATURES.pages.text[:, :5])
    with pytest.raises(ConfigError, match=r"numbers; expected \(12, 6\)"):
        embed_pages(GIVEN, replace(FEATURES, pages=cut), GRAPH, NEIGHBOURS)
