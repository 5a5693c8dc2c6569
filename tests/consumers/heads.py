"""A head with everything: two entities in one space, a page in another, tables, and a past."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from provender.consumers.attention_head import AttentionHead
from provender.consumers.facet_tokens import TableSpec
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.spec import EmbeddingSpec

KINDS = ("click", "save")
LENGTH, ITEMS = 5, 7


def spec(entity: str, dim: int, space: str) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=f"{entity}_{space}",
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=dim,
        space=space,
        producer="test",
        ttl=timedelta(days=1),
    )


USER, PIN, PAGE = spec("user", 8, "graph"), spec("pin", 8, "graph"), spec("page", 5, "pages")
SPECS = (USER, PIN, PAGE)
TABLES = {
    "users": TableSpec("user_id", 6),
    "pins": TableSpec("pin_id", 6),
    "advertisers": TableSpec("advertiser_id", 3),
}


class Inputs(NamedTuple):
    """What a head is given, in the order of its arguments."""

    vectors: dict[str, Tensor]
    present: dict[str, Tensor]
    rows: dict[str, Tensor]
    history: History
    history_rows: dict[str, Tensor]

    def parts(self) -> dict[str, Any]:
        return self._asdict()


def full_head(*, trained: bool = True, **sizes: Any) -> AttentionHead:
    """Of random weights everywhere if `trained`, else as it begins."""
    torch.manual_seed(0)
    head = AttentionHead(
        SPECS,
        PIN.view_name,
        tasks=2,
        tables=TABLES,
        history=HistorySpec(length=LENGTH, kinds=KINDS),
        **{"width": 12, "heads": 3, "facet_dropout": 0.0, **sizes},
    )
    if trained:
        for name, parameter in head.named_parameters():
            if name != "past.log_memory":
                torch.nn.init.normal_(parameter, std=0.4)
    return head.eval()


def inputs(rows: int = 16, items: int = ITEMS, seed: int = 1) -> Inputs:
    """Rows of which some miss vectors, some rows of tables, some any past."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < share

    present = {one.view_name: chance(0.7, rows) for one in SPECS}
    known = {name: chance(0.8, rows)[:, None] for name in TABLES}
    places = torch.randint(0, max(items, 1), (rows, LENGTH), generator=generator)
    lengths = torch.randint(0, LENGTH + 1, (rows, 1), generator=generator)
    there = (torch.arange(LENGTH) < lengths) & (items > 0)
    history = History(
        items=torch.where(there, places, -1),
        kinds=torch.randint(0, 2, (rows, LENGTH), generator=generator) * there,
        age_seconds=torch.rand(rows, LENGTH, generator=generator) * 1e6 * there,
        keys=pa.array(range(items), pa.int64()),
        vectors={PIN.view_name: normal(items, PIN.dim)},
        present={PIN.view_name: chance(0.8, items)},
    )
    return Inputs(
        {one.view_name: normal(rows, one.dim) for one in SPECS},
        present,
        {name: normal(rows, table.dim) * known[name] for name, table in TABLES.items()},
        history,
        {"pins": normal(items, 6)},
    )
