"""The encoder against one that does everything, page by page, token by token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from provender.producers.linksage import page_encoder
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.page_encoder import Layer, PageEncoder, encode
from provender.producers.linksage.page_tokens import Nodes, PageTokens, TokenSource
from tests.producers.linksage.planted_pages import IMAGE, TEXT, planted, small

PLANTED = planted()
PAGES = torch.arange(PLANTED.graph.counts["page"])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"merge_neighbours": False},
    {"images": "tokens", "most_images": 2},
    {"merge_neighbours": False, "images": "tokens", "most_images": 3, "layers": 3},
    {"layers": 1, "neighbours": 3},
    {"neighbours": 0},
]


def _of(model: dict[str, Any]) -> tuple[PageEncoder, PageTokens, Nodes]:
    config: LinkSageConfig = small(model=model)
    torch.manual_seed(1)
    encoder = PageEncoder(config.model, TEXT, IMAGE).eval()
    encoder.head.reset_parameters()  # as if it had learned something
    for one in (encoder.straight.text, encoder.straight.image):
        assert one is not None
        torch.nn.init.normal_(one.deviation)
    source = TokenSource.of(PLANTED.features, PLANTED.graph, PLANTED.neighbours, config.model)
    return encoder, *source.distinct(source.tokens(PAGES))


def _project(layer: page_encoder.Projection, x: Tensor) -> Tensor:
    return (math.sqrt(len(x)) * x.double()) @ layer.weight.double().T + layer.bias.double()


def _slow_tokens(encoder: PageEncoder, tokens: PageTokens, nodes: Nodes, page: int) -> list[Tensor]:
    """All tokens of a page, in float64."""
    config = encoder.config
    own, found = encoder.own, [encoder.output + tokens.degree[page] * encoder.degree]
    assert own.text is not None
    assert own.image is not None
    if bool(tokens.text[page].any()):
        found.append(_project(own.text, tokens.text[page]))
    for place in range(tokens.images.shape[1]):
        if bool(tokens.has_image[page, place]):
            image = _project(own.image, tokens.images[page, place])
            if config.images == "tokens":
                image = image + encoder.image_position[place]
                image = image + tokens.shares[page, place] * encoder.image_share
            found.append(image)
    for place in range(tokens.neighbours.shape[1]):
        if bool(tokens.has_neighbour[page, place]):
            node = int(tokens.neighbours[page, place])
            told = encoder.kind[nodes.types[node]] + encoder.position[place]
            told = told + tokens.visits[page, place] * encoder.visits
            both = encoder.neighbour
            assert both.text is not None
            assert both.image is not None
            text, image = (
                _project(both.text, nodes.text[node]),
                _project(both.image, nodes.image[node]),
            )
            if config.merge_neighbours:
                found.append(text + image + told)
            else:
                found += [text + told] if bool(nodes.text[node].any()) else []
                found += [image + told] if bool(nodes.image[node].any()) else []
    return [each.double() for each in found]


def _slow_layer(layer: Layer, tokens: list[Tensor]) -> list[Tensor]:
    """A layer as the paper has it, head by head; in float64."""
    layer = layer.double()
    width = len(tokens[0])
    of_head = width // layer.heads
    normed = [layer.attention_norm(each) for each in tokens]
    q, k, v = layer.query_key_value.weight.split(width)
    mixed = []
    for own in normed:
        heads = []
        for head in range(layer.heads):
            rows = slice(head * of_head, (head + 1) * of_head)
            scores = [q[rows] @ own @ (k[rows] @ other) / math.sqrt(of_head) for other in normed]
            shares = torch.stack(scores).softmax(0)
            heads.append(sum(s * (v[rows] @ o) for s, o in zip(shares, normed, strict=True)))
        mixed.append(layer.mix(torch.cat(heads)))
    after = [token + other for token, other in zip(tokens, mixed, strict=True)]
    return [each + layer.down(layer.up(layer.dense_norm(each)).relu()) for each in after]


def _slow_content(encoder: PageEncoder, tokens: PageTokens, nodes: Nodes, page: int) -> Tensor:
    """The straight way of a page: its own content and its neighbours' by visits; in float64."""
    of_text, of_image = encoder.straight.text, encoder.straight.image
    assert of_text is not None
    assert of_image is not None

    def straight(text: Tensor, image: Tensor) -> Tensor:
        both = ((of_text, text), (of_image, image))
        maps = [(one.base + 0.1 * one.deviation).double() @ x.double() for one, x in both]
        return maps[0] + maps[1]

    image = torch.zeros(IMAGE)
    for place in range(tokens.images.shape[1]):
        image = image + tokens.shares[page, place] * tokens.images[page, place]
    found = straight(tokens.text[page], image)
    visits = tokens.visits[page][tokens.has_neighbour[page]].double()
    for place, weight in enumerate(visits / visits.sum()):
        node = int(tokens.neighbours[page, place])
        share = encoder.share[nodes.types[node]]
        found = found + weight * share * straight(nodes.text[node], nodes.image[node])
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_equal_to_everything_done_in_full(variant: dict[str, Any]) -> None:
    encoder, tokens, nodes = _of(variant)
    found = encode(encoder, tokens, nodes)
    assert found.dtype == torch.float32
    layers = [layer for layer in encoder.layers if isinstance(layer, Layer)]
    for page in range(0, len(PAGES), 7):
        x = _slow_tokens(encoder, tokens, nodes, page)
        for layer in layers:
            x = _slow_layer(layer, x)
            layer.float()
        expected = encoder.double().head(encoder.norm(x[0]))
        encoder.float()
        expected = expected + _slow_content(encoder, tokens, nodes, page)
        torch.testing.assert_close(found[page].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_neither_order_nor_padding_nor_parts_change_anything(
    variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tokens, nodes = _of(variant)
    whole = encoder(tokens, nodes if encoder.config.neighbours else None)
    order = torch.randperm(len(PAGES), generator=torch.Generator().manual_seed(3))
    shuffled = encode(encoder, tokens.of(order), nodes)
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-6)
    for size in (1, 50, 10**6):
        monkeypatch.setitem(page_encoder._PART, "cpu", size)
        torch.testing.assert_close(encode(encoder, tokens, nodes), whole, rtol=0, atol=1e-6)
    assert encode(encoder, tokens.of(order[:0]), nodes).shape == (0, encoder.config.dim)


@torch.no_grad()
def test_what_stands_in_padding_does_not_matter() -> None:
    encoder, tokens, nodes = _of({"images": "tokens"})
    before = encoder(tokens, nodes)
    tokens.neighbours[~tokens.has_neighbour] = 3
    tokens.visits[~tokens.has_neighbour] = 1e3
    tokens.images[~tokens.has_image] = 1e3
    assert torch.equal(encoder(tokens, nodes), before)
    tokens.visits[tokens.has_neighbour] += 1
    assert not torch.allclose(encoder(tokens, nodes), before, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_the_last_layer_for_the_output_token_only(masked: bool) -> None:
    torch.manual_seed(2)
    layer = Layer(small(model={"width": 24, "heads": 3}).model).double().eval()
    x = torch.randn(5, 9, 24, dtype=torch.float64)
    mask = torch.rand(5, 9) < 0.6
    mask[:, 0] = True
    whole = layer(x, mask if masked else None)[:, 0]
    torch.testing.assert_close(layer.output_only(x, mask if masked else None), whole)


@torch.no_grad()
def test_projected_once_is_projected_each_time() -> None:
    encoder, tokens, nodes = _of({"merge_neighbours": False})
    place = tokens.neighbours.flatten()
    each = Nodes(nodes.text[place], nodes.image[place], nodes.types[place])
    apart = PageTokens(
        **{**vars(tokens), "neighbours": torch.arange(len(place)).view_as(tokens.neighbours)}
    )
    torch.testing.assert_close(encoder(apart, each), encoder(tokens, nodes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant: dict[str, Any]) -> None:
    encoder, tokens, nodes = _of(variant)
    vectors = encode(encoder.train(), tokens, nodes)
    vectors.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad.unsqueeze(1)
        used = rows.abs().amax(1) > 0
        # ReLU's dead units aside, every row and entry takes part.
        assert float(used.float().mean()) > 0.7, name


@torch.no_grad()
def test_brain_floats_are_near() -> None:
    encoder, tokens, nodes = _of({"width": 64, "feedforward": 128})
    whole = encode(encoder, tokens, nodes)
    with torch.autocast("cpu", torch.bfloat16):
        found = encode(encoder, tokens, nodes)
    assert found.dtype == torch.float32
    assert not torch.equal(found, whole)
    assert float(torch.cosine_similarity(found, whole).min()) > 0.999
