"""The attention head: what a ranker adds to its logits from any number of frozen embeddings.

    head = AttentionHead(layout.embeddings, query="pin_transra_v1", tasks=2)
    logits = logits + head(batch.vectors, batch.present)

With learned rows and the users' last actions:

    head = AttentionHead(specs, query, tasks=2, tables={"users": TableSpec("user_id", 64)},
                         history=HistorySpec(length=20, kinds=("click",)))
    logits = logits + head(batch.vectors, batch.present, {"users": rows}, batch.history)

Legend of shapes: B rows, F facets, D a view's dim, r a table's, d the head's width, H attention
heads, L actions of a row at most, U distinct items, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from provender.consumers.facet_tokens import Facets, FacetTokens, TableSpec
from provender.consumers.geometry import (
    PAIR_FEATURES,
    PAST_FEATURES,
    Standard,
    cleared,
    pair_geometry,
    past_dots,
    past_geometry,
)
from provender.consumers.history_tokens import HistoryAttention, Looked, Past
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec

Tensors = Mapping[str, Tensor]


class Attention(NamedTuple):
    """What a head adds to the logits, (B, T), and what it looked at.

    Attributes:
        facets: (B, F + 1, H), the weights of the facets; the last is nothing.
        actions: (B, L + 1, H), those of the past, likewise; None of a head without history.
    """

    logits: Tensor
    facets: Tensor
    actions: Tensor | None


class AttentionHead(nn.Module):
    """Target attention over the vectors of user, pin, ...: the candidate asks, the facets answer.

    The candidate's token is the query of a multi-head attention over all facets that are present
    and one learned token that stands for nothing, and of another over the user's last actions.
    The answers, the query, and the plain geometry of vectors that share a space go through a small
    network, whose last layer is a gate to each task's logit that starts at zero: a ranker with a
    new head scores exactly as before, and learns how far to trust it.

    A missing vector is masked: whatever its row holds changes nothing.
    """

    def __init__(
        self,
        specs: Sequence[EmbeddingSpec],
        query: str,
        *,
        tasks: int,
        tables: Mapping[str, TableSpec] | None = None,
        history: HistorySpec | None = None,
        width: int = 32,
        heads: int = 4,
        hidden: int = 64,
        facet_dropout: float = 0.1,
    ) -> None:
        """Build a head.

        Args:
            specs: the views whose vectors it gets.
            query: the view of the candidate; what users did, they did with entities of its kind.
            tasks: T, the logits that it adds to.
            tables: name -> a table of learned rows that correct the vectors of its entity.
            history: what is known of the past; None: nothing.
            width: d, divisible by ``heads``.
            facet_dropout: the share of whole facets (the past is one) that training hides, so that
                the ranker learns to do without any one of them.

        Raises:
            ConfigError: no view, a query that is none of them, names that are not unique, a width
                that heads do not divide.
        """
        super().__init__()
        _check(specs, query, width, heads)
        by_name = {spec.view_name: spec for spec in specs}
        self.tables, self.history = dict(tables or {}), history
        self.query, self.heads, self.facet_dropout = query, heads, facet_dropout
        self.tokens = FacetTokens(specs, self.tables, width)
        self.views, self.facets = self.tokens.views, self.tokens.facets
        self.pairs = [
            (left.view_name, right.view_name)
            for left, right in combinations(specs, 2)
            if (left.space, left.dim) == (right.space, right.dim)
        ]
        #: Tables of two entities whose rows are of one length: their dot product is learned.
        self.row_pairs = [
            (left, right)
            for left, right in combinations(self.tokens.tables, 2)
            if self.tables[left][1:] == self.tables[right][1:]
            and self.tables[left].join_key != self.tables[right].join_key
        ]
        self.asking = self.views.index(query)
        candidate = by_name[query].join_key
        self.past_views = [v for v in self.views if by_name[v].join_key == candidate]
        self.past_tables = [n for n, table in self.tables.items() if table.join_key == candidate]
        self._compared = [name for name in self.past_tables if name in self.tokens.tables]
        self.nothing = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.unknown = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        measured, of_rows = PAIR_FEATURES * len(self.pairs), len(self.row_pairs)
        inputs = 3 * width + len(self.facets)
        self.past: HistoryAttention | None = None
        if history is not None:
            self.past = HistoryAttention(history, width, heads)
            measured += PAST_FEATURES * len(self.past_views)
            of_rows += PAST_FEATURES * len(self._compared)
            inputs += 2 * width + 1
        self.standard = Standard(measured)
        self.facts = nn.Linear(inputs + 2 * measured, hidden)
        # What tables say of each other starts without effect, as their residuals do.
        self.row_facts = nn.Linear(of_rows, hidden, bias=False) if of_rows else None
        if self.row_facts is not None:
            nn.init.zeros_(self.row_facts.weight)
        # The last layer is the gate. All of it opens at once, so that the head learns from the
        # first steps on and not when the rest of the ranker has learned what it can.
        self.gate = nn.Parameter(torch.zeros(tasks, hidden))

    def forward(
        self,
        vectors: Tensors,
        present: Tensors,
        rows: Tensors | None = None,
        history: History | Past | None = None,
        history_rows: Tensors | None = None,
    ) -> Tensor:
        """Return what to add to the logits: (B, T).

        Args:
            vectors: view -> (B, D) float32.
            present: view -> (B,) bool.
            rows: table -> (B, r) float32, zeros for an entity that is not known.
            history: of the rows.
            history_rows: table of the candidates' kind -> (U, r), rows of the history's items.

        Raises:
            ConfigError: tables or history that the head was built with are not given.
        """
        return self.look(vectors, present, rows, history, history_rows).logits

    def look(
        self,
        vectors: Tensors,
        present: Tensors,
        rows: Tensors | None = None,
        history: History | Past | None = None,
        history_rows: Tensors | None = None,
    ) -> Attention:
        """As :meth:`forward`, with the weights of the attention."""
        rows, items = rows or {}, history_rows or {}
        past = self._checked(rows, history, items)
        shown, rows, hides_past = self._hide_some(present, rows)
        facets = self.tokens(vectors, shown, rows)
        asked = self._query_token(facets)  # (B, d)
        seen = self._attend(asked, facets)
        told = [asked, seen.answer, asked * seen.answer, facets.seen.to(asked)]
        actions: Looked | None = None
        known: Tensor | None = None
        if past is not None and self.past is not None:
            known = past.items >= 0
            if hides_past is not None:
                known = known & ~hides_past[:, None]
            tokens = self.tokens.items(self.past_views, past.vectors, past.present, items)
            actions = self.past(asked, tokens, past, known)
            told += [actions.answer, asked * actions.answer, known.any(1, keepdim=True).to(asked)]
        raw, there = self._geometry(vectors, shown, past, known)
        told += [self.standard(raw, there), there.to(asked)]
        hidden = self.facts(torch.cat(told, dim=1))
        if self.row_facts is not None:
            hidden = hidden + self.row_facts(self._row_geometry(rows, past, known, items))
        logits = functional.linear(functional.silu(hidden), self.gate)
        return Attention(logits, seen.weights, None if actions is None else actions.weights)

    def fit(
        self, vectors: Tensors, present: Tensors, history: History | Past | None = None
    ) -> None:
        """Bring the sizes of vectors and of their geometry to 1, as they are in training rows.

        Before the first step of training; without it they are taken as they come.
        """
        past = self._past_of(history)
        self.tokens.fit(vectors, present)
        known = None if past is None else past.items >= 0
        self.standard.fit(*self._geometry(vectors, present, past, known))

    def _past_of(self, history: History | Past | None) -> Past | None:
        if self.history is None:
            return None
        if history is None:
            raise _absent("history", "(none)", "the past of the rows")
        return Past.of(history) if isinstance(history, History) else history

    def _checked(
        self, rows: Tensors, history: History | Past | None, items: Tensors
    ) -> Past | None:
        past = self._past_of(history)
        for name in self.tables:
            if name not in rows:
                raise _absent("rows", ", ".join(rows) or "(none)", f"those of table {name}")
        for name in self.past_tables if past is not None else ():
            if name not in items:
                raise _absent("history_rows", ", ".join(items) or "(none)", f"those of {name}")
        for view in self.past_views if past is not None else ():
            if past is not None and view not in past.vectors:
                found = ", ".join(past.vectors) or "no vectors"
                raise _absent("history", found, f"the vectors of {view}")
        return past

    def _hide_some(
        self, present: Tensors, rows: Tensors
    ) -> tuple[dict[str, Tensor], Tensors, Tensor | None]:
        """Hide facets, with the rows that correct them; the last mask (B,) hides the past."""
        shown = {view: present[view] for view in self.views}
        if not self.training or not self.facet_dropout:
            return shown, rows, None
        like = shown[self.query]
        drawn = torch.rand(like.shape[0], len(self.facets) + 1, device=like.device)
        hidden = drawn < self.facet_dropout
        for place, view in enumerate(self.views):
            shown[view] = shown[view] & ~hidden[:, place]
        kept = {
            name: torch.where(hidden[:, place, None], 0.0, rows[name])
            for place, names in enumerate(self.tokens.added)
            for name in names
        }
        return shown, kept, hidden[:, -1]

    def _query_token(self, facets: Facets) -> Tensor:
        known = facets.seen[:, self.asking, None]
        asked: Tensor = self.norm(torch.where(known, facets.tokens[:, self.asking], self.unknown))
        return asked

    def _attend(self, asked: Tensor, facets: Facets) -> Looked:
        rows, _, width = facets.tokens.shape
        nothing = self.nothing.expand(rows, 1, width)
        keys = self.norm(torch.cat([facets.tokens, nothing], dim=1))  # (B, F + 1, d)
        split = self.heads, width // self.heads
        key, value = (part.unflatten(2, split) for part in self.key_value(keys).chunk(2, dim=2))
        query = self.ask(asked).unflatten(1, split)[:, None]
        # One query and a handful of keys: faster written out than the fused kernel.
        fit = (query * key).sum(3) / math.sqrt(split[1])  # (B, F + 1, H)
        always = facets.seen.new_ones(rows, 1)
        mask = torch.cat([facets.seen, always], dim=1)
        weights = fit.masked_fill(~mask[:, :, None], -math.inf).softmax(dim=1)
        return Looked((weights[..., None] * value).sum(1).flatten(1), weights)

    def _geometry(
        self, vectors: Tensors, shown: Tensors, past: Past | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """How vectors of one space lie, (B, features), and which of it is known, bool."""
        rows = shown[self.query].shape[0]
        empty = vectors[self.query].new_zeros(rows, 0)
        raw, there = [empty], [empty.bool()]
        for left, right in self.pairs:
            both = shown[left] & shown[right]
            raw.append(pair_geometry(vectors[left], vectors[right], both))
            there.append(both[:, None].expand(-1, PAIR_FEATURES))
        if past is not None and known is not None and self.past is not None:
            memory = self.past.memory(past.age_seconds)
            for view in self.past_views:
                mine = cleared(vectors[view], shown[view])
                items = cleared(past.vectors[view], past.present[view])
                with_vector = _of_items(past.present[view], past.items)
                both = known & with_vector & shown[view][:, None]
                dots = past_dots(mine, items, past.items)
                raw.append(past_geometry(dots, both, memory))
                there.append(both.any(1, keepdim=True).expand(-1, PAST_FEATURES))
        return torch.cat(raw, dim=1), torch.cat(there, dim=1)

    def _row_geometry(
        self, rows: Tensors, past: Past | None, known: Tensor | None, items: Tensors
    ) -> Tensor:
        """How learned rows lie: to each other, and a candidate's to those of the past."""
        found = [
            (rows[left] * rows[right]).sum(1, keepdim=True) / math.sqrt(self.tables[left].dim)
            for left, right in self.row_pairs
        ]
        if past is not None and known is not None and self.past is not None:
            memory = self.past.memory(past.age_seconds)
            for name in self._compared:
                dots = past_dots(rows[name], items[name], past.items)
                dots = dots / math.sqrt(self.tables[name].dim)
                found.append(past_geometry(dots, known, memory))
        return torch.cat(found, dim=1)


def _of_items(mask: Tensor, places: Tensor) -> Tensor:
    """Say of each action whether the mask (U,) holds for its item: bool (B, L)."""
    padded = functional.pad(mask, (0, 1))
    return padded[torch.where(places < 0, mask.shape[0], places)]


def _absent(what: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"attention head, {what}",
        found=found,
        expected=expected,
        remedy="Pass what the head was built with: its views, tables and history.",
    )


def _check(specs: Sequence[EmbeddingSpec], query: str, width: int, heads: int) -> None:
    views = [spec.view_name for spec in specs]
    if query not in views:
        raise ConfigError(
            "attention head, query",
            found=repr(query),
            expected=f"one of {', '.join(views) or '(no views were given)'}",
            remedy="Name the view of the candidate, and put it in the ranker's feature service.",
        )
    if width % heads:
        raise ConfigError(
            "attention head, width",
            found=f"{width} for {heads} heads",
            expected="a width that the heads divide",
            remedy="Choose a multiple of the heads.",
        )
