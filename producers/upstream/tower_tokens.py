"""What a tower is given, as tokens: each a vector of the same width.

Whatever is missing, an id row that nobody has or that is hidden, a view without a vector, a user
without actions, is a learned token of its own, never zeros.

Legend of shapes: M rows, n tokens, w width, N numbers, U rows of a table, L actions of a user, A
actions that there are, q queries, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provender.plugin.id_table import Rows
from provender.producers.upstream.config import ModelConfig
from provender.producers.upstream.inputs import Actions, Bag, Gathered, Inputs, TowerLayout
from provender.producers.upstream.interactions import Dense

#: One token for so many numbers, and no more tokens than that.
_NUMBERS_A_TOKEN, _MOST_NUMBER_TOKENS = 8, 4
#: Ages of actions: two classes for each doubling of 1 + minutes, until 2^21 of them, four years.
_AGES = 44

M = TypeVar("M", bound=nn.Module)


class TowerTokens(nn.Module):
    """Inputs of one tower to tokens (M, `count`, w).

    Args:
        layout: what there is.
        config: the model's.
        own: length of the entity's id rows; None without a table.
        pins: that of the pins' that actions are with; None without a table.
    """

    def __init__(
        self, layout: TowerLayout, config: ModelConfig, own: int | None, pins: int | None
    ) -> None:
        super().__init__()
        width = config.width
        self.number_tokens = min(-(-layout.numbers // _NUMBERS_A_TOKEN), _MOST_NUMBER_TOKENS)
        if layout.numbers:
            self.numbers = Numbers(layout.numbers, config.hidden, self.number_tokens, width)
        self.categories = ByName(
            {name: Category(rows, width) for name, rows in layout.categories.items()}
        )
        self.vectors = ByName(
            {name: Looked(dim, width, normed=True) for name, dim in layout.vectors.items()}
        )
        self.ids = Looked(own, width) if layout.ids and own is not None else None
        self.sequence = (
            Sequence(layout.sequence.events, layout.sequence.vectors, pins, config)
            if layout.sequence
            else None
        )
        self.count = (
            self.number_tokens
            + len(self.categories)
            + len(self.vectors)
            + (self.ids is not None)
            + (config.sequence_tokens if self.sequence else 0)
        )
        self.width = width

    def forward(self, inputs: Inputs, own: Rows | None, pins: Rows | None) -> Tensor:
        """Tokens (M, count, w); `own` and `pins` have the id rows that are looked up."""
        parts = [inputs.numbers.new_zeros(len(inputs), 0, self.width)]
        if self.number_tokens:
            parts.append(self.numbers(inputs.numbers))
        single = [of(inputs.categories[name]) for name, of in self.categories.each()]
        single += [of.gathered(inputs.vectors[name]) for name, of in self.vectors.each()]
        if self.ids is not None:
            single.append(self.ids.rows(own, inputs.ids))
        parts += [token.unsqueeze(1) for token in single]
        if self.sequence is not None:
            parts.append(self.sequence(inputs.sequence, pins))
        return torch.cat(parts, 1)


class ByName(nn.Module, Generic[M]):
    """Modules by names of any kind: a ModuleDict has none that is called `type`."""

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name, module in modules.items():
            self.add_module(f"of_{name}", module)

    def __len__(self) -> int:
        return len(self.names)

    def each(self) -> Iterator[tuple[str, M]]:
        """Names and modules, in the order in which they were given."""
        return zip(self.names, cast("Iterator[M]", self.children()), strict=True)


class Numbers(nn.Module):
    """Numbers (M, N), all together, to a few tokens (M, n, w) through a hidden layer."""

    def __init__(self, numbers: int, hidden: int, tokens: int, width: int) -> None:
        super().__init__()
        self.up = Dense(numbers, hidden)
        self.down = Dense(hidden, tokens * width)
        self.tokens = tokens

    def forward(self, numbers: Tensor) -> Tensor:
        """(M, N) to (M, n, w)."""
        found: Tensor = self.down(self.up(numbers).relu())
        return found.view(len(numbers), self.tokens, self.down.out_features // self.tokens)


class Category(nn.Module):
    """The mean of the learned vectors of a row's values (M, w)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, width))
        self.missing = nn.Parameter(torch.randn(width))

    def forward(self, bag: Bag) -> Tensor:
        """Bags of M rows to (M, w)."""
        mean = F.embedding_bag(
            bag.values, self.table, bag.offsets, mode="mean", include_last_offset=True
        )
        return torch.where(bag.offsets.diff().unsqueeze(1) > 0, mean, self.missing)


