"""The vectors of pin nodes that pages are trained to lie near to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provender.producers.linksage.features import Features
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_tokens import content_of, shared
from provender.producers.linksage.pin_tower import PinTower


@dataclass(frozen=True, eq=False)
class PinVectors:
    """Given vectors, or what the pin tower makes of text and image.

    `has` bool (nodes,) says which nodes have one; `rows` int64 (nodes,), which pin stands for each:
    its representative, or the first of its cluster that has a vector where that one has none.
    """

    has: Tensor
    rows: Tensor
    tables: tuple[Tensor, ...]
    tower: PinTower | None
    device: torch.device

    @classmethod
    def prepare(
        cls, model: PageModel, features: Features, graph: PageGraph, device: torch.device
    ) -> PinVectors:
        """Of all pin nodes of a graph."""
        tables: tuple[Tensor, ...] = content_of(features.pins)
        has = tables[0].any(1) | tables[1].any(1)
        if model.pin_tower is None:
            assert features.targets is not None
            tables = (shared(features.targets),)
            has = tables[0].isfinite().all(1) & tables[0].any(1)
        pins = has.nonzero().squeeze(1)
        first = torch.full((graph.counts["pin"],), len(has))
        first = first.scatter_reduce(0, graph.cluster[pins], pins, "amin")
        rows = torch.where(has[graph.representative], graph.representative, first)
        return cls(rows < len(has), rows, tables, model.pin_tower, device)

    def of(self, nodes: Tensor) -> Tensor:
        """The vectors (n, dim) of nodes (n,) that have one, on the device; not normalised."""
        rows = self.rows[nodes]
        found = [table.index_select(0, rows).to(self.device) for table in self.tables]
        return found[0].float() if self.tower is None else self.tower(*found)
