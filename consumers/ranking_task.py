"""The `ranking` section of a world: what was shown, and what counts as a click or a conversion.

::

    ranking:
      impressions: {table: impressions, id: impression_id, user: user_id, pin: pin_id,
                    time: event_timestamp, time_zone: UTC, context: [position, surface]}
      labels:
        click:      {table: engagements, match: {impression_id: impression_id},
                     time: event_timestamp, where: "type = 'click'", within: 1d}
        conversion: {table: conversions, match: {user_id: user_id, pin_id: pin_id},
                     time: event_timestamp, within: 7d, immature: weigh}
      negatives: 0.1
      history:
        length: 20
        actions:
          click: {table: engagements, where: "type = 'click'", user: user_id, pin: pin_id,
                  time: event_timestamp}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from provender.plugin.checked_yaml import check
from provender.plugin.durations import Duration
from provender.plugin.time_sql import TimeUnit
from provender.plugin.world import Name, World

#: The columns that every table of impressions has, before its context and labels.
ID, USER, PIN, TIME = "impression_id", "user_id", "pin_id", "event_timestamp"
KEYS = (ID, USER, PIN, TIME)
LABELS = ("click", "conversion")
#: Beside each label, what its row counts in the task's loss: 0 where the label is not known.
WEIGHTS = tuple(f"{label}_weight" for label in LABELS)


class TimeColumn(BaseModel):
    """Where a row's time is, and how a time without a zone is to be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str = Field(description="one of the world's tables")
    time: str = Field(description="the column of the row's time")
    time_unit: TimeUnit | None = Field(
        default=None, description="of numbers since 1970-01-01 UTC; timestamps need none"
    )
    time_zone: str = Field(default="UTC", description="of times that do not carry a zone")
    where: str | None = Field(default=None, description="a DuckDB condition on the table's rows")


class Impressions(TimeColumn):
    """What was shown to whom, one row an impression."""

    id: str = Field(description="the column of the impression's id, unique")
    user: str = Field(description="the column of the user's key")
    pin: str = Field(description="the column of the candidate's key")
    context: tuple[str, ...] = Field(
        default=(), description="columns known at the time of the request, for the ranker"
    )

    @field_validator("context")
    @classmethod
    def _no_taken_names(cls, context: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({*KEYS, *LABELS, *WEIGHTS} & set(context))
        if taken or len(set(context)) < len(context):
            names = ", ".join((*KEYS, *LABELS, *WEIGHTS))
            raise ValueError(f"columns named once, none of them {names}")
        return context


class Label(TimeColumn):
    """An event that makes an impression a positive, if it follows soon enough."""

    match: dict[Literal["impression_id", "user_id", "pin_id"], str] = Field(
        min_length=1, description="column of the impression -> column of this table"
    )
    within: Duration = Field(description="the attribution window, both ends included: 1d, 12h, 30m")
    immature: Literal["drop", "weigh"] = Field(
        "drop",
        description="rows whose window is still open have no label, or are weighed by how likely "
        "their event would have been seen by now (delayed_feedback.py)",
    )


class Labels(BaseModel):
    """The labels of the two tasks; without conversions only the click is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    click: Label
    conversion: Label | None = None

    def declared(self) -> dict[str, Label]:
        """The labels there are, by name."""
        labels = {"click": self.click, "conversion": self.conversion}
        return {name: label for name, label in labels.items() if label is not None}


class Actions(TimeColumn):
    """One kind of action: a row for each time that a user did it with a pin."""

    user: str = Field(description="the column of the user's key")
    pin: str = Field(description="the column of the pin's key")


class HistoryDeclaration(BaseModel):
    """What rankers may see of a user's past."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(20, ge=1, le=1000, description="actions of a user at most, the latest")
    actions: dict[Name, Actions] = Field(min_length=1, description="kind -> its rows")


class RankingTask(BaseModel):
    """The `ranking` section of a world, checked; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    impressions: Impressions
    labels: Labels
    history: HistoryDeclaration | None = None
    negatives: float = Field(
        1.0, gt=0, le=1, description="share of the rows without a positive to train on"
    )

    @classmethod
    def of_world(cls, world: World) -> RankingTask:
        """Check the section; raises MappingError naming the key, what was found and expected."""
        where = f"{world.path or 'world'}: ranking"
        return check(cls, world.ranking, where)


def context_columns(columns: Iterable[str]) -> list[str]:
    """Return those of a labelled table's columns that a request brings along."""
    return [name for name in columns if name not in (*KEYS, *LABELS, *WEIGHTS)]
