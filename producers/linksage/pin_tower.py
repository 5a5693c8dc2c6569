"""Vectors of pins that nobody has given: a tower over their text and image, trained along."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from provender.producers.linksage.config import ModelConfig
from provender.producers.linksage.dense import linear
from provender.producers.linksage.page_encoder import Content, small_head
from provender.producers.linksage.straight import Straight


class PinTower(nn.Module):
    """Text (n, a) and mean images (n, b) of pins, zero where there is none, to float32 (n, dim)."""

    def __init__(self, config: ModelConfig, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.content = Content(text_dim, image_dim, config.feedforward)
        self.dropout = nn.Dropout(config.dropout)
        self.head = small_head(config.feedforward, config.dim)
        self.straight = Straight(text_dim, image_dim, config.dim)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """One hidden layer, and the straight way beside it; not normalised."""
        parts, _ = self.content(text, image)
        hidden = self.dropout(F.relu(sum(parts)))
        content: Tensor = self.straight(text, image)
        return linear(hidden, self.head.weight, self.head.bias).float() + content.float()
