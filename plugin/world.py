"""A world: one YAML file that declares a data set, from its tables to its evaluation dates.

The file has one section for each reader; `World` checks that the sections are there and leaves
what is inside `events`, `content`, `counters`, `transra`, `linksage`, `upstream` and `ranking` to
the modules that use them. The worlds that ship are in feature_repo/worlds.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

from provender.plugin.checked_yaml import check, load_yaml
from provender.plugin.tables import TableSource

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
KeyType = Literal["int64", "string"]


class Dates(BaseModel):
    """When the main job computes embeddings, and the days after that it is judged on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_as_of: date = Field(description="the first refresh holds all that lies before this day")
    refreshes: int = Field(ge=1, description="how many refreshes the job makes")
    every_days: int = Field(default=1, ge=1, description="days from one refresh to the next")
    evaluate_days: int = Field(default=1, ge=1, description="days after the last as-of")

    def as_ofs(self) -> list[datetime]:
        """The as-of times, ascending, each a midnight in UTC."""
        first = datetime(
            self.first_as_of.year, self.first_as_of.month, self.first_as_of.day, tzinfo=UTC
        )
        return [first + timedelta(days=self.every_days * i) for i in range(self.refreshes)]

    def evaluation(self) -> tuple[datetime, datetime]:
        """The span [last as-of, end) whose events no refresh has seen."""
        last = self.as_ofs()[-1]
        return last, last + timedelta(days=self.evaluate_days)


class World(BaseModel):
    """All that a data set declares. Unknown sections are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bad_share: float = Field(
        default=0.01, ge=0, lt=1, description="share of bad rows of an event that stops the run"
    )
    tables: dict[Name, TableSource] = Field(min_length=1, description="plugin/tables.py")
    entities: dict[Name, KeyType] = Field(min_length=1, description="type of each entity's key")
    events: dict[Name, dict[str, Any]] = Field(
        min_length=1, description="checked by producers/event_mapping.py"
    )
    content: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="entity -> where vectors of its own content are; checked by "
        "producers/content.py",
    )
    counters: dict[str, list[str]] = Field(
        default_factory=dict, description="role -> events; checked by producers/counters.py"
    )
    transra: dict[str, Any] = Field(
        default_factory=dict,
        description="how TransRA is trained, and under `families` and `versions` what differs for "
        "single ones; checked by producers/settings.py and producers/transra_config.py",
    )
    linksage: dict[str, Any] = Field(
        default_factory=dict,
        description="where pages and pins are and how LinkSage is trained, with `families` and "
        "`versions` likewise; checked by producers/linksage/page_job.py",
    )
    upstream: dict[str, Any] = Field(
        default_factory=dict,
        description="what upstream towers learn from and see, and how they are trained, with "
        "`families` and `versions` likewise; checked by producers/upstream/tower_job.py",
    )
    ranking: dict[str, Any] = Field(
        default_factory=dict, description="checked by consumers/ranking_task.py"
    )
    dates: Dates

    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """The file that declared this world; None when it was made in Python."""
        return self._path

    @classmethod
    def load(cls, path: Path) -> World:
        """Read and check a world file.

        Raises MappingError naming the file, the key, what was found and what was expected.
        """
        world = check(cls, load_yaml(path), str(path))
        world._path = path
        return world
