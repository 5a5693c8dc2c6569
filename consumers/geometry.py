"""How vectors of one space lie to each other: of two views, and of a candidate and the past.

Legend of shapes: B rows, L actions of a row at most, U distinct items, D the dim of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from provender.consumers.user_history import is_one_past

#: What is said of two vectors of one space: dot product, cosine, minus the squared distance.
PAIR_FEATURES = 3
#: What is said of the dot products with the past: the largest, their mean, and one that forgets.
PAST_FEATURES = 3
#: A matrix product of all candidates and items is cheaper than gathering, up to this U / L.
_DENSE_ITEMS = 8
#: Rows whose items are gathered at once.
_ROWS = 256


class Standard(nn.Module):
    """Numbers brought to mean 0 and spread 1 as they were when it was fitted; zero if unknown."""

    centre: Tensor
    spread: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    def forward(self, raw: Tensor, known: Tensor) -> Tensor:
        """Return raw (B, n) standardised, zero where `known` bool (B, n) is False."""
        return torch.where(known, (raw - self.centre) / self.spread, 0.0)

    @torch.no_grad()
    def fit(self, raw: Tensor, known: Tensor) -> None:
        """Take the mean and the spread from rows (B, n), of what is known."""
        count = known.sum(0).clamp(min=1)
        raw = torch.where(known, raw, 0.0).double()
        mean = raw.sum(0) / count
        variance = torch.where(known, raw - mean, 0.0).square().sum(0) / count
        self.centre.copy_(mean)
        self.spread.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))


def cleared(vectors: Tensor, there: Tensor) -> Tensor:
    """Return vectors (n, D), zero where bool (n,) is False, whatever stands in them."""
    # Online most often nothing is missing, and this would be the largest part of a request.
    on_host = not torch.compiler.is_compiling() and there.device.type == "cpu"
    if on_host and bool(there.all()):
        return vectors
    return torch.where(there[:, None], vectors, 0.0)


def pair_geometry(left: Tensor, right: Tensor, both: Tensor) -> Tensor:
    """Say how two vectors of one space lie, zero where one is missing: (B, PAIR_FEATURES).

    Args:
        left, right: (B, D), finite where `both`, which is bool (B,).
    """
    left, right = (cleared(side, both) for side in (left, right))
    dot = (left * right).sum(1)
    left_square, right_square = left.square().sum(1), right.square().sum(1)
    cosine = dot * (left_square * right_square).clamp(min=1e-12).rsqrt()
    distance = left_square + right_square - 2 * dot
    return torch.stack([dot, cosine, -distance], dim=1)


def past_dots(candidate: Tensor, items: Tensor, places: Tensor) -> Tensor:
    """Return the dot products of each candidate with the items of its own past: (B, L).

    Args:
        candidate: (B, D), finite.
        items: (U, D), finite.
        places: (B, L) int64 into the items; arbitrary dots are returned for places that are -1.
    """
    if is_one_past(places):
        return candidate @ functional.pad(items, (0, 0, 0, 1))[places[0]].T
    padded = functional.pad(items, (0, 0, 0, 1))  # A past without any item gathers the last row.
    places = torch.where(places < 0, items.shape[0], places)  # len() would fix it in exports.
    if torch.compiler.is_compiling() or candidate.requires_grad or items.requires_grad:
        return _gathered_dots(candidate, padded, places)
    if len(items) <= _DENSE_ITEMS * places.shape[1]:
        return (candidate @ padded.T).gather(1, places)
    # Frozen vectors keep nothing for a gradient: what is gathered stays in the cache.
    parts = zip(candidate.split(_ROWS), places.split(_ROWS), strict=True)
    return torch.cat([_gathered_dots(mine, padded, of) for mine, of in parts])


def _gathered_dots(candidate: Tensor, items: Tensor, places: Tensor) -> Tensor:
    gathered = functional.embedding(places, items)  # (B, L, D)
    return (gathered @ candidate[:, :, None]).squeeze(2)


def past_geometry(dots: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Sum up dot products with the past, zero where there is none: (B, PAST_FEATURES).

    Args:
        dots: (B, L).
        known: bool (B, L), which of them there are.
        weights: (B, L) above 0, how much each counts in the mean that forgets.
    """
    dots = torch.where(known, dots, 0.0)
    count = known.sum(1).clamp(min=1)
    largest = dots.masked_fill(~known, -torch.finfo(dots.dtype).max).amax(1)
    largest = torch.where(known.any(1), largest, 0.0)
    weights = torch.where(known, weights, 0.0)
    forgetting = (weights * dots).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.stack([largest, dots.sum(1) / count, forgetting], dim=1)
