"""Vectors of pages and pins from a trained model, in blocks, without padding to speak of.

Pages of a block are encoded in parts of as many tokens as caches like, pages with equally many
tokens together; what their neighbours show is projected once for the whole block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from provender.plugin.errors import ConfigError
from provender.producers.devices import pick_device
from provender.producers.linksage.features import Features
from provender.producers.linksage.page_encoder import encode
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_model import PageModel, brain_float, takes_given
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_tokens import (
    TokenSource,
    content_dims,
    content_of,
    shared,
)
from provender.producers.vectors import Vectors

#: Is told how many are done, of how many.
OnEmbedded = Callable[[int, int], None]
#: Pages, or pins, that are worked on at a time.
BLOCK = 8192


def embed_pages(
    model: PageModel,
    features: Features,
    graph: PageGraph,
    neighbours: Neighbours,
    pages: Tensor | None = None,
    *,
    aligned: bool = False,
    device: str = "auto",
    on_progress: OnEmbedded | None = None,
) -> NDArray[np.float32]:
    """The vectors of pages (n, dim), of norm 1.

    Args:
        pages: int64 (n,), page numbers in any order; None for all.
        aligned: whether row i of `neighbours` is that of ``pages[i]``; else it has a row for every
            page of the graph.

    Raises ConfigError for features of other lengths than the model's, or an unknown device.
    """
    _check_lengths(model, features)
    where = pick_device(device)
    pages = torch.arange(graph.counts["page"]) if pages is None else pages
    rows = torch.arange(len(pages)) if aligned else pages
    source = TokenSource.of(features, graph, neighbours, model.config.model)
    found = np.empty((len(pages), model.config.model.dim), np.float32)
    model.to(where).modules.eval()
    with torch.inference_mode(), brain_float(model, where):
        for start in range(0, len(pages), BLOCK):
            block = slice(start, start + BLOCK)
            tokens, nodes = source.distinct(source.tokens(rows[block], pages[block]))
            vectors = encode(model.encoder, tokens.to(where), nodes.to(where))
            found[block] = F.normalize(vectors, dim=1).cpu().numpy()
            if on_progress:
                on_progress(min(start + BLOCK, len(pages)), len(pages))
    return found


def embed_pins(
    model: PageModel,
    features: Features,
    pins: Tensor | None = None,
    *,
    device: str = "auto",
    on_progress: OnEmbedded | None = None,
) -> NDArray[np.float32]:
    """The vectors of pins (n, dim), of norm 1: given ones, or the tower's.

    Rows of NaN where no vector was given.

    Args:
        pins: int64 (n,), rows of the pins' features (not nodes of a graph); None for all.
    """
    pins = torch.arange(len(features.pins)) if pins is None else pins
    if model.pin_tower is None:
        takes_given(model.config, features)
        given = torch.empty(0) if features.targets is None else shared(features.targets)
        return F.normalize(given.index_select(0, pins).float(), dim=1).numpy()
    _check_lengths(model, features)
    where = pick_device(device)
    text, image = content_of(features.pins)
    found = np.empty((len(pins), model.config.model.dim), np.float32)
    model.to(where).modules.eval()
    with torch.inference_mode(), brain_float(model, where):
        for start in range(0, len(pins), BLOCK):
            rows = pins[start : start + BLOCK]
            both = (table.index_select(0, rows).to(where) for table in (text, image))
            vectors = F.normalize(model.pin_tower(*both), dim=1)
            found[start : start + BLOCK] = vectors.cpu().numpy()
            if on_progress:
                on_progress(min(start + BLOCK, len(pins)), len(pins))
    return found


def has_vector(pins: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pins (q, dim) have a vector to be compared with: bool (q,)."""
    return np.asarray(np.isfinite(pins).all(axis=1) & pins.any(axis=1))


def pins_with_vectors(features: Features, pins: NDArray[np.float32]) -> Vectors:
    """Keys and vectors of the pins that have one, of all (q, dim)."""
    there = has_vector(pins)
    keys = features.pins.keys.filter(pa.array(there))
    return Vectors(keys, np.ascontiguousarray(pins[there]))


def _check_lengths(model: PageModel, features: Features) -> None:
    found, expected = content_dims(features), (model.text_dim, model.image_dim)
    if found != expected:
        raise ConfigError(
            "features of pages and pins",
            found=f"texts and images of {found} numbers",
            expected=f"{expected}, as the model was trained on",
            remedy="Compute them by the encoders that were fitted with the model.",
        )
