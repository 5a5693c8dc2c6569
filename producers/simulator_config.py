"""What a simulated ads world is made of: every knob with its check and its help beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from provender.plugin.errors import SimulationError

MAX_EVENTS_PER_DAY = 500_000_000
"""Ids of a day lie in a range of 1e9; half of it leaves room for a busy day."""


class SimulatorConfig(BaseModel):
    """A world, fully determined by these values (and by the version of NumPy's distributions).

    `days` only says when to stop: the files of a day are the same bytes whatever it is.
    The constructor raises pydantic's own error; `SimulatorConfig.parse` the one-line
    `SimulationError` that users are shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int = Field(3_000, ge=1, le=100_000_000, description="users on the first morning")
    pins: int = Field(3_000, ge=1, le=100_000_000, description="pins (ads) on the first morning")
    days: int = Field(14, ge=1, le=3_650, description="days to simulate")
    seed: int = Field(7, ge=0, lt=2**63, description="the same seed gives the same bytes")
    start: date = Field(
        date(2026, 3, 1),
        ge=date(1970, 1, 1),
        le=date(2200, 1, 1),
        description="first day (UTC)",
    )
    items: int = Field(1_000, ge=1, le=100_000_000, description="offsite products on day one")
    advertisers: int = Field(150, ge=1, le=1_000_000, description="advertisers who sell the items")
    topics: int = Field(48, ge=2, le=1_024, description="planted topics")
    impressions_per_user: float = Field(25.0, gt=0, le=1_000, description="mean, per user and day")
    saves_per_user: float = Field(1.5, ge=0, le=100, description="organic saves, user and day")
    visits_per_user: float = Field(3.0, ge=0, le=100, description="organic offsite events")
    click_rate: float = Field(0.02, gt=0, le=0.5, description="clicks per impression")
    conversion_rate: float = Field(
        0.004, ge=0, le=0.5, description="conversions caused by clicks, per impression"
    )
    affinity_effect: float = Field(
        2.1, ge=0, le=10, description="log-odds of a click from no interest in a pin to full"
    )
    targeted: float = Field(0.5, ge=0, le=1, description="share delivered by the user's interests")
    popular: float = Field(0.25, ge=0, le=1, description="share delivered by popularity")
    drift: float = Field(
        0.02, ge=0, le=1, description="part of a user's interests forgotten each day"
    )
    user_growth: float = Field(0.005, ge=0, le=1, description="new users a day, as part of `users`")
    pin_growth: float = Field(0.01, ge=0, le=1, description="new pins a day, as part of `pins`")
    attribution_days: int = Field(7, ge=1, le=30, description="longest delay, click to conversion")
    truth: bool = Field(True, description="write the hidden truth beside the events")
    chunk_rows: int = Field(131_072, ge=1, le=10_000_000, description="rows of a Parquet row group")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.targeted + self.popular > 1:
            raise ValueError(
                f"targeted + popular = {self.targeted + self.popular:g} is above 1; "
                "what they leave is delivered at random"
            )
        if self.conversion_rate > self.click_rate / 2:
            raise ValueError(
                f"conversion_rate {self.conversion_rate:g} is above half of click_rate "
                f"{self.click_rate:g}; conversions are caused by clicks"
            )
        last = max(
            self.size(self.users, self.user_growth, self.days),
            self.size(max(self.pins, self.items), self.pin_growth, self.days),
        )
        if last * (self.impressions_per_user + self.visits_per_user) > MAX_EVENTS_PER_DAY:
            raise ValueError(
                f"{last:,} users or pins on the last day x (impressions_per_user + "
                f"visits_per_user) is above {MAX_EVENTS_PER_DAY:,}"
            )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> SimulatorConfig:
        """The config of these values; `SimulationError` names every value that cannot be."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _one_line(error) from None

    def size(self, total: int, growth: float, cohort: int) -> int:
        """Entities that exist once `cohort` has arrived (0: before the start, d + 1: on day d)."""
        return total + int(total * growth * cohort)


def _one_line(error: ValidationError) -> SimulationError:
    problems = error.errors()
    found, expected = [], []
    for problem in problems:
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        found.append(f"{name}={problem['input']!r}" if name else "values that exclude each other")
        expected.append(f"{name}: {message}" if name else message)
    return SimulationError(
        "simulator config",
        found=", ".join(found),
        expected="; ".join(expected),
        remedy="See `provender simulate --help` for what each value means.",
    )
