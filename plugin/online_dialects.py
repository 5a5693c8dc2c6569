"""What differs between SQLite, PostgreSQL and MySQL/MariaDB: bulk load, reads, locks, errors.

A dialect speaks to a driver's own cursor, in autocommit mode, for that is where the speed is; the
pool, the tables and the quoting are SQLAlchemy's. Names are quoted, values are bound.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa

from provender.plugin.online_copy import copy_rows
from provender.plugin.online_keys import Keys
from provender.plugin.online_tables import LAYOUTS, OnlineTable
from provender.plugin.stored_rows import COLUMNS, FoundRow, PackedRows

#: What a newer row changes. The times come last, for MySQL compares with what is already set.
_CHANGED = ("layout", "checksum", "payload", "created_us", "event_us")
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
            cursor.execute(self._insert_layout(), (layout, description))

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

    def loaded(self, cursor: Any) -> None:  # noqa: B027
        """Tidy up after a load."""

    @property
    def _key(self) -> str:
        return self.name("key")

    @property
    def _list(self) -> str:
        return _LIST.replace("key", self._key, 1)

    def _insert_layout(self) -> str:
        return (
            f"INSERT INTO {self.name(LAYOUTS)} (id, description) "
            f"VALUES ({self.placeholder}, {self.placeholder}) ON CONFLICT (id) DO NOTHING"
        )

    def _guard(self, table: OnlineTable) -> str:
        """The upsert's end: SQLite and PostgreSQL share it."""
        changed = ", ".join(f"{column} = excluded.{column}" for column in _CHANGED)
        held = self.name(table.name)
        return (
            f" ON CONFLICT ({self._key}) DO UPDATE SET {changed} WHERE (excluded.event_us, "
            f"excluded.created_us) >= ({held}.event_us, {held}.created_us)"
        )


