"""What a page encoder reads: a page's own text and images, and its most visited neighbours.

Legend of shapes: B pages, K neighbours, I images of a page, U distinct neighbours of all B pages,
a and b the lengths of text and image vectors. Nodes are numbered pins first, then pages.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers.linksage.config import ModelConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_neighbours import Neighbours

PAGE = 1  # in Neighbours.types; a pin is 0


@dataclass(frozen=True, eq=False)
class Nodes:
    """What U neighbours show: `text` (U, a), `image` (U, b), `types` int64 (U,), 0 pin, 1 page."""

    text: Tensor
    image: Tensor
    types: Tensor

    def to(self, device: torch.device) -> Nodes:
        """The same on another device."""
        return Nodes(self.text.to(device), self.image.to(device), self.types.to(device))


@dataclass(frozen=True, eq=False)
class PageTokens:
    """What B pages show, with the most visited neighbours first.

    `text` (B, a), zero where there is none; `images` (B, I, b), the largest first, and `shares`
    (B, I), how much of the area of the page's images each has; `has_image` bool (B, I);
    `degree` (B,), ln(1 + edges of the page); `neighbours` int64 (B, K), `visits` (B, K), ln(1 +
    visits), and `has_neighbour` bool (B, K). What has no token is 0 there.
    """

    text: Tensor
    images: Tensor
    shares: Tensor
    has_image: Tensor
    degree: Tensor
    neighbours: Tensor
    visits: Tensor
    has_neighbour: Tensor

    def __len__(self) -> int:
        return len(self.degree)

    def to(self, device: torch.device) -> PageTokens:
        """The same on another device."""
        return PageTokens(**{name: value.to(device) for name, value in vars(self).items()})

    def of(self, rows: Tensor) -> PageTokens:
        """Those of some of the B pages, no wider than these need."""
        some = {name: value.index_select(0, rows) for name, value in vars(self).items()}
        for has, names in _WIDTHS.items():
            width = int(some[has].sum(1).max()) if len(rows) else 0
            some |= {name: some[name][:, :width] for name in (has, *names)}
        return PageTokens(**some)

    def parts(self, tokens: int) -> list[Tensor]:
        """All B pages in parts of about so many tokens, pages of equal lengths together."""
        lengths, order = (2 + self.has_image.sum(1) + self.has_neighbour.sum(1)).sort(stable=True)
        parts, start = [], 0
        while start < len(order):
            padded = lengths[start:] * torch.arange(1, len(order) - start + 1).to(lengths)
            stop = start + max(1, int(torch.searchsorted(padded, tokens, right=True)))
            parts.append(order[start:stop])
            start = stop
        return parts


#: What is padded to one width, by what says where there is something, which comes first.
_WIDTHS = {"has_image": ("images", "shares"), "has_neighbour": ("neighbours", "visits")}


@dataclass(frozen=True, eq=False)
class TokenSource:
    """Where the tokens of pages come from: the features of all nodes and all neighbours."""

    text: tuple[Tensor, Tensor]  # of pins (raw ones) and of pages
    image: tuple[Tensor, Tensor]  # means
    images: Tensor
    image_offsets: Tensor
    image_sizes: Tensor
    representative: Tensor
    found: Neighbours
    nodes: Tensor  # of found.nodes, numbered over both types
    config: ModelConfig

    @classmethod
    def of(
        cls, features: Features, graph: PageGraph, found: Neighbours, config: ModelConfig
    ) -> TokenSource:
        """Of the neighbours that were found, in a graph of these features."""
        pins, pages = features.pins, features.pages
        return cls(
            text=(shared(pins.text), shared(pages.text)),
            image=(shared(pins.mean_images()), shared(pages.mean_images())),
            images=shared(pages.images),
            image_offsets=shared(pages.image_offsets),
            image_sizes=shared(pages.image_sizes),
            representative=graph.representative,
            found=found,
            nodes=found.nodes + torch.where(found.types == PAGE, graph.counts["pin"], 0),
            config=config,
        )

    def tokens(
        self,
        rows: Tensor,
        pages: Tensor | None = None,
        *,
        without: Tensor | None = None,
        alone: Tensor | None = None,
    ) -> PageTokens:
        """The tokens of `rows` (B,) of the neighbours that were found, which are of `pages` (B,).

        Args:
            pages: the same as `rows` by default: neighbours were found for all pages.
            without: (B,) a pin node each, which is left out of the page's neighbours. The pin that
                a page is to lie near to must not be read off its own tokens.
            alone: bool (B,), pages that are shown without neighbours.
        """
        pages = rows if pages is None else pages
        images, shares, has_image = self._own_images(pages)
        neighbours, visits, has_neighbour = self._neighbours(rows, without, alone)
        return PageTokens(
            text=self.text[1].index_select(0, pages),
            images=images,
            shares=shares,
            has_image=has_image,
            degree=self.found.degrees[rows].float().log1p(),
            neighbours=neighbours,
            visits=visits,
            has_neighbour=has_neighbour,
        )

    def distinct(self, tokens: PageTokens) -> tuple[PageTokens, Nodes]:
        """The neighbours of the tokens, each once, and the tokens with `neighbours` among them."""
        nodes, places = tokens.neighbours.unique(return_inverse=True)
        return replace(tokens, neighbours=places), self.nodes_of(nodes)

    def nodes_of(self, nodes: Tensor) -> Nodes:
        """What nodes (U,) show, ascending: pins first."""
        pins = len(self.representative)
        first = int(torch.searchsorted(nodes, pins))
        of_pins, of_pages = self.representative[nodes[:first]], nodes[first:] - pins
        both = [
            torch.cat([table[0].index_select(0, of_pins), table[1].index_select(0, of_pages)])
            for table in (self.text, self.image)
        ]
        return Nodes(both[0], both[1], (nodes >= pins).long())

    def _own_images(self, pages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.config.images == "mean":
            images = self.image[1].index_select(0, pages).unsqueeze(1)
            has = images.any(-1)
            return images, has.float(), has
        start, stop = self.image_offsets[pages], self.image_offsets[pages + 1]
        places, has = _ragged(start, stop, self.config.most_images)
        if not len(self.images):
            nothing = torch.zeros(places.shape)
            return self.images.new_zeros(*places.shape, self.images.shape[1]), nothing, has
        images = self.images[places] * has.unsqueeze(-1)
        sizes = self.image_sizes[places] * has
        total = sizes.sum(1, keepdim=True)
        equal = has / has.sum(1, keepdim=True).clamp(min=1)
        shares = torch.where(total > 0, sizes / total.clamp(min=1e-30), equal)
        return images, shares, has

    def _neighbours(
        self, rows: Tensor, without: Tensor | None, alone: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        most = self.config.neighbours
        start, stop = self.found.offsets[rows], self.found.offsets[rows + 1]
        # One more than are kept, as one may be left out.
        places, has = _ragged(start, stop, most + (without is not None))
        if not len(self.nodes):
            return places, torch.zeros(places.shape), has
        nodes, visits = self.nodes[places], self.found.visits[places].float().log1p()
        if without is not None:
            has = has & (nodes != without.unsqueeze(1))
            order = (~has).to(torch.int8).argsort(dim=1, stable=True)[:, :most]  # close the gap
            nodes, visits, has = (each.gather(1, order) for each in (nodes, visits, has))
        if alone is not None:
            has = has & ~alone.unsqueeze(1)
        width = int(has.sum(1).max()) if len(rows) else 0
        nodes, visits, has = nodes[:, :width], visits[:, :width], has[:, :width]
        return nodes * has, visits * has, has


def content_dims(features: Features) -> tuple[int, int]:
    """The lengths of text and image vectors; ConfigError where there are neither."""
    dims = features.pages.text.shape[1], features.pages.images.shape[1]
    if not any(dims):
        raise ConfigError(
            "features of pages and pins",
            found="neither texts nor images",
            expected="at least one of them",
            remedy="Declare `text`, `text_vector`, `images` or `image_vectors`.",
        )
    return dims


def content_of(nodes: NodeFeatures) -> tuple[Tensor, Tensor]:
    """Texts (n, a) and mean images (n, b) of nodes of one type."""
    return shared(nodes.text), shared(nodes.mean_images())


def shared(array: NDArray[Any]) -> Tensor:
    """An array as a tensor over the same memory, which may be mapped from a file: read only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it can't be written
        return torch.from_numpy(np.asarray(array))


def _ragged(start: Tensor, stop: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Places (B, L) from `start` on and which of them lie before `stop`; 0 where not; L <= most."""
    longest = min(int((stop - start).max()), most) if len(start) else 0
    places = start.unsqueeze(1) + torch.arange(longest)
    has = places < stop.unsqueeze(1)
    return places * has, has
