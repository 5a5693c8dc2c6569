"""Online tables in a SQLite file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from provender.plugin.online_dialects import OnlineDialect, digest
from provender.plugin.online_keys import Keys
from provender.plugin.online_tables import OnlineTable
from provender.plugin.stored_rows import COLUMNS, FoundRow, PackedRows


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
        select = f"SELECT {self._list} FROM {self.name(table.name)}"
        if isinstance(keys, list):
            # A few lengths of the statement, so that it is found prepared.
            keys = keys + keys[-1:] * ((1 << (len(keys) - 1).bit_length()) - len(keys))
            marks = "?" + ",?" * (len(keys) - 1)
            cursor.execute(f"{select} WHERE {self._key} IN ({marks})", keys)
        else:
            # In the order of the table, and not through a set of its own as IN would be.
            wanted = "(SELECT value AS wanted FROM json_each(?)) CROSS JOIN "
            joined = select.replace("FROM ", f"FROM {wanted}", 1)
            ascending = str(np.unique(keys).tolist())
            cursor.execute(f"{joined} ON {self._key} = wanted", (ascending,))
        found: list[FoundRow] = cursor.fetchall()
        return found

    @contextmanager
    def locked(self, cursor: Any, table: OnlineTable) -> Iterator[bool]:
        """Lock a file beside the database."""
        place = f"{self.engine.url.database}.{digest(table.name)}.loading"
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

    def loaded(self, cursor: Any, table: OnlineTable) -> None:
        """Move the log into the file, where readers have it mapped."""
        cursor.execute("PRAGMA busy_timeout = 1000")
        # Emptied too, where no reader is in the way: else who opens the file after a process that
        # was killed reads everything from the log, at half the speed.
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {self.patience_seconds * 1000:d}")


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
