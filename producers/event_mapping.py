"""What is an event: the checked declaration that turns the rows of tables into typed triples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from provender.plugin.checked_yaml import check
from provender.plugin.errors import MappingError
from provender.plugin.tables import TableSource
from provender.plugin.time_sql import TimeUnit
from provender.plugin.world import KeyType, Name, World


class EventDeclaration(BaseModel):
    """One event type: a table's rows as triples (head, event, tail) with time and weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    head: dict[str, str] = Field(description="{entity: column of its key}")
    tail: dict[str, str] = Field(description="{entity: column of its key}")
    time: str | None = Field(description="column of the time; null for structure, always known")
    time_unit: TimeUnit | None = Field(
        default=None, description="of a time written as a number since 1970"
    )
    time_zone: str | None = Field(
        default=None, description="of times that carry none themselves; UTC when not given"
    )
    where: str | None = Field(default=None, description="SQL condition on the table's rows")
    weight: float | str = Field(default=1.0, description="a number or SQL over the table's columns")
    unique: Literal["head"] | None = Field(
        default=None, description="each head at most once; twice is an error"
    )
    id: str | None = Field(
        default=None, description="column that identifies the event; twice is an error"
    )

    @property
    def head_entity(self) -> str:
        """The entity type of the head."""
        return next(iter(self.head))

    @property
    def tail_entity(self) -> str:
        """The entity type of the tail."""
        return next(iter(self.tail))

    @property
    def head_column(self) -> str:
        """The column of the head's key."""
        return self.head[self.head_entity]

    @property
    def tail_column(self) -> str:
        """The column of the tail's key."""
        return self.tail[self.tail_entity]

    def columns(self) -> dict[str, str]:
        """Key of this declaration -> column of the table that it names."""
        named = {
            f"head.{self.head_entity}": self.head_column,
            f"tail.{self.tail_entity}": self.tail_column,
            "time": self.time,
            "id": self.id,
        }
        return {key: column for key, column in named.items() if column is not None}

    @field_validator("head", "tail")
    @classmethod
    def _one_entity(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) != 1:
            raise ValueError("one entity with its column, such as {user: user_id}")
        return value

    @field_validator("weight")
    @classmethod
    def _finite_weight(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise ValueError("a finite weight of at least 0, or a SQL expression")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("a time zone such as UTC or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _timed(self) -> Self:
        if self.time is None and (self.time_unit or self.time_zone):
            raise ValueError("no time_unit and no time_zone where time is null")
        return self


class EventMapping(BaseModel):
    """The sections of a world that the event reader needs, checked against each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bad_share: float = Field(default=0.01, ge=0, lt=1)
    tables: dict[Name, TableSource] = Field(min_length=1)
    entities: dict[Name, KeyType] = Field(min_length=1)
    events: dict[Name, EventDeclaration] = Field(min_length=1)

    @classmethod
    def from_world(cls, world: World) -> EventMapping:
        """The mapping that a world declares. Raises MappingError."""
        content = world.model_dump(include={"max_bad_share", "tables", "entities", "events"})
        return check(cls, content, str(world.path or "world"))

    @classmethod
    def load(cls, path: Path) -> EventMapping:
        """The mapping of a world file. Raises MappingError naming the file and the key."""
        return cls.from_world(World.load(path))

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, event in self.events.items():
            _check_known(f"events.{name}.table", event.table, list(self.tables), "tables")
            for end, entity in (("head", event.head_entity), ("tail", event.tail_entity)):
                _check_known(f"events.{name}.{end}", entity, list(self.entities), "entities")
        return self


def _check_known(key: str, found: str, known: list[str], section: str) -> None:
    if found not in known:
        raise MappingError(
            key,
            found=repr(found),
            expected=f"one of {', '.join(sorted(known))}",
            remedy=f"Correct it or declare it under `{section}`.",
        )