class SQLiteDialect(OnlineDialect):
    """A file, in WAL mode: many readers beside one writer, in as many processes as there are."""

    begin = "BEGIN IMMEDIATE"
    placeholder = "?"
    #: Seven rows of 1 KB leave less of a page empty than three.
    page_bytes = 16_384
    #: How long a writer waits for another. A load may take minutes.
    patience_seconds = 120
    #: More than SQLite's own limit, which then counts: whole files, nearly always.
    mapped_bytes = 1 << 40
    #: Below SQLite's own limit of bound values.
    most_bound = 16_384

    def connected(self, connection: Any) -> None:
        """Set what SQLite forgets with each connection."""
        connection.execute(f"PRAGMA busy_timeout = {self.patience_seconds * 1000:d}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA mmap_size = {self.mapped_bytes:d}")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20:d}")

    @contextmanager
    def creating(self, cursor: Any) -> Iterator[None]:
        """Choose the page size of a new file, and WAL for good.

        Nobody may look on while a file becomes one of WAL, or SQLite gives up at once.
        """
        with _flocked(f"{self.engine.url.database}.creating", fcntl.LOCK_EX):
            cursor.execute(f"PRAGMA page_size = {self.page_bytes:d}")
            cursor.execute("PRAGMA journal_mode = WAL")
            yield

    def upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """Insert row by row: the statement is prepared once."""
        marks = ", ".join("?" * len(COLUMNS))
        sql = f"INSERT INTO {self.name(table.name)} ({self._list}) VALUES ({marks})"
        cursor.executemany(sql + self._guard(table), rows.tuples())

    def find(self, cursor: Any, table: OnlineTable, keys: Keys) -> list[FoundRow]:
        """Numbers go in one JSON array, byte strings one by one."""
        select = f"SELECT {self._list} FROM {self.name(table.name)} WHERE {self._key} IN "
        if isinstance(keys, list):
            # A few lengths of the statement, so that it is found prepared.
            keys = keys + keys[-1:] * ((1 << (len(keys) - 1).bit_length()) - len(keys))
            cursor.execute(f"{select}({'?' + ',?' * (len(keys) - 1)})", keys)
        else:
            cursor.execute(select + "(SELECT value FROM json_each(?))", (str(keys.tolist()),))
        found: list[FoundRow] = cursor.fetchall()
        return found

    @contextmanager
    def locked(self, cursor: Any, table: OnlineTable) -> Iterator[bool]:
        """Lock a file beside the database."""
        place = f"{self.engine.url.database}.{_digest(table.name)}.loading"
        with _flocked(place, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            yield held

    def is_missing_table(self, error: Exception) -> bool:
        """SQLite has a sentence for it."""
        return "no such table" in str(error)

    @contextmanager
    def long_work(self, cursor: Any) -> Iterator[None]:
        """Read without mapping, which would show the whole file as the process's memory."""
        cursor.execute("PRAGMA mmap_size = 0")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA mmap_size = {self.mapped_bytes:d}")

    def loaded(self, cursor: Any) -> None:
        """Move the log into the file, where readers have it mapped."""
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        cursor.fetchall()


class PostgreSQLDialect(OnlineDialect):
    """PostgreSQL by psycopg 3."""

    begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def connected(self, connection: Any) -> None:
        """Transactions are begun where they are needed."""
        connection.autocommit = True

    @contextmanager
    def creating(self, cursor: Any) -> Iterator[None]:
        """Two that create one table at once would collide, whatever IF NOT EXISTS says."""
        cursor.execute("SELECT pg_advisory_lock(%s::bigint)", (_number(LAYOUTS),))
        yield
        cursor.execute("SELECT pg_advisory_unlock(%s::bigint)", (_number(LAYOUTS),))

    def created(self, cursor: Any, table: OnlineTable) -> None:
        """Keep floats from being compressed, which gains nothing."""
        cursor.execute(
            f"ALTER TABLE {self.name(table.name)} ALTER COLUMN payload SET STORAGE EXTERNAL",
            (),
        )

    def upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """One statement with an array a column."""
        kind = "bigint" if table.integer else "bytea"
        arrays = f"%s::{kind}[], " + "%s::bigint[], " * 4 + "%s::bytea[]"
        sql = f"INSERT INTO {self.name(table.name)} ({self._list}) SELECT * FROM unnest({arrays})"
        columns = [list(column) for column in zip(*rows.tuples(), strict=True)]
        cursor.execute(sql + self._guard(table), columns, binary=True)

    def bulk_upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """Binary COPY into a table of the session's own, then one guarded merge."""
        cursor.execute(
            "CREATE TEMPORARY TABLE IF NOT EXISTS provender_staged "
            f"(LIKE {self.name(table.name)} INCLUDING STORAGE) ON COMMIT DROP",
            (),
        )
        copy_rows(cursor, "provender_staged", rows)
        cursor.execute(
            f"INSERT INTO {self.name(table.name)} ({self._list}) "
            f"SELECT {self._list} FROM provender_staged" + self._guard(table),
            (),
        )
        cursor.execute("TRUNCATE provender_staged")

    def find(self, cursor: Any, table: OnlineTable, keys: Keys) -> list[FoundRow]:
        """One array of keys, the answer in the binary format."""
        kind = "bigint" if table.integer else "bytea"
        sql = f"SELECT {self._list} FROM {self.name(table.name)} "
        sql += f"WHERE {self._key} = ANY(%s::{kind}[])"
        listed = keys if isinstance(keys, list) else "{" + str(keys.tolist())[1:-1] + "}"
        cursor.execute(sql, (listed,), binary=True)
        found: list[FoundRow] = cursor.fetchall()
        return found

    def after(
        self, cursor: Any, table: OnlineTable, key: int | bytes | None, rows: int
    ) -> list[FoundRow]:
        """The next rows above a key, ascending, in the binary format."""
        cursor.format = 1
        return super().after(cursor, table, key, rows)

    @contextmanager
    def locked(self, cursor: Any, table: OnlineTable) -> Iterator[bool]:
        """An advisory lock of the session."""
        number = _number(table.name)
        cursor.execute("SELECT pg_try_advisory_lock(%s::bigint)", (number,))
        if not cursor.fetchone()[0]:
            yield False
            return
        try:
            yield True
        finally:
            if not cursor.connection.broken:
                cursor.execute("SELECT pg_advisory_unlock(%s::bigint)", (number,))

    def is_missing_table(self, error: Exception) -> bool:
        """SQLSTATE undefined_table."""
        return getattr(error, "sqlstate", None) == "42P01"


class MySQLDialect(OnlineDialect):
    """MySQL and MariaDB by PyMySQL or mysqlclient."""

    begin = "START TRANSACTION"
    begin_snapshot = "START TRANSACTION WITH CONSISTENT SNAPSHOT"
    most_bound = 10_000

    def connected(self, connection: Any) -> None:
        """Transactions are begun where they are needed, and see one state."""
        connection.autocommit(True)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def upsert(self, cursor: Any, table: OnlineTable, rows: PackedRows) -> None:
        """Many rows a statement, as the driver puts them together."""
        marks = ", ".join(["%s"] * len(COLUMNS))
        newer = "(VALUES(event_us), VALUES(created_us)) >= (event_us, created_us)"
        changed = ", ".join(f"{c} = IF({newer}, VALUES({c}), {c})" for c in _CHANGED)
        sql = f"INSERT INTO {self.name(table.name)} ({self._list}) VALUES ({marks})"
        cursor.executemany(f"{sql} ON DUPLICATE KEY UPDATE {changed}", list(rows.tuples()))

    def find(self, cursor: Any, table: OnlineTable, keys: Keys) -> list[FoundRow]:
        """One list of keys."""
        listed = keys if isinstance(keys, list) else keys.tolist()
        sql = f"SELECT {self._list} FROM {self.name(table.name)} "
        cursor.execute(f"{sql} WHERE {self._key} IN ({', '.join(['%s'] * len(listed))})", listed)
        return list(cursor.fetchall())

    @contextmanager
    def locked(self, cursor: Any, table: OnlineTable) -> Iterator[bool]:
        """A named lock of the server, which all of its databases share."""
        name = f"provender.{_digest(f'{self.engine.url.database}.{table.name}')}"
        cursor.execute("SELECT GET_LOCK(%s, 0)", (name,))
        if cursor.fetchone()[0] != 1:
            yield False
            return
        try:
            yield True
        finally:
            if cursor.connection.open:
                cursor.execute("SELECT RELEASE_LOCK(%s)", (name,))
                cursor.fetchall()

    def is_missing_table(self, error: Exception) -> bool:
        """ER_NO_SUCH_TABLE."""
        return bool(error.args) and error.args[0] == 1146

    def _insert_layout(self) -> str:
        return f"INSERT IGNORE INTO {self.name(LAYOUTS)} (id, description) VALUES (%s, %s)"


DIALECTS: dict[str, Callable[[sa.Engine], OnlineDialect]] = {
    "sqlite": SQLiteDialect,
    "postgresql": PostgreSQLDialect,
    "mysql": MySQLDialect,
    "mariadb": MySQLDialect,
}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(bytes.fromhex(_digest(text)), "little", signed=True)


@contextmanager
def _flocked(place: str, kind: int) -> Iterator[bool]:
    """Hold a lock on a file, which ends with the process; yield False where it is taken."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Not by closing alone: a child that was forked meanwhile has the same lock open.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
