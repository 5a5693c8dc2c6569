"""The tables of an online store: one a view version, and one that says how rows are packed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from feast import RepoConfig
from feast.base_feature_view import BaseFeatureView
from feast.infra.online_stores.helpers import compute_table_id
from sqlalchemy.dialects import mysql

from provender.plugin.online_keys import EntityKeys

#: Layout id -> what it says. Ids are hashes of that, so all projects of a database share it.
LAYOUTS = "provender_layouts"
#: The longest name that PostgreSQL keeps, and MySQL would keep one more.
LONGEST_NAME = 63
#: The longest key that InnoDB can index.
LONGEST_MYSQL_KEY = 3072


@dataclass(frozen=True)
class OnlineTable:
    """One view version's table.

    Attributes:
        name: the table.
        integer: the key is a whole number; byte strings otherwise.
        project: Feast's project.
        view: the feature view.
    """

    name: str
    integer: bool
    project: str = ""
    view: str = ""

    @classmethod
    def of(cls, config: RepoConfig, view: BaseFeatureView) -> OnlineTable:
        """The table of a view, as Feast names it, with its native `@vN` where that is enabled."""
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_table_id(config.project, view, versioned)
        integer = EntityKeys.of(view).kind == "integer"
        return cls(fitting(name), integer, config.project, view.name)

    @cached_property
    def definition(self) -> sa.Table:
        """What to create.

        Attributes of a row: its key, times in microseconds since 1970 in UTC, the id of the
        layout of its payload, a checksum over all else, the packed features.
        """
        return sa.Table(
            self.name,
            sa.MetaData(),
            sa.Column("key", self._key_type(), primary_key=True, autoincrement=False),
            sa.Column("event_us", sa.BigInteger, nullable=False),
            sa.Column("created_us", sa.BigInteger, nullable=False),
            sa.Column("layout", sa.BigInteger, nullable=False),
            sa.Column("checksum", sa.BigInteger, nullable=False),
            sa.Column("payload", _bytes(mysql.LONGBLOB()), nullable=False),
            # Rows up to a page stay in it, for a vector is always read whole.
            postgresql_with={"toast_tuple_target": 8160},
            mysql_engine="InnoDB",
        )

    def _key_type(self) -> Any:
        if self.integer:  # On SQLite exactly INTEGER is the row's own place in the file.
            return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        return _bytes(mysql.VARBINARY(LONGEST_MYSQL_KEY))


def layouts_definition() -> sa.Table:
    """The table of layouts."""
    return sa.Table(
        LAYOUTS,
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("description", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )


def fitting(name: str) -> str:
    """The name, or where a database would cut it off, its beginning and a hash of all of it."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return name.encode()[: LONGEST_NAME - 17].decode(errors="ignore") + "_" + digest


def _bytes(on_mysql: Any) -> Any:
    return sa.LargeBinary().with_variant(on_mysql, "mysql", "mariadb")
