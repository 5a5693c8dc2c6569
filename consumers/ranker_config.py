"""The reference ranker's parts and sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from provender.consumers.user_history import HistorySpec

TASKS = ("click", "conversion")
Vectors = Literal["none", "concat", "attention"]


class TableConfig(BaseModel):
    """A table of learned rows that a ranker has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="what it is called")
    join_key: str = Field(min_length=1, description="whose rows: user_id, pin_id, ...")
    dim: int = Field(ge=1, description="numbers a row")
    view: str | None = Field(None, description="the view whose snapshot it began as; none: small")
    corrects: str | None = Field(
        None, description="attention: the view whose vectors its rows, which begin as 0, correct"
    )


class RankerConfig(BaseModel):
    """The ranker's parts and sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: Vectors | None = Field(
        None,
        description="none; concat: as plain inputs; attention: through the attention head; "
        "[default: attention where there is a query]",
    )
    tables: tuple[TableConfig, ...] = Field((), description="tables of learned rows")
    history: HistorySpec | None = Field(None, description="what is seen of the user's past")
    geometry: bool = Field(False, description="concat: dot, cosine and distance as inputs too")
    cross_layers: int = Field(2, ge=1, description="DCNv2 cross layers")
    hidden: int = Field(32, ge=1, description="width of the deep part")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the deep part")
    head_width: int = Field(32, ge=1, description="d of the attention head")
    attention_heads: int = Field(4, ge=1, description="they divide head_width")
    facet_dropout: float = Field(0.1, ge=0, lt=1, description="share of facets hidden in training")
    query: str | None = Field(None, description="view of the candidate  [default: the first pin's]")
    accepts_anchored: bool = Field(
        False, description="may be served a version anchored to the one it learned from"
    )

    @property
    def reads(self) -> Vectors:
        """How the vectors are used."""
        return self.vectors or ("none" if self.query is None else "attention")
