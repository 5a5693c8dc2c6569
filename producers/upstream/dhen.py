"""DHEN: layers that are ensembles of interaction modules (Zhang et al. 2022, section 3.2).

Legend of shapes: M rows, n tokens that a layer is given and m that it gives, w their width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from provender.producers.upstream.config import ModelConfig, TowerConfig
from provender.producers.upstream.interactions import Dense, Mix, Sizes, interaction


class DhenLayer(nn.Module):
    """Norm(Ensemble(modules(x)) + ShortCut(x)): tokens (M, n, w) to (M, m, w).

    The ensemble is the sum of the modules' tokens, or a matrix of them side by side; the shortcut
    mixes tokens where n is not m.
    """

    def __init__(self, config: TowerConfig, model: ModelConfig, before: int) -> None:
        super().__init__()
        sizes = Sizes(before, config.tokens, model.width, model.heads, model.hidden, model.rank)
        self.parts = nn.ModuleList(interaction(name, sizes) for name in config.modules)
        wide = len(config.modules) * model.width
        self.join = Dense(wide, model.width) if config.ensemble == "concat" else None
        self.shortcut = Mix(before, config.tokens)
        self.norm = nn.LayerNorm(model.width)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        found = [part(x) for part in self.parts]
        joined = self.join(torch.cat(found, 2)) if self.join else sum(found)
        given: Tensor = self.dropout(self.norm(joined + self.shortcut(x)))
        return given


class Dhen(nn.Sequential):
    """A stack of layers: `before` tokens (M, n, w) to `config.tokens` (M, m, w)."""

    def __init__(self, config: TowerConfig, model: ModelConfig, before: int) -> None:
        counts = [before, *[config.tokens] * (config.layers - 1)]
        super().__init__(*(DhenLayer(config, model, count) for count in counts))
