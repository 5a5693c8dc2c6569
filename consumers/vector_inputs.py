"""Vectors, learned rows and the past as plain inputs: how embeddings are used without a head.

Legend of shapes: B rows, D the dim of a view, r a table's, U distinct items of the past, K kinds of
actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from provender.consumers.geometry import PAIR_FEATURES, Standard, pair_geometry
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.spec import EmbeddingSpec

#: The root mean square of a vector's numbers as inputs. As large as other inputs, 64 numbers that
#: are an entity's own are soon learned by heart.
SIZE = 0.1


class VectorInputs(nn.Module):
    """Everything side by side: each vector standardised, zeros and a flag where it is missing.

    Rows of tables come as they are, with a flag of whether the entity has one; the past as the
    mean vector of its items by view, and the logarithm of how often each kind of action was.

    Args:
        specs: the views; none where the ranker does without vectors.
        tables: name -> the length of its rows.
        history: what is known of the past.
        past_views: the views of the past's items.
        geometry: whether views of one space are compared as well: dot, cosine, distance.
    """

    def __init__(
        self,
        specs: Sequence[EmbeddingSpec],
        tables: Mapping[str, int],
        history: HistorySpec | None,
        past_views: Sequence[str],
        *,
        geometry: bool,
    ) -> None:
        super().__init__()
        self.views = tuple(spec.view_name for spec in specs)
        self.tables, self.past_views = tuple(tables), tuple(past_views)
        self.pairs = [
            (left.view_name, right.view_name)
            for left, right in combinations(specs, 2)
            if geometry and (left.space, left.dim) == (right.space, right.dim)
        ]
        self.actions = 0 if history is None else len(history.kinds)
        dims = {spec.view_name: spec.dim for spec in specs}
        self.standards = nn.ModuleList(Standard(dims[view]) for view in self.views)
        measured = PAIR_FEATURES * len(self.pairs)
        self.standard = Standard(measured)
        past = sum(dims[view] + 1 for view in past_views) if history is not None else 0
        self.width = (
            (sum(dims.values()) + len(dims) + sum(tables.values()) + len(tables))
            + measured
            + past
            + self.actions
        )

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        history: History | None,
    ) -> Tensor:
        """Return the inputs (B, width).

        Args:
            vectors: view -> (B, D) float32.
            present: view -> (B,) bool.
            rows: table -> (B, r) float32, zeros for an entity that is not known.
            history: of the rows; None of a ranker without.
        """
        parts = []
        for view, standard in zip(self.views, self.standards, strict=True):
            there = present[view][:, None]
            parts += [SIZE * standard(vectors[view], there), there.float()]
        for name in self.tables:
            parts += [rows[name], (rows[name] != 0).any(1, keepdim=True).float()]
        if self.pairs:
            parts.append(self.standard(*self._geometry(vectors, present)))
        if history is not None and self.actions:
            parts += self._past(history)
        return torch.cat(parts, dim=1)

    def fit(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """Take the means and spreads of training rows."""
        for view, standard in zip(self.views, self.standards, strict=True):
            assert isinstance(standard, Standard)
            standard.fit(vectors[view], present[view][:, None].expand_as(vectors[view]))
        if self.pairs:
            self.standard.fit(*self._geometry(vectors, present))

    def _geometry(
        self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        raw, known = [], []
        for left, right in self.pairs:
            both = present[left] & present[right]
            raw.append(pair_geometry(vectors[left], vectors[right], both))
            known.append(both[:, None].expand(-1, PAIR_FEATURES))
        return torch.cat(raw, dim=1), torch.cat(known, dim=1)

    def _past(self, history: History) -> list[Tensor]:
        known = history.items >= 0
        counts = nn.functional.one_hot(history.kinds, self.actions) * known[:, :, None]
        parts = [torch.log1p(counts.sum(1).float())]
        for view in self.past_views:
            standard = self.standards[self.views.index(view)]
            there = history.present[view][:, None]
            items = SIZE * standard(history.vectors[view], there)
            items = nn.functional.pad(items, (0, 0, 0, 1))
            flags = nn.functional.pad(there.float(), (0, 0, 0, 1))
            places = torch.where(known, history.items, len(there))
            # One bag a row: the sum of its items, without an array of B x L x D.
            sums = nn.functional.embedding_bag(places, items, mode="sum")
            count = nn.functional.embedding_bag(places, flags, mode="sum")
            parts += [sums / count.clamp(min=1), (count > 0).float()]
        return parts
