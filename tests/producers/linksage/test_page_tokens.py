"""Tokens of pages against loops over their neighbours and images."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError
from provender.producers.linksage.config import ModelConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_tokens import TokenSource, content_dims
from tests.producers.linksage.planted_pages import planted, small

PLANTED = planted()
PAGES = torch.arange(PLANTED.graph.counts["page"])


def _source(**model: Any) -> TokenSource:
    config: ModelConfig = small(model=model).model
    return TokenSource.of(PLANTED.features, PLANTED.graph, PLANTED.neighbours, config)


def _neighbours_of(page: int) -> list[tuple[int, int, int]]:
    """(type, node, visits), the most visited first."""
    found = PLANTED.neighbours
    span = range(int(found.offsets[page]), int(found.offsets[page + 1]))
    return [(int(found.types[i]), int(found.nodes[i]), int(found.visits[i])) for i in span]


@pytest.mark.parametrize("most", [0, 3, 8])
def test_neighbours_are_the_first_ones_but_the_left_out_pin(most: int) -> None:
    pins = PLANTED.graph.counts["pin"]
    first = [next((n for t, n, _ in _neighbours_of(int(p)) if t == 0), 0) for p in PAGES]
    tokens = _source(neighbours=most).tokens(PAGES, without=torch.tensor(first))
    for page, left_out in zip(PAGES.tolist(), first, strict=True):
        expected = [one for one in _neighbours_of(page) if one[:2] != (0, left_out)][:most]
        has = tokens.has_neighbour[page]
        assert has.tolist() == [True] * len(expected) + [False] * (len(has) - len(expected))
        assert tokens.neighbours[page][has].tolist() == [t * pins + n for t, n, _ in expected]
        visits = [math.log(1 + v) for *_, v in expected]
        torch.testing.assert_close(tokens.visits[page][has], torch.tensor(visits))
        assert math.exp(float(tokens.degree[page])) - 1 == pytest.approx(
            int(PLANTED.neighbours.degrees[page])
        )


@given(st.integers(0, 2**31), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_no_positive_is_among_its_own_tokens(seed: int, most: int) -> None:
    graph = PLANTED.graph
    rows = torch.from_numpy(np.random.default_rng(seed).integers(0, len(graph.positive_pin), 20))
    page, pin = graph.positive_page[rows], graph.positive_pin[rows]
    tokens = _source(neighbours=most).tokens(page, without=pin)
    assert not bool(((tokens.neighbours == pin.unsqueeze(1)) & tokens.has_neighbour).any())
    whole = _source(neighbours=most).tokens(page)
    assert whole.has_neighbour.shape[1] <= most


def test_who_is_shown_alone_has_no_neighbours_and_others_keep_theirs() -> None:
    alone = PAGES % 2 == 0
    tokens, whole = _source().tokens(PAGES, alone=alone), _source().tokens(PAGES)
    assert not bool(tokens.has_neighbour[alone].any())
    assert torch.equal(tokens.neighbours[~alone], whole.neighbours[~alone])


def test_images_are_tokens_of_their_share_or_one_mean() -> None:
    pages = PLANTED.features.pages
    mean, each = _source().tokens(PAGES), _source(images="tokens", most_images=2).tokens(PAGES)
    assert mean.images.shape[1] == 1
    assert each.images.shape[1] == 2
    for page in PAGES.tolist():
        own = slice(*pages.image_offsets[page : page + 2])
        sizes, images = pages.image_sizes[own][:2], pages.images[own][:2]
        has = each.has_image[page]
        assert int(has.sum()) == len(images)
        np.testing.assert_array_equal(each.images[page][has].numpy(), images)
        np.testing.assert_allclose(each.shares[page][has].numpy(), sizes / sizes.sum(), rtol=1e-5)
        assert bool(mean.has_image[page]) == bool(len(images))
        np.testing.assert_array_equal(mean.images[page, 0].numpy(), pages.mean_images()[page])


def test_distinct_nodes_show_what_their_pins_and_pages_show() -> None:
    source, features = _source(), PLANTED.features
    tokens, nodes = source.distinct(source.tokens(PAGES))
    assert len(nodes.types) == len(torch.unique(source.tokens(PAGES).neighbours))
    for page in PAGES.tolist():
        for place, (kind, node, _) in enumerate(_neighbours_of(page)[:8]):
            shown = (features.pins, features.pages)[kind]
            row = int(PLANTED.graph.representative[node]) if kind == 0 else node
            found = int(tokens.neighbours[page, place])
            assert int(nodes.types[found]) == kind
            np.testing.assert_array_equal(nodes.text[found].numpy(), shown.text[row])
            np.testing.assert_array_equal(nodes.image[found].numpy(), shown.mean_images()[row])


@given(st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_parts_have_every_page_once_and_little_padding(size: int) -> None:
    tokens = _source().tokens(PAGES)
    lengths = 2 + tokens.has_image.sum(1) + tokens.has_neighbour.sum(1)
    parts = tokens.parts(size)
    assert torch.equal(torch.cat(parts).sort().values, PAGES)
    ends = [(int(lengths[part].min()), int(lengths[part].max())) for part in parts]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    for part, (_, longest) in zip(parts, ends, strict=True):
        assert len(part) == 1 or len(part) * longest <= size
        some = tokens.of(part)
        assert some.has_neighbour.shape[1] == int(tokens.has_neighbour[part].sum(1).max())
        for row, page in enumerate(part.tolist()):
            own, all_own = some.has_neighbour[row], tokens.has_neighbour[page]
            assert torch.equal(some.neighbours[row][own], tokens.neighbours[page][all_own])


def test_features_of_nothing_are_refused() -> None:
    nothing = np.zeros((3, 0), np.float32)
    none = np.zeros(4, np.int64)
    empty = NodeFeatures(np.arange(3), nothing, nothing[:0], none, np.zeros(0, np.float32))
    with pytest.raises(ConfigError, match="neither texts nor images"):
        content_dims(Features(empty, empty, None))
