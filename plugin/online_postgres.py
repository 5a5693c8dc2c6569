"""Online tables in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from provender.plugin.online_copy import copy_rows
from provender.plugin.online_dialects import OnlineDialect, digest
from provender.plugin.online_keys import Keys
from provender.plugin.online_tables import LAYOUTS, OnlineTable
from provender.plugin.stored_rows import FoundRow, PackedRows


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

    def loaded(self, cursor: Any, table: OnlineTable) -> None:
        """Clear the replaced rows away, which halves the time of reads right after a load.

        Where only the table's owner may, PostgreSQL leaves it to its own schedule.
        """
        cursor.execute(f"VACUUM (SKIP_LOCKED) {self.name(table.name)}", ())

    def is_missing_table(self, error: Exception) -> bool:
        """SQLSTATE undefined_table."""
        return getattr(error, "sqlstate", None) == "42P01"


def _number(text: str) -> int:
    return int.from_bytes(bytes.fromhex(digest(text)), "little", signed=True)
