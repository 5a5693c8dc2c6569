"""Releases: which version of a family of embedding views serves, and how it came to that.

    releases = Releases.of(store)
    release = releases.current("transra")        # one state, read at once
    version = release.version_for("user 7")      # the live one, or for a share the candidate

A state never changes; a move appends the next one in one statement. So a reader has all of a
release or all of the former one, and a process that is killed has moved nothing or everything.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from feast import FeatureStore, RepoConfig
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from provender.plugin.errors import ConfigError, OnlineStoreError, ReleaseConflictError
from provender.plugin.online_database import OnlineDatabase
from provender.plugin.online_rows import EPOCH, MICROSECOND, microseconds_of
from provender.plugin.online_store import ProvenderOnlineStore, ProvenderOnlineStoreConfig, is_ours
from provender.plugin.release_table import RELEASES, last_moves, moves_of

Action = Literal["promote", "rollback", "retire", "canary"]
_THING = "releases"

_log = logging.getLogger(__name__)


class Check(BaseModel):
    """One gate's answer: what it looked at, what it found and what it asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    found: str
    expected: str


class Release(BaseModel):
    """The state of a family after one move.

    Attributes:
        serial: number of the move, from 1.
        live: the version that serves; None before the first promotion.
        former: the version that served before: what a rollback returns to.
        candidate: the version that `share` of the requests read, None without a canary.
        retired: versions that never serve again.
        by: who moved it, as user@host.
        reason: why it was moved in spite of its gates; None where they all passed.
        checks: what the gates said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    serial: int
    action: Action
    live: int | None = None
    former: int | None = None
    candidate: int | None = None
    share: float = Field(0.0, ge=0, le=1)
    retired: tuple[int, ...] = ()
    at: AwareDatetime
    by: str
    reason: str | None = None
    checks: tuple[Check, ...] = ()

    def version_for(self, key: object) -> int | None:
        """Return the version that a request reads, by the hash of its key.

        The same key has the same answer as long as the candidate is the same; a larger share only
        adds keys.
        """
        if self.candidate is None or not self.share:
            return self.live
        # Another place for each candidate, so that it is not always the same keys who try.
        part = part_of(self.family, self.candidate, key)
        return self.candidate if part < self.share else self.live


def state_of(release: Release | None, version: int) -> str:
    """Return what a version is in the state of its family."""
    if release is None:
        return "never released"
    for state in ("live", "candidate", "former"):
        if getattr(release, state) == version:
            return state
    return "retired" if version in release.retired else "not released"


def part_of(*words: object) -> float:
    """Return where some words, the last of them a request's key, lie within [0, 1), by hash."""
    text = "\0".join(map(str, words)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


class Releases:
    """The releases of one Feast project, beside its online tables.

    Attributes:
        online: the store whose tables they lie beside.
        config: the repo's.
    """

    def __init__(self, online: ProvenderOnlineStore, config: RepoConfig) -> None:
        self.online, self.config = online, config
        self._table_seen = False

    @classmethod
    def of(cls, store: FeatureStore) -> Releases:
        """Open those of a feature store.

        Raises ConfigError where its online store is another than provender's.
        """
        config = store.config
        if not is_ours(config):
            raise ConfigError(
                "online_store in feature_store.yaml",
                found=f"type {getattr(config.online_store, 'type', config.online_store)}",
                expected=f"{ProvenderOnlineStoreConfig().type}: releases lie beside its tables",
                remedy="Configure it, then run `feast apply` and `feast materialize`.",
            )
        return cls(ProvenderOnlineStore(), config)

    def current(self, family: str) -> Release | None:
        """Return a family's state, None where nothing was ever released."""
        found = self._select(RELEASES.c.family == family, last=True)
        return found[0] if found else None

    def history(self, family: str) -> list[Release]:
        """Return all states of a family, the first first."""
        return self._select(RELEASES.c.family == family)

    def was_live(self, family: str, version: int) -> bool:
        """Return whether a version is live or has ever been."""
        here = (self._mine, RELEASES.c.family == family, RELEASES.c.live == version)
        found = sa.select(RELEASES.c.serial).where(*here).limit(1)
        return self._known() and bool(self._execute(found))

    def states(self) -> dict[str, Release]:
        """Return the state of every family that was ever released, all of one moment."""
        found = self._select(last_moves(self.config.project))
        return {release.family: release for release in found}

    def move(self, state: Release | None, /, **changes: Any) -> Release:
        """Append the state that follows `state`, changed as said, and return it.

        `family` must be among the changes where there is no state yet.

        Raises ReleaseConflictError: somebody else has moved it since `state` was read; nothing
        is changed then.
        """
        fields = {} if state is None else state.model_dump(exclude={"reason", "checks"})
        serial = 1 if state is None else state.serial + 1
        made = {"serial": serial, "at": datetime.now(UTC), "by": somebody()}
        release = Release.model_validate({**fields, **made, **changes})
        token = secrets.token_hex(16)
        try:
            self._execute(RELEASES.insert().values(self._row(release, token)))
        except sa.exc.IntegrityError:
            self._check_ours(release, token)
        return release

    def _check_ours(self, release: Release, token: str) -> None:
        # It was ours if the connection broke after the row was written, and it was written again.
        here = sa.select(RELEASES).where(
            self._mine, RELEASES.c.family == release.family, RELEASES.c.serial == release.serial
        )
        (row,) = self._execute(here)
        if row.token == token:
            return
        winner = _release(row)
        raise ReleaseConflictError(
            f"family {release.family}",
            found=f"move {winner.serial} by {winner.by} meanwhile: {winner.action}, which left "
            f"{'version ' + str(winner.live) if winner.live else 'no version'} live",
            expected=f"nobody else's move since move {release.serial - 1}",
            remedy="Look at `provender release status`, then decide again.",
        )

    def _select(self, where: sa.ColumnElement[bool], *, last: bool = False) -> list[Release]:
        serial = RELEASES.c.serial
        select = sa.select(RELEASES).where(self._mine, where)
        select = select.order_by(serial.desc()).limit(1) if last else select.order_by(serial)
        return [_release(row) for row in self._execute(select)] if self._known() else []

    def _known(self) -> bool:
        """Whether there is a table, which databases of an older provender have not."""
        if not self._table_seen:
            self._table_seen = self._database.has(_THING, RELEASES.name)
        return self._table_seen

    def _execute(self, statement: sa.Executable) -> list[sa.Row[Any]]:
        return self._database.execute(_THING, statement)

    @property
    def _database(self) -> OnlineDatabase:
        return self.online.database(self.config)

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return moves_of(self.config.project)

    def _row(self, release: Release, token: str) -> dict[str, Any]:
        told = release.model_dump(mode="json")
        return {
            **{name: told[name] for name in told if name not in ("at", "retired", "checks")},
            "project": self.config.project,
            "at_us": microseconds_of(release.at),
            "retired": json.dumps(told["retired"]),
            "checks": json.dumps(told["checks"]),
            "token": token,
        }


def _release(row: sa.Row[Any]) -> Release:
    fields = dict(row._mapping)
    for name in ("project", "token"):
        del fields[name]
    fields["at"] = EPOCH + fields.pop("at_us") * MICROSECOND
    fields |= {name: json.loads(fields[name]) for name in ("retired", "checks")}
    return Release.model_validate(fields)


def somebody() -> str:
    """Return who is at work, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user without a name.
        user = "?"
    return f"{user}@{socket.gethostname()}"[:255]


class ReleaseWatch:
    """The states of some families as one who serves sees them: all of them read again at intervals.

    It may be used by many threads. While the database does not answer, the last states count.

    Args:
        releases: where they lie.
        seconds: for how long a state is used before it is read again; 0 for at every request.
        clock: of seconds.
    """

    def __init__(
        self, releases: Releases, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._releases, self._seconds, self._clock = releases, seconds, clock
        self._states: dict[str, Release] = {}
        self._read_at = float("-inf")
        self._reading, self._process = threading.Lock(), os.getpid()

    def states(self) -> dict[str, Release]:
        """Return family -> its state, one consistent set that does not change afterwards.

        Raises OnlineStoreError where the database did not answer the first time.
        """
        if self._clock() - self._read_at >= self._seconds:
            self._read()
        return self._states

    def _read(self) -> None:
        """Read the states anew; who finds another thread at it goes on with the former ones."""
        if self._process != os.getpid():  # A thread that was at it is not in the forked child.
            self._reading, self._process = threading.Lock(), os.getpid()
        first = self._read_at == float("-inf")
        if not self._reading.acquire(blocking=first):
            return
        try:
            if self._clock() - self._read_at >= self._seconds:
                self._states = self._releases.states()
                self._read_at = self._clock()
        except OnlineStoreError as error:
            if first:
                raise
            self._read_at = self._clock()
            _log.warning("%s The releases as they were last read go on to count.", error)
        finally:
            self._reading.release()
