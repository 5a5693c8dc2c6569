"""Where crawled pages come from, as the stream sees it (page_stream.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any, Protocol


@dataclass(frozen=True, eq=False)
class Message:
    """One page that was sent.

    Attributes:
        id: what its inbox calls it.
        page: JSON, or its columns.
        order: the later of two messages of a page has the higher one; microseconds since 1970.
        sent: when it was sent, seconds since 1970.
    """

    id: str
    page: str | bytes | Mapping[str, Any]
    order: int
    sent: float


class PageInbox(Protocol):
    """Messages that are handed out until they are said to be done, after a crash once more."""

    def take(self, most: int, seconds: float, stop: Event, *, wait: bool) -> list[Message]:
        """The next messages, `most` at most; none where `stop` is set before one comes.

        Args:
            seconds: how long it waits for more once there is one.
            wait: whether it waits for the first one; without, it returns what is there.
        """

    def done(self, messages: Sequence[Message]) -> None:
        """The messages need not be handed out again."""

    def refuse(self, message: Message, reason: str) -> None:
        """Keep a message that is no page aside, with the reason; it is done."""

    def waiting(self) -> int | None:
        """How many messages have not been handed out yet; None where that is not known."""

    def close(self) -> None:
        """Take leave; what is not done stays."""


def seconds_now() -> float:
    """The time, in seconds since 1970."""
    return datetime.now(UTC).timestamp()
