"""The straight way: an untrained model is a search for the nearest content."""

from __future__ import annotations

import numpy as np
import torch

from provender.producers.linksage.page_embedding import embed_pages, embed_pins
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.straight import SLOWLY, Straight
from provender.producers.vectors import unit
from tests.producers.linksage.planted_pages import planted, small


def test_it_keeps_the_first_axes_of_texts_and_turns_images() -> None:
    way = Straight(6, 5, 4)
    text, image = torch.randn(3, 6), torch.randn(3, 5)
    none = torch.zeros(3, 5)
    torch.testing.assert_close(way(text, none), text[:, :4])
    assert way.image is not None
    turned = way(torch.zeros(3, 6), image)
    torch.testing.assert_close(turned, image @ way.image.base.T)
    gram = way.image.base @ way.image.base.T
    torch.testing.assert_close(gram, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(way(text, image), text[:, :4] + turned)
    # And every model turns them alike.
    other = Straight(6, 5, 4).image
    assert other is not None
    assert torch.equal(other.base, way.image.base)


def test_what_is_learned_is_a_deviation() -> None:
    way = Straight(3, 0, 2)
    assert way.text is not None
    way.text.deviation.data = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    found = way(torch.tensor([[1.0, 1.0, 1.0]]), torch.zeros(1, 0))
    torch.testing.assert_close(found, torch.tensor([[1 + 3 * SLOWLY, 1.0]]))


def test_an_untrained_model_finds_what_shows_the_same() -> None:
    given = planted()
    config = small(training={"targets": "joint"}, model={"neighbours": 0})
    torch.manual_seed(0)
    model = PageModel.new(config, given.features)
    pages = embed_pages(model, given.features, given.graph, given.neighbours, device="cpu")
    pins = embed_pins(model, given.features, device="cpu")
    own = Straight(given.features.pages.text.shape[1], given.features.pages.images.shape[1], 16)

    def straight(nodes: object) -> np.ndarray:
        text, image = nodes.text, nodes.mean_images()  # type: ignore[attr-defined]
        found = own(torch.from_numpy(text), torch.from_numpy(image)).detach().numpy()
        return unit(found)

    expected = straight(given.features.pages) @ straight(given.features.pins).T
    shows = np.abs(expected).sum(axis=1) > 0  # Some pages show nothing.
    found = (pages @ pins.T)[shows]
    assert np.corrcoef(found.ravel(), expected[shows].ravel())[0, 1] > 0.9
