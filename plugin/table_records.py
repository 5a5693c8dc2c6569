"""What each online table is: whose, of which view, and from which runs its rows came.

A load notes its runs in its own transaction, so the note is never ahead of the rows, nor behind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy.dialects import mysql

from provender.plugin.manifest import RunRecord
from provender.plugin.online_rows import EPOCH, MICROSECOND, microseconds_of

_BINARY = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
_NAME = sa.String(191).with_variant(mysql.VARCHAR(191, **_BINARY), "mysql", "mariadb")

TABLES = sa.Table(
    "provender_tables",
    sa.MetaData(),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("project", _NAME, nullable=False),
    sa.Column("view", sa.Text, nullable=False),
    sa.Column("runs", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    sa.Column("loaded_us", sa.BigInteger),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)


class TableRecord(BaseModel):
    """One online table.

    Attributes:
        name: the table.
        view: the feature view, with Feast's native ``@vN`` left out.
        runs: whose vectors may be in it, ascending by as-of; empty for views without snapshots.
        loaded_at: when it was last materialized.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    project: str
    view: str
    runs: tuple[RunRecord, ...] = ()
    loaded_at: AwareDatetime | None = None

    @property
    def newest(self) -> RunRecord | None:
        """The newest refresh of the runs, which no supplement is; None where none is known."""
        refreshes = [run for run in self.runs if run.supplement_of is None]
        return refreshes[-1] if refreshes else None

    @property
    def strays(self) -> tuple[RunRecord, ...]:
        """Supplements of other refreshes than the newest, later than it and all of its own.

        `provender cold` computes their rows again, with what the newest refresh knows.
        """
        newest = self.newest
        if newest is None:
            return ()
        own = (r for r in self.runs if newest.run_id in (r.run_id, r.supplement_of))
        last = max(run.as_of for run in own)
        return tuple(run for run in self.runs if run.as_of > last)

    @classmethod
    def of(cls, row: sa.Row[Any]) -> TableRecord:
        """Read a row of the table."""
        loaded = None if row.loaded_us is None else EPOCH + row.loaded_us * MICROSECOND
        return cls(
            name=row.name,
            project=row.project,
            view=row.view,
            runs=json.loads(row.runs),
            loaded_at=loaded,
        )


#: What a table is noted with.
NOTED = ("name", "project", "view", "runs")


def note_load(
    cursor: Any, mark: str, name: str, runs: Sequence[RunRecord], ttl: timedelta | None
) -> None:
    """Note, within the load's transaction, the runs whose rows it has written.

    Runs of earlier loads stay noted, for a load replaces only the keys it has; not those that are
    older than the ttl before the newest, whose rows nobody may use.
    """
    cursor.execute(f"SELECT runs FROM {TABLES.name} WHERE name = {mark}", (name,))
    row = cursor.fetchone()
    former = [RunRecord.model_validate(each) for each in json.loads(row[0])] if row else []
    # At one time there may be a refresh and a supplement; the refresh is the later of the two.
    known = {(run.as_of, run.supplement_of is None): run for run in (*former, *runs)}
    oldest = max(known)[0] - ttl if ttl and known else None
    kept = [known[at] for at in sorted(known) if oldest is None or at[0] >= oldest]
    told = json.dumps([run.model_dump(mode="json") for run in kept])
    cursor.execute(
        f"UPDATE {TABLES.name} SET runs = {mark}, loaded_us = {mark} WHERE name = {mark}",
        (told, microseconds_of(datetime.now(UTC)), name),
    )


def forget_table(cursor: Any, mark: str, name: str) -> None:
    """Forget a table that is dropped."""
    cursor.execute(f"DELETE FROM {TABLES.name} WHERE name = {mark}", (name,))
