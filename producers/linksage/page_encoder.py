"""The page encoder: a pre-norm Transformer over a page's tokens, read off an output token.

Vaswani et al. 2017, with norms before each part (Xiong et al. 2020). What would be computed for
nothing is not: the last layer has the output token as its only query, so keys and values of the
others are never made; a neighbour is projected once for all pages that have it; text and image of
a neighbour are one token.

Legend of shapes: B pages, T tokens, w width, H heads, h = w / H, U distinct neighbours, K of a
page, J tokens a neighbour (1 merged, else 1 or 2), I images.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provender.producers.linksage.config import ModelConfig
from provender.producers.linksage.dense import linear
from provender.producers.linksage.page_tokens import Nodes, PageTokens
from provender.producers.linksage.straight import Straight

#: Tokens (U, J, w) of neighbours, before position and visits, which there are: bool (U, J), and
#: their contents' straight way: (U, dim).
Projected = tuple[Tensor, Tensor, Tensor]


class PageEncoder(nn.Module):
    """Tokens of B pages to float32 (B, dim); who uses a prefix of it normalises it."""

    def __init__(self, config: ModelConfig, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.own = Content(text_dim, image_dim, width)
        self.output = _vectors(width)
        self.degree = _vectors(width)
        if image_dim and config.images == "tokens":
            self.image_position = _vectors(config.most_images, width)
            self.image_share = _vectors(width)
        if config.neighbours:
            self.neighbour = Content(text_dim, image_dim, width)
            self.kind = _vectors(2, width)
            self.position = _vectors(config.neighbours, width)
            self.visits = _vectors(width)
            #: How much the mean of a page's neighbours, pins and pages, adds to its own content.
            self.share = nn.Parameter(torch.full((2,), 0.5))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)
        self.head = small_head(width, config.dim)
        self.straight = Straight(text_dim, image_dim, config.dim)

    def forward(self, tokens: PageTokens, nodes: Nodes | Projected | None) -> Tensor:
        """Encode pages whose `neighbours` are rows of `nodes`, as they are or projected.

        None will do where no page has any.
        """
        projected = self.project(nodes) if isinstance(nodes, Nodes) else nodes
        x, mask = self.embed(tokens, projected)  # (B, T, w)
        x = self.dropout(x)
        *first, last = (cast(Layer, layer) for layer in self.layers)
        for layer in first:
            x = layer(x, mask)
        x = self.norm(last.output_only(x, mask))  # (B, w)
        deep = linear(x, self.head.weight, self.head.bias)
        return deep.float() + self._content(tokens, projected).float()

    def _content(self, tokens: PageTokens, projected: Projected | None) -> Tensor:
        """The page's own content and the mean of its neighbours' by visits, (B, dim)."""
        images = tokens.images
        if images.shape[1]:
            images = (images * tokens.shares.unsqueeze(2)).sum(1)
        else:
            images = images.new_zeros(len(tokens), images.shape[2])
        own: Tensor = self.straight(tokens.text, images)
        if projected is None or not tokens.neighbours.shape[1]:
            return own
        weights = tokens.visits * tokens.has_neighbour
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        near = F.embedding_bag(
            tokens.neighbours, projected[2], per_sample_weights=weights, mode="sum"
        )
        return own + near

    def project(self, nodes: Nodes) -> Projected:
        """The tokens of U neighbours, which all pages share."""
        parts, has = self.neighbour(nodes.text, nodes.image)
        if self.config.merge_neighbours:
            parts, has = [sum(parts)], [torch.ones_like(has[0])]
        of_kind = self.kind[nodes.types]
        content = self.straight(nodes.text, nodes.image).float()
        content = content * self.share[nodes.types].unsqueeze(1)
        return torch.stack([part + of_kind for part in parts], 1), torch.stack(has, 1), content

    def embed(
        self, tokens: PageTokens, projected: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """All tokens (B, T, w), the output token first, and which there are, None where all."""
        count = len(tokens)
        output = self.output + tokens.degree.unsqueeze(1) * self.degree
        parts, has = [output.unsqueeze(1)], [tokens.has_image.new_ones(count, 1)]
        of_text, of_images = self.own.text, self.own.image
        if of_text is not None:
            parts.append(of_text(tokens.text).unsqueeze(1))
            has.append(tokens.text.any(1, keepdim=True))
        if of_images is not None and tokens.images.shape[1]:
            images = of_images(tokens.images)
            if self.config.images == "tokens":
                images = images + self.image_position[: images.shape[1]]
                images = images + tokens.shares.unsqueeze(2) * self.image_share
            parts.append(images)
            has.append(tokens.has_image)
        if projected is not None and tokens.neighbours.shape[1]:
            values, there = self._neighbours(tokens, projected)
            parts.append(values)
            has.append(there)
        mask = torch.cat(has, 1)
        return torch.cat(parts, 1), None if bool(mask.all()) else mask

    def _neighbours(self, tokens: PageTokens, projected: Projected) -> tuple[Tensor, Tensor]:
        values, there, _ = projected
        (count, most), each = tokens.neighbours.shape, values.shape[1]
        place = tokens.neighbours.flatten()
        values = values.flatten(1).index_select(0, place).view(count, most, each, -1)
        values = values + self.position[:most].unsqueeze(1)
        values = torch.addcmul(values, tokens.visits.view(count, most, 1, 1), self.visits)
        has = there[place].view(count, most, each) & tokens.has_neighbour.unsqueeze(2)
        return values.flatten(1, 2), has.flatten(1)


def encode(encoder: PageEncoder, tokens: PageTokens, nodes: Nodes) -> Tensor:
    """The vectors (B, dim) of pages whose `neighbours` are rows of `nodes`, in parts.

    A part's pages have about equally many tokens, so that hardly any are padding.
    """
    if not len(tokens):
        return encoder.head.weight.new_empty(0, encoder.config.dim)
    projected = encoder.project(nodes) if tokens.neighbours.shape[1] else None
    parts = tokens.parts(_PART[tokens.degree.device.type])
    vectors = torch.cat([encoder(tokens.of(part), projected) for part in parts])
    return vectors[torch.cat(parts).argsort()]


#: Tokens of a part: about what a core's caches hold, and what keeps a GPU busy.
_PART = {"cpu": 2048, "cuda": 1 << 18}


class Content(nn.Module):
    """Text and image vectors to the width of the Transformer; None for what no node has."""

    def __init__(self, text_dim: int, image_dim: int, width: int) -> None:
        super().__init__()
        self.text = Projection(text_dim, width) if text_dim else None
        self.image = Projection(image_dim, width) if image_dim else None

    def forward(self, text: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What there is of (n, a) and (n, b), as (n, w) each, and where they are not zero."""
        both = [(self.text, text), (self.image, image)]
        known = [(project(x), x.any(1)) for project, x in both if project is not None]
        return [values for values, _ in known], [has for _, has in known]


