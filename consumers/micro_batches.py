"""Requests of many async callers, read together: one read a view for all that come at once.

batcher = MicroBatcher(fetcher, most_delay_seconds=0.002, most_requests=32)
batch = await batcher.fetch(user_id, pin_ids, context, history)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from provender.consumers.features import RankerBatch
from provender.consumers.fetch_request import Key, Prepared, Request
from provender.consumers.online_fetch import OnlineFetcher, Pins
from provender.consumers.user_history import Action
from provender.plugin.errors import ConfigError

_Waiting = tuple[Prepared, asyncio.Future[RankerBatch]]


class MicroBatcher:
    """Collects requests for a moment, then reads them together; for one event loop.

    A request waits at most as long as is declared, and not at all once there are enough. One that
    means nothing is refused alone, before it joins the others; what goes wrong in the read itself
    all of them are told.

    Args:
        fetcher: who reads, with its timeout and fallback.
        most_delay_seconds: from the first request of a batch to its read.
        most_requests: a batch of so many is read at once.
    """

    def __init__(
        self, fetcher: OnlineFetcher, *, most_delay_seconds: float = 0.002, most_requests: int = 32
    ) -> None:
        if most_delay_seconds < 0 or most_requests < 1:
            raise ConfigError(
                "micro-batches",
                found=f"{most_requests} requests, {most_delay_seconds} seconds",
                expected="at least 1, and not less than 0",
                remedy="Correct them.",
            )
        self._fetcher = fetcher
        self._delay, self._most = most_delay_seconds, most_requests
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._reads: set[asyncio.Task[None]] = set()

    async def fetch(
        self,
        user_id: Key,
        pin_ids: Pins,
        context: Mapping[str, Any] | None = None,
        history: Sequence[Action] = (),
    ) -> RankerBatch:
        """As :meth:`OnlineFetcher.fetch`, of what is live, together with others."""
        asked = self._fetcher.prepared(Request(user_id, pin_ids, context, history))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[RankerBatch] = loop.create_future()
        self._waiting.append((asked, answer))
        if len(self._waiting) >= self._most:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._delay, self._flush)
        return await answer

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        together, self._waiting, self._timer = self._waiting, [], None
        # The loop keeps only weak references to its tasks.
        reading = asyncio.get_running_loop().create_task(self._answer(together))
        self._reads.add(reading)
        reading.add_done_callback(self._reads.discard)

    async def _answer(self, together: Sequence[_Waiting]) -> None:
        wanted = [each for each in together if not each[1].done()]  # Some callers may be gone.
        if not wanted:
            return
        try:
            batches = await self._fetcher.answers_async([asked for asked, _ in wanted])
        except BaseException as error:
            for _, answer in wanted:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, answer), batch in zip(wanted, batches, strict=True):
            if not answer.done():
                answer.set_result(batch)
