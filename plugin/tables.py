"""Declared tables as views of one DuckDB connection: Parquet, CSV, a database, SQL on these."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TableSource(BaseModel):
    """Where the rows of one table are: exactly one of `path`, `url` with `query`, or `sql`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(
        default=None,
        description="a Parquet or CSV(.gz) file, a glob or a folder, relative to the data folder",
    )
    url: str | None = Field(
        default=None,
        description="a SQLAlchemy URL; ${NAME} is taken from the environment",
    )
    query: str | None = Field(default=None, description="what to select at `url`")
    sql: str | None = Field(
        default=None, description="DuckDB SQL over the tables with a path or url, or above this one"
    )
    types: dict[str, str] = Field(
        default_factory=dict,
        description="types of CSV columns, all text otherwise; what does not fit becomes null",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("path", "url", "sql") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of path, url (with query) and sql")
        if (self.url is None) != (self.query is None):
            raise ValueError("url and query together")
        if self.types and self.path is None:
            raise ValueError("types only beside a path; cast in the query or sql instead")
        return self