class Projection(nn.Linear):
    """Of rows of norm 1, whose entries are brought to a variance of 1 first."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return linear(x * math.sqrt(self.in_features), self.weight, self.bias)


class Layer(nn.Module):
    """Self-attention, then two dense layers; each normalises what it reads and adds to it.

    Queries, keys and values have no biases: softmax does not see that of keys, and the output's
    stands in for that of values.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.feedforward)
        self.down = nn.Linear(config.feedforward, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, T, w), of which `mask` (B, T) says which there are, to new ones."""
        normed = self.attention_norm(x)
        three = linear(normed, self.query_key_value.weight)
        q, k, v = three.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, h)
        where = None if mask is None else mask[:, None, None, :]
        found = F.scaled_dot_product_attention(q, k, v, where).transpose(1, 2).flatten(2)
        return self._dense(x + self.dropout(linear(found, self.mix.weight, self.mix.bias)))

    def output_only(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What `forward` gives of the first token, (B, w).

        With q one token, q (W_k x) = (W_k' q) x and sum p (W_v x) = W_v (sum p x): the projections
        of keys and values are applied B times, not B T times.
        """
        normed = self.attention_norm(x)
        weight = self.query_key_value.weight.unflatten(0, (3, self.heads, -1))  # (3, H, h, w)
        q = torch.einsum("bw,ndw->bnd", normed[:, 0], weight[0])
        q = torch.einsum("bnd,ndw->bnw", q / math.sqrt(q.shape[2]), weight[1])
        normed = normed.to(q.dtype)  # what autocast has made of it
        scores = (q @ normed.transpose(1, 2)).float()  # (B, H, T)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(1), -math.inf)
        pooled = scores.softmax(2).to(q.dtype) @ normed  # (B, H, w)
        found = torch.einsum("bnw,ndw->bnd", pooled, weight[2]).flatten(1)
        return self._dense(x[:, 0] + self.dropout(linear(found, self.mix.weight, self.mix.bias)))

    def _dense(self, x: Tensor) -> Tensor:
        normed = self.dense_norm(x)
        inner = linear(normed, self.up.weight, self.up.bias, then="relu")
        found: Tensor = x + self.dropout(linear(inner, self.down.weight, self.down.bias))
        return found


def small_head(width: int, dim: int) -> nn.Linear:
    """A last layer that adds little to the straight way as long as nothing is learned."""
    head = nn.Linear(width, dim)
    nn.init.normal_(head.weight, std=0.05 / math.sqrt(width))
    nn.init.zeros_(head.bias)
    return head


def _vectors(*shape: int) -> nn.Parameter:
    """Learned embeddings, small at first."""
    return nn.Parameter(torch.randn(*shape) * 0.02)
