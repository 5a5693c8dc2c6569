"""Facets as tokens: frozen vectors of several spaces, and learned rows that correct them.

Legend of shapes: B rows, V views, F facets, D a view's dim, r a table's, d the tokens' width, n any
number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from provender.consumers.geometry import cleared
from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec


class TableSpec(NamedTuple):
    """A table of learned rows: whose they are, how long, and the space that they started in.

    Attributes:
        corrects: the view whose vectors its rows are added to; None: they stand for themselves.
    """

    join_key: str
    dim: int
    space: str | None = None
    corrects: str | None = None


class Facets(NamedTuple):
    """What is known of each row, one token a facet: `tokens` (B, F, d), `seen` bool (B, F)."""

    tokens: Tensor
    seen: Tensor


class FacetTokens(nn.Module):
    """Turns vectors and table rows into tokens of one width.

    Each space has one projection, so that vectors which can be compared stay comparable; each
    facet has a bias that says what it is. A row that corrects a view is added to its vector before
    the projection, once the vector is scaled. That of another table is added to the token of the
    first view of the same entity, through a projection of its own that starts at zero; a table
    whose entity has no view is a facet by itself. A row of zeros is a row that is not known.

    Attributes:
        facets: the names of the F facets: views, then tables without a view.
        scales: (spaces,) what vectors are multiplied by before anything; 1 until they are fitted.
    """

    scales: Tensor

    def __init__(
        self, specs: Sequence[EmbeddingSpec], tables: Mapping[str, TableSpec], width: int
    ) -> None:
        super().__init__()
        spaces = list(dict.fromkeys((spec.space, spec.dim) for spec in specs))
        self.views = tuple(spec.view_name for spec in specs)
        self.dims = {spec.view_name: spec.dim for spec in specs}
        self.space_of = [spaces.index((spec.space, spec.dim)) for spec in specs]
        self.projections = nn.ModuleList(nn.Linear(dim, width) for _, dim in spaces)
        self.register_buffer("scales", torch.ones(len(spaces)))
        _check_corrected(specs, tables)
        self.corrected = {name: each.corrects for name, each in tables.items() if each.corrects}
        self.tables = tuple(name for name in tables if name not in self.corrected)
        self.residuals = nn.ModuleList(
            nn.Linear(tables[name].dim, width, bias=False) for name in self.tables
        )
        for residual in self.residuals:
            nn.init.zeros_(residual.get_parameter("weight"))
        first: dict[str, int] = {}
        for place, spec in enumerate(specs):
            first.setdefault(spec.join_key, place)
        alone = [name for name in tables if tables[name].join_key not in first]
        self.facets = self.views + tuple(alone)
        if len(set(self.facets)) != len(self.facets):
            raise _doubled(self.facets)
        #: Facet -> the tables whose rows are added to it.
        self.added = [
            [name for name in tables if facet in (name, self.corrected.get(name))]
            + [name for name in self.tables if first.get(tables[name].join_key) == place]
            for place, facet in enumerate(self.facets)
        ]
        self.kinds = nn.Parameter(torch.empty(len(self.facets), width).normal_(std=0.02))

    def forward(
        self,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
    ) -> Facets:
        """Return the tokens, not to be looked at where they are not seen.

        Args:
            vectors: view -> (B, D) float32.
            present: view -> (B,) bool.
            rows: table -> (B, r) float32.
        """
        tokens, seen = [], []
        for place, facet in enumerate(self.facets):
            token, known = self._frozen(place, vectors, present, rows)
            for name in self.added[place]:
                if name not in self.corrected:
                    token = token + self.residuals[self.tables.index(name)](rows[name])
                there = (rows[name] != 0).any(1)
                known = there if known is None else known | there
            assert known is not None, facet
            tokens.append(token)
            seen.append(known)
        return Facets(torch.stack(tokens, dim=1), torch.stack(seen, dim=1))

    def items(
        self,
        views: Sequence[str],
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
    ) -> Tensor:
        """Return one token an item of the past: the sum of those of its views and rows: (n, d)."""
        tokens: Tensor | None = None
        for view in views:
            part, _ = self._frozen(self.views.index(view), vectors, present, rows)
            tokens = part if tokens is None else tokens + part
        for name, row in rows.items():
            if name in self.corrected:
                continue
            part = self.residuals[self.tables.index(name)](row)
            tokens = part if tokens is None else tokens + part
        assert tokens is not None, "the candidate has a view"
        return tokens

    @torch.no_grad()
    def fit(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """Scale each space so that the mean square of its numbers is 1, over what is present."""
        for space in range(len(self.projections)):
            total, count = 0.0, 0
            for view, of in zip(self.views, self.space_of, strict=True):
                if of == space:
                    there = vectors[view][present[view]]
                    total, count = total + float(there.square().sum()), count + there.numel()
            self.scales[space] = (count / total) ** 0.5 if total > 0 else 1.0

    def _frozen(
        self,
        place: int,
        vectors: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        if place >= len(self.views):
            return self.kinds[place], None
        view, space = self.views[place], self.space_of[place]
        # Masked before the projection: a NaN times a zero weight is still a NaN.
        vector = cleared(vectors[view], present[view]) * self.scales[space]
        for name in self.added[place]:
            if name in self.corrected:
                vector = vector + rows[name]
        return self.projections[space](vector) + self.kinds[place], present[view]


def _check_corrected(specs: Sequence[EmbeddingSpec], tables: Mapping[str, TableSpec]) -> None:
    by_name = {spec.view_name: spec for spec in specs}
    for name, table in tables.items():
        view = by_name.get(table.corrects or "")
        if table.corrects and (
            view is None or (view.join_key, view.dim) != (table.join_key, table.dim)
        ):
            there = [each for each, spec in by_name.items() if spec.join_key == table.join_key]
            raise ConfigError(
                f"attention head, table {name}",
                found=f"rows of {table.dim} numbers by {table.join_key} that correct "
                f"{table.corrects}",
                expected=f"a view of that key and dim, of {', '.join(there) or '(no view)'}",
                remedy="Correct the view's name, or give the table its dim.",
            )


def _doubled(names: Sequence[str]) -> ConfigError:
    return ConfigError(
        "attention head, names",
        found=", ".join(names),
        expected="views and tables that all have names of their own",
        remedy="Name each view once, and no table as a view.",
    )
