"""The attention head: what a ranker adds to its logits from any number of frozen embeddings.

    head = AttentionHead(layout.embeddings, query="pin_transra_v1", tasks=2)
    logits = logits + head(batch.vectors, batch.present)

Legend of shapes: B rows, V views, D a view's dim, d the head's width, H attention heads, P pairs of
views in one space, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec

#: What is said of two vectors of one space: dot product, cosine, minus the squared distance.
PAIR_FEATURES = 3


class AttentionHead(nn.Module):
    """Target attention over the vectors of user, pin, ...: the candidate asks, the facets answer.

    Each space has one projection, so that vectors which can be compared stay comparable; each view
    has a bias that says what it is. The candidate's token is the query of a multi-head attention
    over all facets that are present and one learned token that stands for nothing. The answer, the
    query and, for views of one space, their plain geometry go through a small network to one
    number a task, times a gate that starts at zero: a ranker with a new head scores exactly as
    before, and learns how far to trust it.

    A missing vector is masked: whatever its row holds changes nothing.
    """

    def __init__(
        self,
        specs: Sequence[EmbeddingSpec],
        query: str,
        *,
        tasks: int,
        width: int = 32,
        heads: int = 4,
        hidden: int = 64,
        facet_dropout: float = 0.1,
    ) -> None:
        """Build a head.

        Args:
            specs: the views whose vectors it gets.
            query: the view of the candidate.
            tasks: T, the logits that it adds to.
            width: d, divisible by ``heads``.
            facet_dropout: the share of whole facets that training hides, so that the ranker
                learns to do without any one of them.

        Raises:
            ConfigError: no view, a query that is none of them, a width that heads do not divide.
        """
        super().__init__()
        _check(specs, query, width, heads)
        self.views = tuple(spec.view_name for spec in specs)
        self.query, self.heads, self.facet_dropout = query, heads, facet_dropout
        self.pairs = [
            (left.view_name, right.view_name)
            for left, right in combinations(specs, 2)
            if (left.space, left.dim) == (right.space, right.dim)
        ]
        spaces = list(dict.fromkeys((spec.space, spec.dim) for spec in specs))
        self.space_of = [spaces.index((spec.space, spec.dim)) for spec in specs]
        self.projections = nn.ModuleList(nn.Linear(dim, width) for _, dim in spaces)
        self.kinds = nn.Parameter(torch.zeros(len(specs), width))
        self.nothing = nn.Parameter(torch.zeros(width))
        self.unknown = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.kinds, std=0.02)
        nn.init.normal_(self.nothing, std=0.02)
        nn.init.normal_(self.unknown, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        inputs = 3 * width + (PAIR_FEATURES + 1) * len(self.pairs) + len(specs)
        self.score = nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, tasks))
        self.gate = nn.Parameter(torch.zeros(tasks))

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return what to add to the logits: (B, T).

        Args:
            vectors: view -> (B, D) float32.
            present: view -> (B,) bool.
        """
        shown = {view: self._hide_some(present[view]) for view in self.views}
        seen = torch.stack([shown[view] for view in self.views], dim=1)  # (B, V)
        tokens = self._tokens(vectors, seen)  # (B, V, d)
        asked = self._query_token(tokens, seen)  # (B, d)
        answer = self._attend(asked, tokens, seen)  # (B, d)
        geometry = [_geometry(vectors[a], vectors[b], shown[a] & shown[b]) for a, b in self.pairs]
        facts = torch.cat([asked, answer, asked * answer, *geometry, seen.to(answer)], dim=1)
        scores: Tensor = self.score(facts)
        return self.gate * scores

    def _hide_some(self, present: Tensor) -> Tensor:
        if not self.training or not self.facet_dropout:
            return present
        return present & (torch.rand(present.shape, device=present.device) >= self.facet_dropout)

    def _tokens(self, vectors: Mapping[str, Tensor], seen: Tensor) -> Tensor:
        projected = []
        for place, view in enumerate(self.views):
            # Masked before the projection: a NaN times a zero weight is still a NaN.
            vector = torch.where(seen[:, place, None], vectors[view], 0.0)
            projected.append(self.projections[self.space_of[place]](vector) + self.kinds[place])
        return torch.stack(projected, dim=1)

    def _query_token(self, tokens: Tensor, seen: Tensor) -> Tensor:
        place = self.views.index(self.query)
        asked = torch.where(seen[:, place, None], tokens[:, place], self.unknown)
        normed: Tensor = self.norm(asked)
        return normed

    def _attend(self, asked: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        rows, views, width = tokens.shape
        nothing = self.nothing.expand(rows, 1, width)
        facets = self.norm(torch.cat([tokens, nothing], dim=1))  # (B, V + 1, d)
        split = (rows, views + 1, self.heads, width // self.heads)
        key, value = (part.reshape(split) for part in self.key_value(facets).chunk(2, dim=2))
        query = self.ask(asked).view(rows, 1, *split[2:])
        # One query and a handful of keys: faster written out than the fused kernel.
        fit = (query * key).sum(3) / math.sqrt(split[3])  # (B, V + 1, H)
        always = torch.ones(rows, 1, dtype=torch.bool, device=seen.device)
        mask = torch.cat([seen, always], dim=1)
        weights = fit.masked_fill(~mask[:, :, None], -math.inf).softmax(dim=1)
        answer: Tensor = (weights[..., None] * value).sum(1).reshape(rows, width)
        return answer


def _geometry(left: Tensor, right: Tensor, both: Tensor) -> Tensor:
    """Say how two vectors of one space lie, zero where one is missing: (B, PAIR_FEATURES + 1)."""
    left, right = (torch.where(both[:, None], side, 0.0) for side in (left, right))
    dot = (left * right).sum(1)
    distance = (left - right).square().sum(1)
    cosine = functional.cosine_similarity(left, right, dim=1, eps=1e-6)
    return torch.stack([dot, cosine, -distance, both.to(dot)], dim=1)


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
