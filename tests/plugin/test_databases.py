"""Tables from databases: SQLite always, PostgreSQL and MariaDB where they answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from provender.plugin import databases
from provender.plugin.errors import SourceError
from provender.plugin.tables import TableSource, open_tables

SERVERS = {
    "postgres": os.environ.get(
        "PROVENDER_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get("PROVENDER_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
}
TABLE = f"provender_test_{os.getpid()}"
ROWS = [
    {
        "id": i,
        "name": f"né {i} %s",
        "amount": None if i % 3 else i + 0.25,
        "late": None if i < 40 else i,
        "never": None,
        "at": datetime(2026, 1, 1, 12, i % 60),
    }
    for i in range(100)
]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the table of ROWS."""
    address = SERVERS.get(request.param, f"sqlite:///{tmp_path}/test.db")
    engine = sa.create_engine(address)
    columns: list[sa.Column[Any]] = [
        sa.Column("id", sa.BigInteger),
        sa.Column("name", sa.String(50)),
        sa.Column("amount", sa.Numeric(12, 2, asdecimal=False)),
        sa.Column("late", sa.Integer),
        sa.Column("never", sa.Integer),
        sa.Column("at", sa.DateTime),
    ]
    table = sa.Table(TABLE, sa.MetaData(), *columns)
    try:
        table.create(engine)
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no {request.param} at {databases.shown(sa.make_url(address))}: {error.orig}")
    try:
        with engine.begin() as connection:
            connection.execute(table.insert(), ROWS)
        yield address
    finally:
        table.drop(engine)
        engine.dispose()


def read(tmp_path: Path, url: str, query: str) -> list[tuple[Any, ...]]:
    tables = {"t": TableSource(url=url, query=query)}
    with open_tables(tables, tmp_path, tmp_path / "work") as connection:
        found: list[tuple[Any, ...]] = connection.execute("FROM t ORDER BY 1").fetchall()
    return found


def test_rows_are_the_same_from_every_database(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BATCH_ROWS", 17)
    query = f"SELECT id, name, amount, late, never, at FROM {TABLE} WHERE name LIKE '%s'"

    found = read(tmp_path, url, query)

    plain = [
        (i, name, None if amount is None else float(amount), late, never, str(at)[:19])
        for i, name, amount, late, never, at in found
    ]
    assert plain == [(*list(row.values())[:5], str(row["at"])) for row in ROWS]
    assert len(list((tmp_path / "work" / "tables" / "t").glob("*.parquet"))) == 6


def test_a_query_that_fails_or_finds_nothing(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError, match="nowhere_at_all"):
        read(tmp_path, url, "SELECT * FROM nowhere_at_all")
    with pytest.raises(SourceError, match="no rows"):
        read(tmp_path, url, f"SELECT * FROM {TABLE} WHERE id < 0")
    with pytest.raises(SourceError, match="the column id twice"):
        read(tmp_path, url, f"SELECT id, id FROM {TABLE}")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://root:secret@127.0.0.1:1/test",
        "mysql+pymysql://root:secret@127.0.0.1:1/test",
        "sqlite:////nowhere/secret-free.db",
        "wishdb://root:secret@host/test",
        "root:secret at host",
    ],
)
def test_no_connection_is_one_line_without_the_password(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, address, "SELECT 1")

    assert "\n" not in str(caught.value)
    assert ":secret" not in str(caught.value)


def test_the_url_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVENDER_TEST_URL", "sqlite://")
    assert read(tmp_path, "${PROVENDER_TEST_URL}", "SELECT 7 AS a") == [(7,)]

    monkeypatch.delenv("PROVENDER_TEST_URL")
    with pytest.raises(SourceError, match="Set PROVENDER_TEST_URL"):
        read(tmp_path, "${PROVENDER_TEST_URL}", "SELECT 7 AS a")


def test_times_with_zones_become_utc_and_mixed_values_text() -> None:
    aware = [datetime.fromisoformat("2026-01-01T00:00:00+02:00"), datetime(2026, 1, 1, tzinfo=UTC)]

    times = databases._as_array(aware)

    assert [t.isoformat() for t in times.to_pylist()] == [
        "2025-12-31T22:00:00+00:00",
        "2026-01-01T00:00:00+00:00",
    ]
    assert databases._as_array([1, "x", None]).to_pylist() == ["1", "x", None]
