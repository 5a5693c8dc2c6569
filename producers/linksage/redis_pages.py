"""Crawled pages from a Redis stream, as one consumer of a group.

A message's field PAGE is the page's JSON: ``XADD pages * page '{"page_id": 7, ...}'``. Messages
that a consumer was given and did not acknowledge are its own again when it comes back under the
same name; those of others are claimed once these have been silent for a while (XAUTOCLAIM). What is
no page goes to ``<stream>:bad`` with the reason, in one transaction with its acknowledgement.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from typing import TYPE_CHECKING, Any

from provender.plugin.errors import ConfigError, SourceError
from provender.producers.linksage.page_inbox import Message

if TYPE_CHECKING:
    from redis import Redis

PAGE = b"page"
#: Waits are no longer, so that a signal is soon seen.
_WAIT_MS = 250


class RedisPages:
    """An inbox of one consumer."""

    def __init__(
        self, url: str, stream: str, group: str, consumer: str | None, idle_seconds: float
    ) -> None:
        """Join the group, which is made if there is none, from the stream's first message on.

        Args:
            url: such as ``redis://127.0.0.1:6379/0``.
            consumer: a name to be found by again; one that is used once by default.
            idle_seconds: a message that was given to another so long ago is claimed.

        Raises ConfigError where redis-py is missing, or no such server answers.
        """
        self._redis, self._shown = _connect(url)
        self._stream, self._group = stream, group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._fleeting = consumer is None
        self._idle_ms = int(idle_seconds * 1000)
        self._own: str | None = "0"  # Behind which own messages from before have been taken.
        self._claim_at, self._cursor = 0.0, "0-0"
        with self._answering():
            self._join()

    def take(self, most: int, seconds: float, stop: Event, *, wait: bool) -> list[Message]:
        """The next messages: own ones from before, then those of the dead, then new ones."""
        with self._answering():
            found = self._own_again(most)
            if len(found) < most:
                found += self._claimed(most - len(found))
            if not found:
                found = self._new(most, None)
            while wait and not found and not stop.is_set() and not self._claim_due():
                found = self._new(most, _WAIT_MS)
            until = time.monotonic() + seconds
            while wait and found and len(found) < most and not stop.is_set():
                left = int((until - time.monotonic()) * 1000)
                if left <= 0:
                    break
                found += self._new(most - len(found), min(left, _WAIT_MS))
        return found

    def done(self, messages: Sequence[Message]) -> None:
        """Acknowledge."""
        if messages:
            with self._answering():
                self._redis.xack(self._stream, self._group, *(each.id for each in messages))

    def refuse(self, message: Message, reason: str) -> None:
        """Move a message to the stream of bad ones."""
        page = message.page if isinstance(message.page, str | bytes) else repr(message.page)
        with self._answering(), self._redis.pipeline(transaction=True) as both:
            both.xadd(f"{self._stream}:bad", {"id": message.id, "reason": reason, "page": page})
            both.xack(self._stream, self._group, message.id)
            both.execute()

    def waiting(self) -> int | None:
        """The group's lag, as far as Redis knows it."""
        with self._answering():
            groups: Any = self._redis.xinfo_groups(self._stream)
        lags = [each.get("lag") for each in groups if each["name"] == self._group.encode()]
        return lags[0] if lags else None

    def close(self) -> None:
        """Leave the group, if nobody is to come back under this name and nothing is pending."""
        with suppress(SourceError), self._answering():
            if self._fleeting and not self._is_pending():
                self._redis.xgroup_delconsumer(self._stream, self._group, self._consumer)
            self._redis.close()

    def _is_pending(self) -> bool:
        consumers: Any = self._redis.xinfo_consumers(self._stream, self._group)
        mine = [each for each in consumers if each["name"] == self._consumer.encode()]
        return any(each["pending"] for each in mine)

    def _join(self) -> None:
        from redis import ResponseError

        try:
            self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _own_again(self, most: int) -> list[Message]:
        """Own messages from before a crash, each once."""
        if self._own is None:
            return []
        found = self._read(self._own, most, None)
        self._own = found[-1][0].decode() if found else None
        return self._messages(found)

    def _claim_due(self) -> bool:
        return time.monotonic() >= self._claim_at

    def _claimed(self, most: int) -> list[Message]:
        """Messages of silent consumers; once all are looked through, none for a while."""
        found: list[Message] = []
        while self._claim_due() and len(found) < most:
            cursor, claimed, *_ = self._redis.xautoclaim(
                self._stream,
                self._group,
                self._consumer,
                self._idle_ms,
                start_id=self._cursor,
                count=most - len(found),
            )
            found += self._messages(claimed)
            self._cursor = cursor.decode()
            if self._cursor == "0-0":
                self._claim_at = time.monotonic() + self._idle_ms / 2000
                break
        return found

    def _new(self, most: int, wait_ms: int | None) -> list[Message]:
        return self._messages(self._read(">", most, wait_ms))

    def _read(self, after: str, most: int, wait_ms: int | None) -> list[Any]:
        found: Any = self._redis.xreadgroup(
            self._group, self._consumer, {self._stream: after}, count=most, block=wait_ms
        )
        return list(found[0][1]) if found else []

    def _messages(self, entries: Sequence[Any]) -> list[Message]:
        """Entries as messages; of one that was deleted while it was pending nothing is left."""
        gone = [name for name, fields in entries if not fields]
        if gone:
            self._redis.xack(self._stream, self._group, *gone)
        return [_message(name.decode(), fields) for name, fields in entries if fields]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what redis-py raises into one line; what was not acknowledged stays pending."""
        from redis import RedisError

        try:
            yield
        except RedisError as error:
            raise SourceError(
                f"Redis stream {self._stream} at {self._shown}",
                found=f"{type(error).__name__}: {error}",
                expected="a server that answers",
                remedy="Run the same command again: what was not acknowledged comes once more.",
            ) from None


def _connect(url: str) -> tuple[Redis, str]:
    """A client whose server has answered, and how to name it without a password."""
    try:
        from redis import Redis, RedisError
    except ImportError:
        raise ConfigError(
            "crawled pages from Redis",
            found="no package redis",
            expected="redis-py",
            remedy="pip install 'provender[stream]', or stream from a --push-source.",
        ) from None
    shown = "the given address"
    try:
        client = Redis.from_url(url)
        at = client.connection_pool.connection_kwargs
        shown = str(at.get("path") or f"{at.get('host')}:{at.get('port', 6379)}/{at.get('db', 0)}")
        client.ping()
    except (RedisError, ValueError) as error:
        raise ConfigError(
            f"Redis at {shown}",
            found=f"{type(error).__name__}: {error}",
            expected="a server that answers",
            remedy="Start it, or correct --redis or PROVENDER_REDIS "
            "(redis://user:password@host:port/db).",
        ) from None
    return client, shown


def _message(name: str, fields: dict[bytes, bytes]) -> Message:
    """A field PAGE is the page; without one the message says what there was instead."""
    milliseconds, sequence = map(int, name.split("-"))
    page = fields.get(PAGE, b"")
    if PAGE not in fields:
        there = {key.decode(errors="replace"): repr(value) for key, value in fields.items()}
        return Message(name, {"fields": there}, milliseconds * 1000, milliseconds / 1000)
    return Message(name, page, milliseconds * 1000 + min(sequence, 999), milliseconds / 1000)
