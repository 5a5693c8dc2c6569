"""The straight way: content into the vectors' space by one linear map, beside a deep model.

Pages and pins show texts and images of the same spaces. A map that starts alike for both makes the
untrained model a search for the nearest content already, and what is learned, the map's deviation
and the deep model, adds to it; a residual connection (He et al. 2016) from the features to the
output. Where few pairs are known that is most of what there is to know.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from provender.producers.linksage.dense import linear


class Straight(nn.Module):
    """Texts (n, a) and images (n, b), zero where there is none, to (n, dim).

    Texts keep their first axes: those of an SVD come first that tell most. Images are turned at
    random, the same way in every model, so that the two do not share axes.
    """

    def __init__(self, text_dim: int, image_dim: int, dim: int) -> None:
        super().__init__()
        self.text = _Map(torch.eye(dim, text_dim)) if text_dim else None
        self.image = _Map(_turned(dim, image_dim)) if image_dim else None

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """The sum of what there is."""
        both = ((self.text, text), (self.image, image))
        parts = [through(x) for through, x in both if through is not None]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class _Map(nn.Module):
    """A fixed map and a learned deviation from it, which weight decay pulls to zero."""

    base: Tensor

    def __init__(self, base: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base, persistent=False)
        self.deviation = nn.Parameter(torch.zeros_like(base))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.base + SLOWLY * self.deviation)


#: Adam moves each number by about the learning rate a step, and there are many to a vector.
SLOWLY = 0.1


def _turned(dim: int, width: int) -> Tensor:
    """(dim, width) with orthogonal rows or columns of norm 1."""
    generator = torch.Generator().manual_seed(0)
    return nn.init.orthogonal_(torch.empty(dim, width), generator=generator)
