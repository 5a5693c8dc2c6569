"""The URL of an online store: which databases and drivers it may name."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from provender.plugin.errors import OnlineStoreError

BACKENDS = ("sqlite", "postgresql", "mysql", "mariadb")


def online_url(text: str, root: Path | None) -> URL:
    """The URL of an online store, a SQLite file made absolute from the repo.

    Raises OnlineStoreError: it is none, or of no database that is supported. It is not shown where
    it can't be read, for it may hold a password.
    """
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):
        raise _refused("a url that is none (not shown: it may hold a password)") from None
    if backend not in BACKENDS:
        raise _refused(f"the database {backend}")
    if backend == "postgresql" and url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise _refused(f"the driver {url.drivername}")
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite" and url.get_driver_name() not in ("pymysql", "mysqldb"):
        raise _refused(f"the driver {url.drivername}")
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise _refused("SQLite in memory, which no other process could read")
        return url.set(database=str(((root or Path()) / url.database).resolve()))
    return url


def _refused(found: str) -> OnlineStoreError:
    return OnlineStoreError(
        "online_store.url in feature_store.yaml",
        found=found,
        expected="sqlite:///file, postgresql+psycopg://..., mysql+pymysql://... or "
        "mariadb+pymysql://...",
        remedy="Correct it; special characters of a password are written as %40 and so on.",
    )
