"""A user's last actions before each impression, with the embeddings of what they were about.

Legend of shapes: B rows, L actions of a row at most, U distinct pins of all of them, D the dim of a
view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class HistorySpec(BaseModel):
    """What a ranker sees of the past; kept in its checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=1, le=1000, description="L, actions of a user at most, the latest")
    kinds: tuple[str, ...] = Field(min_length=1, description="what actions there are, in order")


class Action(NamedTuple):
    """Something that a user did with a pin."""

    pin: int | str
    kind: str
    time: datetime


@dataclass(frozen=True)
class History:
    """What the user of each row did before it, the latest first.

    In a request all rows have one user: there `items`, `kinds` and `age_seconds` are one row that
    is expanded to all, and not to be written to.

    Attributes:
        items: (B, L) int64, the place of each action's pin in `keys` and `vectors`; -1 is none.
        kinds: (B, L) int64, places in the spec's kinds; 0 where there is no action.
        age_seconds: (B, L) float32, time of the row less that of the action; 0 where there is none.
        keys: (U,) the pins; one stands there several times where its vectors differ from row to
            row, for each is as it was known at the time of its row.
        vectors: view -> (U, D) float32, zero where missing.
        present: view -> (U,) bool.
    """

    items: Tensor
    kinds: Tensor
    age_seconds: Tensor
    keys: pa.Array
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, rows: Tensor) -> History:
        """The chosen rows, (n,) int64; pins that none of them needs stay."""

        def chosen(actions: Tensor) -> Tensor:
            if is_one_past(actions):
                return actions[:1].expand(len(rows), -1)
            return actions.index_select(0, rows)

        return replace(
            self,
            items=chosen(self.items),
            kinds=chosen(self.kinds),
            age_seconds=chosen(self.age_seconds),
        )


def is_one_past(actions: Tensor) -> bool:
    """Say whether the rows of (B, L) are one row of memory: a request's, whose user is one.

    What is computed of such a past is computed once. Compiled and exported heads know nothing of
    strides and do without.
    """
    return not torch.compiler.is_compiling() and len(actions) > 1 and actions.stride(0) == 0
