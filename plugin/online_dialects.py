"""What differs between kinds of databases: bulk load, reads, locks, errors.

A dialect speaks to a driver's own cursor, in autocommit mode, for that is where the speed is; the
pool, the tables and the quoting are SQLAlchemy's. Names are quoted, values are bound.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa

from provender.plugin.online_keys import Keys
from provender.plugin.online_tables import LAYOUTS, OnlineTable
from provender.plugin.stored_rows import COLUMNS, FoundRow, PackedRows

#: What a newer row changes. The times come last, for MySQL compares with what is already set.
CHANGED = ("layout", "checksum", "payload", "created_us", "event_us")
_LIST = ", ".join(COLUMNS)


class OnlineDialect(ABC):
    """One kind of database.

    Attributes:
        begin: starts a transaction that writes.
        begin_snapshot: starts one whose reads all see the same state.
        placeholder: a bound value.
        most_bound: keys that one statement finds; more take several, within a snapshot.
    """

    begin: ClassVar[str] = "BEGIN"
    begin_snapshot: ClassVar[str] = "BEGIN"
    placeholder: ClassVar[str] = "%s"
    most_bound: ClassVar[int] = 1 << 30

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def name(self, table: str) -> str:
        """A table's name, quoted, for statements with values: a % is doubled where drivers ask."""
        return self.engine.dialect.identifier_preparer.quote_identifier(table)

    @abstractmethod
    def connected(self, connection: Any) -> None:
        """Prepare a driver's new connection."""

    @contextmanager
    def creating(self, cursor: Any) -> Iterator[None]:
        """Prepare a database for tables, and keep others from creating any meanwhile."""
        yield

    def created(self, cursor: Any, table: OnlineTable) -> None:  # noqa: B027
        """Finish a table that was just created."""

    @abstractmethod
    def upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """Write rows, keys ascending and none twice; older never replaces newer."""

    def bulk_upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """The same for many rows."""
        self.upsert(cursor, table, rows)

    @abstractmethod
    def find(self, cursor: Any, table: OnlineTable, keys: Keys) -> list[FoundRow]:
        """The rows of at most `most_bound` keys, each once, in any order."""

    def after(
        self, cursor: Any, table: OnlineTable, key: int | bytes | None, rows: int
    ) -> list[FoundRow]:
        """The next rows above a key, ascending."""
        where = "" if key is None else f" WHERE {self._key} > {self.placeholder}"
        sql = f"SELECT {self._list} FROM {self.name(table.name)}{where} ORDER BY {self._key}"
        sql += f" LIMIT {rows:d}"
        cursor.execute(sql, () if key is None else (key,))
        found: list[FoundRow] = cursor.fetchall()
        return found

    @contextmanager
    @abstractmethod
    def locked(self, cursor: Any, table: OnlineTable) -> Iterator[bool]:
        """Hold the table's load lock, which ends with the process; yield False if it is taken."""

    @abstractmethod
    def is_missing_table(self, error: Exception) -> bool:
        """Whether a driver's error says that there is no such table."""

    def register_layout(self, cursor: Any, layout: int, description: str) -> None:
        """Note what a layout's id stands for, if it is not yet."""
        found = self.find_layout(cursor, layout)
        if found is None:
            cursor.execute(self.insert_new(LAYOUTS, ("id", "description")), (layout, description))

    def insert_new(self, table: str, columns: Sequence[str]) -> str:
        """The statement that inserts a row, and does nothing where its key is there already."""
        marks = ", ".join([self.placeholder] * len(columns))
        inserted = f"INTO {self.name(table)} ({', '.join(columns)}) VALUES ({marks})"
        return f"INSERT {inserted} ON CONFLICT ({columns[0]}) DO NOTHING"

    def find_layout(self, cursor: Any, layout: int) -> str | None:
        """What a layout's id stands for."""
        sql = f"SELECT description FROM {self.name(LAYOUTS)} WHERE id = {self.placeholder}"
        cursor.execute(sql, (layout,))
        row = cursor.fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def long_work(self, cursor: Any) -> Iterator[None]:
        """Prepare a connection for going through a whole table, and bring it back."""
        yield

    def loaded(self, cursor: Any, table: OnlineTable) -> None:  # noqa: B027
        """Tidy up after a load."""

    @property
    def _key(self) -> str:
        return self.name("key")

    @property
    def _list(self) -> str:
        return _LIST.replace("key", self._key, 1)

    def _guard(self, table: OnlineTable) -> str:
        """The upsert's end: SQLite and PostgreSQL share it."""
        changed = ", ".join(f"{column} = excluded.{column}" for column in CHANGED)
        held = self.name(table.name)
        return (
            f" ON CONFLICT ({self._key}) DO UPDATE SET {changed} WHERE (excluded.event_us, "
            f"excluded.created_us) >= ({held}.event_us, {held}.created_us)"
        )


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that stand for a name."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
