"""Crawled pages to readable vectors in near real time, a small batch at a time.

A batch is embedded by the newest refresh's model, written as a supplement of it, which joins then
know, taken online, and only then acknowledged. Whatever kills a stream, its messages come again:
pages whose vectors stand already are known by what they show and are not written twice.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from provender.plugin.errors import LoadLockedError, MappingError
from provender.plugin.snapshot import find_snapshot
from provender.producers.linksage.crawled_pages import ORDER, BadPageError
from provender.producers.linksage.fresh_pages import FreshPages
from provender.producers.linksage.page_inbox import Message, PageInbox, seconds_now
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_supplements import (
    Supplements,
    newest_refresh,
    next_second,
    page_view,
    refresh_times,
    taken,
    write_supplement,
)
from provender.producers.online_refresh import OnlineRefresh
from provender.producers.vectors import Vectors

#: How long another load of the table is waited for.
_PATIENCE = 120.0
#: What lies further ahead is waited for by nobody.
_NEAR = timedelta(minutes=1)
#: Latencies are told of so many messages, the last ones.
_REMEMBERED = 10_000


@dataclass
class StreamCounts:
    """What became of messages, and how long those that were acknowledged had taken."""

    verdicts: Counter[str] = field(default_factory=Counter)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    refreshes: int = 0

    @property
    def messages(self) -> int:
        """All that were taken."""
        return self.verdicts.total()


class Limits(NamedTuple):
    """How large a batch grows: so many messages, or what comes in so many seconds."""

    messages: int = 5000
    seconds: float = 0.1


class PageStream:
    """The way of pages from an inbox to the online table."""

    def __init__(
        self, job: PageJob, online: OnlineRefresh, inbox: PageInbox, limits: Limits | None = None
    ) -> None:
        """Open the newest refresh; raises ConfigError or CheckpointError where there is none."""
        self.job, self.online, self.inbox = job, online, inbox
        self.limits = limits or Limits()
        self.spec = page_view(job)
        self.counts = StreamCounts()
        self._open()

    def run(
        self, stop: Event, *, once: bool = False, on_batch: Callable[[], None] | None = None
    ) -> None:
        """Embed what comes until `stop` is set, or with `once` what is there.

        Raises SourceError where the inbox, OnlineStoreError where the online store is not to be
        had; what has not been acknowledged comes again.
        """
        while not stop.is_set():
            self._wait_for_second(stop)
            if max(refresh_times(self.job)) > self.fresh.base.as_of:
                self._open()
            batch = self.inbox.take(*self.limits, stop, wait=not once)
            if batch:
                self.work(batch)
            elif once:
                return
            if on_batch is not None:
                on_batch()

    def work(self, batch: Sequence[Message]) -> None:
        """Bring messages to their end: online and acknowledged, or put aside."""
        good, bad = self._checked(batch)
        try:
            rows = self.fresh.read(self.fresh.columns.table(good)) if good else self.fresh.nothing
        except MappingError as error:
            self._work_apart(batch, str(error))
            return
        self._publish(rows)
        for message, reason in bad.items():
            self.inbox.refuse(message, reason)
        done = [message for message in batch if message not in bad]
        self.inbox.done(done)
        now = seconds_now()
        self.counts.latencies.extend(now - message.sent for message in done)
        self.counts.verdicts += Counter(bad=len(bad), repeated=len(done) - len(rows))

    def _work_apart(self, batch: Sequence[Message], reason: str) -> None:
        """One of the messages does not fit, and only trying tells which."""
        if len(batch) == 1:
            self.inbox.refuse(batch[0], reason)
            self.counts.verdicts["bad"] += 1
            return
        half = len(batch) // 2
        self.work(batch[:half])
        self.work(batch[half:])

    def _checked(self, batch: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[Message, str]]:
        """The pages, and the messages that are none, with the reasons."""
        good: list[dict[str, Any]] = []
        bad: dict[Message, str] = {}
        for message in batch:
            try:
                good.append({**self.fresh.columns.check(message.page), ORDER: message.order})
            except BadPageError as error:
                bad[message] = str(error)
        return good, bad

    def _publish(self, rows: pa.Table) -> None:
        """Write what has changed and take it online; other streams wait meanwhile."""
        verdicts = self.told.judge(rows)
        changed = taken(rows, verdicts, "changed")
        vectors = self.fresh.embed(changed)
        with self._alone():
            self._catch_up()
            # Another stream may have told of some of these pages since, by a newer message.
            still = self.told.judge(changed)
            kept = pa.array([verdict == "changed" for verdict in still], pa.bool_())
            self._write(
                changed.filter(kept),
                Vectors(vectors.keys.filter(kept), vectors.vectors[np.asarray(kept)]),
            )
        left = [verdict for verdict in verdicts if verdict != "changed"]
        self.counts.verdicts += Counter([*left, *still])

    def _write(self, rows: pa.Table, vectors: Vectors) -> None:
        if not len(rows):
            return
        self._wait_for_second(None)
        as_of = next_second(self._now())
        written = write_supplement(self.fresh, as_of, rows, vectors)
        self._patiently(lambda: self.online.add(self.spec, written))
        self.told.note(written, rows)

    # Refreshes, and what other streams do.

    def _open(self) -> None:
        """Load the newest refresh, see that it is online, and tell again what it does not tell."""
        base = newest_refresh(self.job)
        self.fresh = FreshPages.open(self.job, base)
        self.told = Supplements(self.fresh)
        self.counts.refreshes += 1
        with self._alone():
            if not self.online.holds(self.spec, base.run_id):
                snapshot = find_snapshot(self.job.home.snapshots, self.spec.view_name, base.as_of)
                assert snapshot is not None
                self._patiently(lambda: self.online.load(self.spec, snapshot))
            self._catch_up()
            ahead = self.told.newest - datetime.now(UTC)
            self._ahead = ahead if ahead > _NEAR else timedelta(0)
            foreign = self.told.foreign()
            if foreign is not None:
                self._write(foreign, self.fresh.embed(foreign))

    def _catch_up(self) -> None:
        """Take notice of supplements by others; those of a stream that was killed go online."""
        new = self.told.update()
        for each in self.online.missing(self.spec, new) if new else ():
            self._patiently(partial(self.online.add, self.spec, each))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other streams that publish; a killed one gives the lock up by itself."""
        with (self.job.home.path / ".stream.lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _patiently(self, load: Callable[[], Any]) -> None:
        """Load, once other loads of the table are through."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                load()
                return
            except LoadLockedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    # As-of times are full seconds, and each has one supplement.

    def _now(self) -> datetime:
        """The time; where a simulated world lies in the future, its clock is gone on from."""
        return datetime.now(UTC) + self._ahead

    def _wait_for_second(self, stop: Event | None) -> None:
        """Wait until the newest as-of time has come."""
        left = (self.told.newest - self._now()).total_seconds()
        if left > 0:
            (stop or Event()).wait(left)
