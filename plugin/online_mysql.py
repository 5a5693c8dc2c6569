"""Online tables in MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from provender.plugin.online_dialects import CHANGED, OnlineDialect, digest
from provender.plugin.online_keys import Keys
from provender.plugin.online_tables import OnlineTable
from provender.plugin.stored_rows import COLUMNS, FoundRow, PackedRows


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
        changed = ", ".join(f"{c} = IF({newer}, VALUES({c}), {c})" for c in CHANGED)
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
        name = f"provender.{digest(f'{self.engine.url.database}.{table.name}')}"
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

    def insert_new(self, table: str, columns: Sequence[str]) -> str:
        """MySQL has a word for it."""
        marks = ", ".join([self.placeholder] * len(columns))
        return f"INSERT IGNORE INTO {self.name(table)} ({', '.join(columns)}) VALUES ({marks})"
