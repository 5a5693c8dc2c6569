"""Interaction modules of a DHEN layer: tokens (M, n, w) to tokens (M, m, w), each by its name.

Legend of shapes: M rows, n tokens that a layer is given and m that it gives, w their width, H
heads, h = w / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provender.plugin.errors import ConfigError
from provender.producers.linksage.dense import linear


@dataclass(frozen=True)
class Sizes:
    """What a module is made for: `before` tokens to `after` ones, `width` numbers each."""

    before: int
    after: int
    width: int
    heads: int
    hidden: int
    rank: int


Maker = Callable[[Sizes], nn.Module]
M = TypeVar("M", bound=Maker)
_MAKERS: dict[str, Maker] = {}


def register(name: str) -> Callable[[M], M]:
    """Make an interaction module known by a name; raises ConfigError for a name that is taken."""

    def taken(maker: M) -> M:
        if name in _MAKERS:
            raise ConfigError(
                f"interaction module {name!r}",
                found="another of that name",
                expected=f"a name that is not one of {_known()}",
                remedy="Register it by another name.",
            )
        _MAKERS[name] = maker
        return maker

    return taken


def interaction(name: str, sizes: Sizes) -> nn.Module:
    """A new module, at random from torch's generator; raises ConfigError for an unknown name."""
    if name not in _MAKERS:
        raise ConfigError(
            "interaction module",
            found=repr(name),
            expected=f"one of {_known()}",
            remedy="Correct the name, or register the module before it is used.",
        )
    return _MAKERS[name](sizes)


def _known() -> str:
    return ", ".join(sorted(_MAKERS))


#: By oneDNN where it beats MKL; elsewhere they are alike, and MKL copies nothing for gradients.
dense = linear if torch.backends.cpu.get_cpu_capability() == "AVX512" else F.linear


class Dense(nn.Linear):
    """torch's, by the fastest product that there is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return dense(x, self.weight, self.bias)


class Mix(nn.Module):
    """Each token a weighted sum of all: (M, n, w) to (M, m, w), as it is where n is m."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        shape = (after, before)
        same = before == after
        self.weight = None if same else nn.Parameter(torch.randn(shape) / math.sqrt(before))

    def forward(self, x: Tensor) -> Tensor:
        """One product for all rows: torch's own broadcast of it takes four times as long."""
        if self.weight is None:
            return x
        count, before, width = x.shape
        flat = x.transpose(0, 1).reshape(before, count * width)
        return (self.weight @ flat).view(len(self.weight), count, width).transpose(0, 1)


@register("linear")
class Linear(nn.Module):
    """Tokens as weighted sums of tokens, through a matrix (Zhang et al. 2022, section 3.2)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        shape = (sizes.after, sizes.before)
        self.mix = nn.Parameter(torch.randn(shape) / math.sqrt(sizes.before))
        self.dense = Dense(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        count, before, width = x.shape
        flat = x.transpose(0, 1).reshape(before, count * width)
        mixed = (self.mix @ flat).view(len(self.mix), count, width)  # (m, M, w)
        found: Tensor = self.dense(mixed).transpose(0, 1)
        return found


@register("mlp")
class Mlp(nn.Module):
    """All tokens of a row, flat, through one hidden layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = Dense(sizes.before * sizes.width, sizes.hidden)
        self.down = Dense(sizes.hidden, sizes.after * sizes.width)
        self.after = sizes.after

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        found: Tensor = self.down(self.up(x.flatten(1)).relu())
        return found.view(-1, self.after, x.shape[2])


@register("cross")
class Cross(nn.Module):
    """DCN-V2's cross layer with a matrix of low rank (Wang et al. 2021, "DCN V2", equation 2).

    x * (U V' x + b) + x of all tokens of a row, flat; where m is not n, tokens are mixed after it.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        flat = sizes.before * sizes.width
        self.inward = Dense(flat, sizes.rank, bias=False)
        self.outward = Dense(sizes.rank, flat)
        self.mix = Mix(sizes.before, sizes.after)

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        inward: Tensor = self.inward(x.flatten(1))
        # x * f + x is x * (f + 1), and the 1 costs less in the bias.
        factor = dense(inward, self.outward.weight, self.outward.bias + 1)
        found: Tensor = self.mix(x * factor.view_as(x))
        return found


@register("masknet")
class MaskNet(nn.Module):
    """A MaskBlock on all tokens (Wang et al. 2021, "MaskNet", sections 3.2 and 3.3).

    The row itself makes a mask through two dense layers; its normed tokens times the mask go
    through a dense layer, a norm and ReLU, and a matrix makes tokens of them.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        flat = sizes.before * sizes.width
        self.norm = nn.LayerNorm(sizes.width)
        self.squeeze = Dense(flat, sizes.hidden)
        self.mask = Dense(sizes.hidden, flat)
        self.hidden = Dense(flat, sizes.hidden)
        self.hidden_norm = nn.LayerNorm(sizes.hidden)
        self.out = Dense(sizes.hidden, sizes.after * sizes.width)
        self.after = sizes.after

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        mask = self.mask(self.squeeze(x.flatten(1)).relu())  # (M, n w)
        hidden = self.hidden(self.norm(x).flatten(1) * mask)
        found: Tensor = self.out(self.hidden_norm(hidden).relu())
        return found.view(-1, self.after, x.shape[2])


@register("self_attention")
class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of a row (Vaswani et al. 2017, section 3.2.2).

    As AutoInt has it for features (Song et al. 2019, section 4.3); m queries are made of the n
    tokens mixed, so that no more are computed than are given.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.mix = Mix(sizes.before, sizes.after)
        self.query = Dense(sizes.width, sizes.width, bias=False)
        self.key_value = Dense(sizes.width, 2 * sizes.width, bias=False)
        self.out = Dense(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        query = self.query(self.mix(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # So few tokens that torch's fused attention takes one and a half times as long on a CPU.
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])  # (M, H, m, n)
        found: Tensor = self.out((scores.softmax(3) @ value).transpose(1, 2).flatten(2))
        return found


@register("pairwise_dot")
class PairwiseDot(nn.Module):
    """Inner products of all pairs of tokens, through a matrix to tokens.

    The second-order term of factorization machines (Rendle 2010, equation 1), each product on its
    own as in DLRM (Naumov et al. 2019, section 2.1.3).
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        pairs = torch.triu_indices(sizes.before, sizes.before)  # with each token's own norm
        self.register_buffer("place", pairs[0] * sizes.before + pairs[1], persistent=False)
        self.out = Dense(pairs.shape[1], sizes.after * sizes.width)
        self.after = sizes.after

    def forward(self, x: Tensor) -> Tensor:
        """(M, n, w) to (M, m, w)."""
        products = x @ x.transpose(1, 2) / math.sqrt(x.shape[2])  # (M, n, n)
        pairs = products.flatten(1).index_select(1, self.get_buffer("place"))
        found: Tensor = self.out(pairs)
        return found.view(-1, self.after, x.shape[2])
