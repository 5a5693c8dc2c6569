"""The table of releases: one row a move, the last of a family's is its state.

Nothing is ever updated. The primary key is the lock: of two who would make a family's move number
n, the database lets one.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

#: Case and trailing blanks tell names apart, on MySQL too.
_NAME = sa.String(191).with_variant(
    mysql.VARCHAR(191, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")

RELEASES = sa.Table(
    "provender_releases",
    sa.MetaData(),
    sa.Column("project", _NAME, primary_key=True),
    sa.Column("family", _NAME, primary_key=True),
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("live", sa.Integer),
    sa.Column("former", sa.Integer),
    sa.Column("candidate", sa.Integer),
    sa.Column("share", sa.Double, nullable=False),
    sa.Column("retired", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.String(255), nullable=False),
    sa.Column("reason", _TEXT),
    sa.Column("checks", _TEXT, nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)


def moves_of(project: str) -> sa.ColumnElement[bool]:
    """What is true of a project's moves."""
    return RELEASES.c.project == project


def last_moves(project: str) -> sa.ColumnElement[bool]:
    """What is true of the last move of each of a project's families."""
    last = sa.select(RELEASES.c.family, sa.func.max(RELEASES.c.serial)).where(moves_of(project))
    newest = sa.tuple_(RELEASES.c.family, RELEASES.c.serial)
    return moves_of(project) & newest.in_(last.group_by(RELEASES.c.family))