class Looked(nn.Module):
    """Rows of a table through a matrix, each row of it once: (..., w) by index (...)."""

    def __init__(self, dim: int, width: int, *, normed: bool = False) -> None:
        super().__init__()
        self.project = Dense(dim, width)
        self.missing = nn.Parameter(torch.randn(width))
        self.normed = normed

    def gathered(self, given: Gathered) -> Tensor:
        """Vectors of a view, brought to a mean square of 1, whatever their length is in it."""
        return F.embedding(*self.table(given.table, given.index))

    def rows(self, rows: Rows | None, ids: Tensor | None) -> Tensor:
        """Rows of an id table."""
        if rows is None or ids is None:
            raise ValueError("inputs without the ids, or a call without the id rows, of a layout")
        return F.embedding(*self.table(rows.values, rows.places(ids)))

    def table(self, values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The index of rows, and the rows that it is of; the last is that of what is missing."""
        if len(values) > index.numel():  # Fewer are asked for than there are.
            there = index >= 0
            values = values.index_select(0, index[there])
            index = torch.where(there, there.flatten().cumsum(0).view_as(index) - 1, -1)
        if self.normed:
            values = values * values.square().mean(1, keepdim=True).add(1e-12).rsqrt()
        projected = self.project(values)
        table = torch.cat([projected, self.missing.unsqueeze(0).to(projected.dtype)])
        return torch.where(index < 0, len(values), index), table


class Sequence(nn.Module):
    """A user's actions, pooled by attention with learned queries (M, q, w).

    An action is the sum of its event type and age, its pin's id row and the vectors of its pin,
    each through its matrix, normed. Queries are parameters (as the seeds of Lee et al. 2019, "Set
    Transformer", equation 11), so their products with a matrix of keys are too: an action is
    multiplied with them and never becomes a key, and pooled actions become values, not each one.
    """

    def __init__(
        self,
        events: int,
        vectors: Mapping[str, int],
        pins: int | None,
        config: ModelConfig,
    ) -> None:
        super().__init__()
        width, self.queries = config.width, config.sequence_tokens
        self.event = nn.Parameter(torch.randn(events, 1, width))
        self.age = nn.Parameter(torch.randn(_AGES, width))
        self.ids = Looked(pins, width) if pins is not None else None
        self.vectors = ByName(
            {name: Looked(dim, width, normed=True) for name, dim in vectors.items()}
        )
        self.norm = nn.LayerNorm(width)
        self.attention = Dense(width, self.queries * config.heads, bias=False)
        self.value = Dense(config.heads * width, width)
        self.nothing = nn.Parameter(torch.randn(self.queries, width))

    def forward(self, actions: Actions, pins: Rows | None) -> Tensor:
        """Actions (M, L) to tokens (M, q, w); what is padded is not computed."""
        count, longest = actions.present.shape
        where = actions.present.flatten().nonzero()[:, 0]
        each = self.actions(actions, pins, where)  # (A, w)
        scores = self.attention(each)  # (A, q H)
        low = scores.new_full((count * longest, scores.shape[1]), -1e4)
        scores = low.index_copy(0, where, scores).unflatten(0, (count, longest))
        padded = each.new_zeros(count * longest, each.shape[1]).index_copy(0, where, each)
        shares = scores.softmax(1).transpose(1, 2).to(padded.dtype)  # (M, q H, L)
        pooled = shares @ padded.unflatten(0, (count, longest))  # (M, q H, w)
        tokens = self.value(pooled.view(count, self.queries, self.value.in_features))
        some = actions.present.any(1).view(-1, 1, 1)
        return torch.where(some, tokens, self.nothing.to(tokens.dtype))

    def actions(self, actions: Actions, pins: Rows | None, where: Tensor) -> Tensor:
        """The actions that there are, (A, w)."""

        def there(values: Tensor) -> Tensor:
            return values.flatten().index_select(0, where)

        kinds = (self.event + self.age).flatten(0, 1)  # (events * ages, w)
        total = F.embedding(there(actions.event) * _AGES + age_class(there(actions.age)), kinds)
        if self.ids is not None:
            total = total + self.ids.rows(pins, there(actions.pin))
        for name, looked in self.vectors.each():
            given = actions.vectors[name]
            total = total + looked.gathered(Gathered(given.table, there(given.index)))
        found: Tensor = self.norm(total)
        return found


def age_class(days: Tensor) -> Tensor:
    """Classes of ages, int64: two for each doubling of 1 + minutes."""
    minutes = days.clamp(min=0) * (24 * 60)
    return (2 * torch.log2(1 + minutes)).long().clamp(max=_AGES - 1)
