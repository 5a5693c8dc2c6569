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
        return replace(
            self,
            items=self.items.index_select(0, rows),
            kinds=self.kinds.index_select(0, rows),
            age_seconds=self.age_seconds.index_select(0, rows),
        )
