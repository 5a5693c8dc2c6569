"""A database of online tables: its connections, its transactions, its errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.schema import CreateTable, DropTable

from provender.plugin.databases import driver_message, no_driver, shown
from provender.plugin.errors import OnlineStoreError
from provender.plugin.online_dialects import OnlineDialect
from provender.plugin.online_mysql import MySQLDialect
from provender.plugin.online_postgres import PostgreSQLDialect
from provender.plugin.online_sqlite import SQLiteDialect
from provender.plugin.online_tables import OnlineTable, layouts_definition
from provender.plugin.packing import RowLayout
from provender.plugin.release_table import RELEASES
from provender.plugin.table_records import NOTED, TABLES, forget_table

DIALECTS: dict[str, Callable[[sa.Engine], OnlineDialect]] = {
    "sqlite": SQLiteDialect,
    "postgresql": PostgreSQLDialect,
    "mysql": MySQLDialect,
    "mariadb": MySQLDialect,
}

Answer = TypeVar("Answer")
#: A driver's cursor.
Cursor = Any

#: A broken connection, or a deadlock: the transaction did nothing and can be run again.
_ATTEMPTS = 3
_DEADLOCKS = ("40P01", "40001", 1213, 1205)
#: SQLSTATE classes of connections that a server has ended.
_ENDED = ("08", "57P")


class OnlineDatabase:
    """One database, for all threads of a process.

    Args:
        url: from :func:`online_url.online_url`.
        pool_size: connections kept open; as many again are opened when all are busy.
    """

    def __init__(self, url: URL, pool_size: int) -> None:
        self.url = url
        #: Layouts that rows of former schemas were found to have; they are immutable.
        self.layouts: dict[int, RowLayout] = {}
        if url.database and url.get_backend_name() == "sqlite":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        with self._explained("online store"):
            self.engine = sa.create_engine(
                url,
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_reset_on_return=None,
                connect_args=_connect_args(url),
            )
            self.dialect: OnlineDialect = DIALECTS[url.get_backend_name()](self.engine)
            self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        sa.event.listen(self.engine, "connect", self._connected)

    def read(self, thing: str, query: Callable[[Cursor], Answer]) -> Answer:
        """Run a query that only reads; again on a new connection where the old one was dead."""
        return self._attempt(thing, lambda: self._with_cursor(query))

    def write(
        self,
        thing: str,
        change: Callable[[Cursor], Answer],
        committing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Answer:
        """Run a change in one transaction, again where it met a deadlock or a dead connection."""

        def transact(cursor: Cursor) -> Answer:
            with self.transaction(cursor, committing):
                return change(cursor)

        return self._attempt(thing, lambda: self._with_cursor(transact))

    def execute(self, thing: str, statement: sa.Executable) -> list[sa.Row[Any]]:
        """Run one statement of SQLAlchemy's, which commits by itself; again as :meth:`read` does.

        Raises sqlalchemy's IntegrityError where a row is there already.
        """

        def run() -> list[sa.Row[Any]]:
            try:
                with self.engine.connect() as connection:
                    answer = connection.execute(statement)
                    return list(answer) if answer.returns_rows else []
            except sa.exc.IntegrityError:
                raise
            except sa.exc.DBAPIError as error:
                raise (error.orig or error) from None

        return self._attempt(thing, run)

    def has(self, thing: str, table: str) -> bool:
        """Whether there is a table of that name."""
        with self._explained(thing):
            return sa.inspect(self.engine).has_table(table)

    def count(self, thing: str, table: str) -> int:
        """Return how many rows a table has."""
        ((rows,),) = self.execute(thing, sa.select(sa.func.count()).select_from(sa.table(table)))
        return int(rows)

    @contextmanager
    def session(self, thing: str) -> Iterator[Cursor]:
        """A cursor of a live connection, for long work that can't be run twice."""
        self.read(thing, lambda cursor: (cursor.execute("SELECT 1"), cursor.fetchall()))
        with self._explained(thing), self._cursor() as cursor, self.dialect.long_work(cursor):
            yield cursor

    @contextmanager
    def transaction(
        self,
        cursor: Cursor,
        committing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[None]:
        """One transaction: committed within `committing` at the end, or undone."""
        cursor.execute(self.dialect.begin)
        try:
            yield
            with committing():
                cursor.execute("COMMIT")
        except BaseException:
            self._undo(cursor)
            raise

    @contextmanager
    def snapshot(self, cursor: Cursor) -> Iterator[None]:
        """A transaction whose reads all see one state."""
        cursor.execute(self.dialect.begin_snapshot)
        try:
            yield
        finally:
            self._undo(cursor)

    def create(self, thing: str, tables: list[OnlineTable]) -> None:
        """Create the tables that are not there, and those that say what they are."""

        def run(cursor: Cursor) -> None:
            with self.dialect.creating(cursor):
                for kept in (layouts_definition(), RELEASES, TABLES):
                    cursor.execute(self._ddl(CreateTable(kept, if_not_exists=True)))
                for table in tables:
                    cursor.execute(self._ddl(CreateTable(table.definition, if_not_exists=True)))
                    self.dialect.created(cursor, table)
                    note = self.dialect.insert_new(TABLES.name, NOTED)
                    cursor.execute(note, (table.name, table.project, table.view, "[]"))

        self.read(thing, run)

    def drop(self, thing: str, tables: list[OnlineTable]) -> None:
        """Drop the tables that are there."""

        def run(cursor: Cursor) -> None:
            noted = self.has(thing, TABLES.name)
            for table in tables:
                cursor.execute(self._ddl(DropTable(table.definition, if_exists=True)))
                if noted:
                    forget_table(cursor, self.dialect.placeholder, table.name)

        self.read(thing, run)

    def names(self, thing: str) -> list[str]:
        """The tables of the database."""
        with self._explained(thing):
            return sa.inspect(self.engine).get_table_names()

    def check_key(self, thing: str, table: OnlineTable) -> None:
        """Make an empty table anew whose key is of another kind.

        Raises OnlineStoreError where it holds rows.
        """
        with self._explained(thing):
            columns = sa.inspect(self.engine).get_columns(table.name)
        kinds = {column["name"]: column["type"] for column in columns}
        if isinstance(kinds["key"], sa.Integer) == table.integer:
            return
        if self.read(thing, lambda cursor: self.dialect.after(cursor, table, None, 1)):
            raise OnlineStoreError(
                f"{thing}, table {table.name}",
                found="rows with keys of another type",
                expected="keys of the type that the view declares",
                remedy="Give the view another name, or drop the table.",
            )
        self.drop(thing, [table])
        self.create(thing, [table])

    def remove(self) -> None:
        """Close the pool and delete a SQLite file; other databases are not ours to delete."""
        self.dispose()
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            file = Path(self.url.database)
            ours = ("-wal", "-shm", ".creating", ".*.loading")
            for end in ("", *ours):
                for left in file.parent.glob(escape(file.name) + end):
                    left.unlink(missing_ok=True)

    def dispose(self, *, close: bool = True) -> None:
        """Close the pool; a forked child only forgets what is its parent's."""
        self.engine.dispose(close=close)

    def _ddl(self, statement: sa.schema.DDLElement) -> str:
        text = str(statement.compile(dialect=self.engine.dialect))
        # Without values, drivers take a % for itself.
        return text.replace("%%", "%")

    def _connected(self, connection: Any, record: Any) -> None:
        self.dialect.connected(connection)

    def _attempt(self, thing: str, run: Callable[[], Answer]) -> Answer:
        with self._explained(thing):
            for _ in range(_ATTEMPTS - 1):
                try:
                    return run()
                except self._driver_error as error:
                    if not self._may_pass(error):
                        raise
            return run()

    def _may_pass(self, error: Exception) -> bool:
        state = getattr(error, "sqlstate", None)
        if (state or next(iter(error.args), None)) in _DEADLOCKS:
            return True
        dialect: Any = self.engine.dialect
        ended = state is not None and state.startswith(_ENDED)
        if ended or dialect.is_disconnect(error, None, None):
            self.dispose()  # What ended one connection has most likely ended them all.
            return True
        return False

    def _with_cursor(self, run: Callable[[Cursor], Answer]) -> Answer:
        with self._cursor() as cursor:
            return run(cursor)

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            try:
                yield cursor
            finally:
                cursor.close()
        except BaseException:
            # Nobody knows in what state it is.
            connection.invalidate()
            raise
        finally:
            connection.close()

    def _undo(self, cursor: Cursor) -> None:
        with suppress(self._driver_error):  # It is undone by itself when a connection ends.
            cursor.execute("ROLLBACK")

    @contextmanager
    def _explained(self, thing: str) -> Iterator[None]:
        """Turn what a driver raises into one line, without the password."""
        try:
            yield
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise no_driver(OnlineStoreError, thing, self.url, error) from None
        except sa.exc.IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._error(thing, getattr(error, "orig", None) or error) from None
        except Exception as error:
            if not isinstance(error, getattr(self, "_driver_error", ())):
                raise
            raise self._error(thing, error) from None

    def _error(self, thing: str, error: BaseException) -> OnlineStoreError:
        missing = isinstance(error, Exception) and self.dialect.is_missing_table(error)
        return OnlineStoreError(
            f"{thing} at {shown(self.url)}",
            found=driver_message(error, self.url),
            expected="a table of this view" if missing else "a database that answers",
            remedy="Run `feast apply`."
            if missing
            else "Mend the database or the url, then run it again: what was not finished changed "
            "nothing.",
        )


def _connect_args(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"check_same_thread": False, "isolation_level": None, "cached_statements": 256}
    return {}
