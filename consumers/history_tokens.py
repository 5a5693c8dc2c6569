"""What a candidate finds in the user's past: target attention over the last actions.

Legend of shapes: B rows, L actions of a row at most, U distinct items, K kinds of actions, d the
tokens' width, H attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from provender.consumers.user_history import History, HistorySpec, is_one_past

#: An action's age is told by its power of two in minutes; the last is two years and all above.
AGES = 21
_DAY = 86_400.0


class Past(NamedTuple):
    """A :class:`History` without its keys: tensors alone, as compilers and exporters want them."""

    items: Tensor
    kinds: Tensor
    age_seconds: Tensor
    vectors: Mapping[str, Tensor]
    present: Mapping[str, Tensor]

    @classmethod
    def of(cls, history: History) -> Past:
        """The tensors of a history."""
        return cls(
            history.items,
            history.kinds,
            history.age_seconds,
            dict(history.vectors),
            dict(history.present),
        )

    def of_one_row(self) -> Past:
        """The first row alone, with all items."""
        return self._replace(
            items=self.items[:1], kinds=self.kinds[:1], age_seconds=self.age_seconds[:1]
        )


class Looked(NamedTuple):
    """An answer (B, d), and how far each key was looked at: (B, keys, H), the last is nothing."""

    answer: Tensor
    weights: Tensor


class HistoryAttention(nn.Module):
    """Multi-head attention of the candidate over the actions before it.

    How well an action fits is the product of query and key plus a learned number for its kind and
    age; its value is that of its item plus one of its kind. One more key stands for nothing: who
    did nothing has an answer too.

    Keys and values are not made of each action: q (x W) is (q W^T) x, and a weighted sum of x W is
    that of x, times W. So one array of (B, L, d) is all that the past of a batch needs.
    """

    def __init__(self, history: HistorySpec, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.actions = heads, len(history.kinds)
        self.split = heads, width // heads
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.nothing = nn.Parameter(torch.empty(2, width).normal_(std=0.02))
        self.kind_bias = nn.Parameter(torch.zeros(self.actions, heads))
        self.age_bias = nn.Parameter(torch.zeros(AGES, heads))
        self.kind_value = nn.Parameter(torch.empty(self.actions, width).normal_(std=0.02))
        self.log_memory = nn.Parameter(torch.tensor(math.log(_DAY)))

    def forward(self, asked: Tensor, tokens: Tensor, past: Past, shown: Tensor) -> Looked:
        """Look at the past.

        Args:
            asked: (B, d), the candidate.
            tokens: (U, d), the items.
            past: of the same U items.
            shown: bool (B, L), the actions that may be looked at.
        """
        # Each item is projected once, and gathered then; who has none gathers a row of zeros.
        known = functional.pad(self.norm(tokens), (0, 0, 0, 1))
        one_past = is_one_past(past.items)
        past = past.of_one_row() if one_past else past
        places = torch.where(past.items < 0, tokens.shape[0], past.items)
        items = functional.embedding(places, known)  # (B, L, d), of one past (1, L, d)
        items = items[0] if one_past else items
        query = (self.ask(asked) / math.sqrt(self.split[1])).unflatten(1, self.split)
        fit = self._asked_of_items(query) @ items.transpose(-1, -2)  # (B, H, L)
        fit = (fit + self._bias(past).transpose(1, 2)).masked_fill(~shown[:, None], -math.inf)
        none = (query * self.nothing[0].unflatten(0, self.split)).sum(2, keepdim=True)
        # Actions last: a softmax over what lies together takes a fraction of the time.
        weights = torch.cat([fit, none.to(fit)], dim=2).softmax(dim=2)  # (B, H, L + 1)
        of_actions = weights[:, :, :-1].to(items.dtype)
        answer = self._values(of_actions @ items) + self._of_kinds(of_actions, past.kinds, one_past)
        left = weights[:, :, -1].repeat_interleave(self.split[1], dim=1)
        return Looked(answer + left * self.nothing[1], weights.transpose(1, 2))

    def _asked_of_items(self, query: Tensor) -> Tensor:
        """Take queries (B, H, d / H) through the keys' weights: what asks items, (B, H, d)."""
        weight = self.key.weight.unflatten(0, self.split)  # (H, d / H, d)
        asking: Tensor = (query.transpose(0, 1) @ weight).transpose(0, 1)
        return asking

    def _values(self, mixed: Tensor) -> Tensor:
        """Take what each head mixed of items, (B, H, d), through the values' weights: (B, d)."""
        weight = self.value.weight.unflatten(0, self.split)  # (H, d / H, d)
        values: Tensor = mixed.transpose(0, 1) @ weight.transpose(1, 2)
        return values.transpose(0, 1).flatten(1)

    def memory(self, age_seconds: Tensor) -> Tensor:
        """How much actions of an age (B, L) count in a mean that forgets, at a learned rate."""
        ages = age_seconds[:1] if is_one_past(age_seconds) else age_seconds
        memory = torch.exp(-ages.clamp(min=0) * torch.exp(-self.log_memory)).clamp(min=1e-6)
        return memory.expand(age_seconds.shape)

    def _bias(self, past: Past) -> Tensor:
        """The learned number of each action's kind and age: (B, L, H)."""
        minutes = past.age_seconds.clamp(min=0) / 60
        age = torch.log2(1 + minutes).long().clamp(max=AGES - 1)
        table = (self.kind_bias[:, None] + self.age_bias).flatten(0, 1)  # (K * AGES, H)
        return functional.embedding(past.kinds * AGES + age, table)

    def _of_kinds(self, weights: Tensor, kinds: Tensor, one_past: bool) -> Tensor:
        """The kinds' part of the answer, without a vector an action, from (B, H, L): (B, d)."""
        each = functional.one_hot(kinds, self.actions).to(weights.dtype)  # (B, L, K)
        shares = weights @ (each[0] if one_past else each)  # (B, H, K)
        values = self.kind_value.unflatten(1, self.split).transpose(0, 1)  # (H, K, d / H)
        answer: Tensor = (shares[..., None] * values).sum(2).flatten(1)
        return answer


def compact(history: History) -> tuple[History, Tensor]:
    """The same history less the items that none of its rows has, and the places of those kept.

    A batch taken from many rows has the items of all of them, and needs few.
    """
    used = torch.zeros(len(history.keys) + 1, dtype=torch.bool)
    used[history.items.flatten()] = True  # Those that are -1 mark the place behind the last.
    used[-1] = False
    kept = used[:-1].nonzero().flatten()
    if len(kept) == len(history.keys):
        return history, kept
    places = (used.cumsum(0) - 1).index_fill_(0, torch.tensor(len(history.keys)), -1)
    smaller = replace(
        history,
        items=places[history.items],
        keys=history.keys.take(kept.numpy()),
        vectors={view: rows.index_select(0, kept) for view, rows in history.vectors.items()},
        present={view: mask.index_select(0, kept) for view, mask in history.present.items()},
    )
    return smaller, kept
