"""Online features of requests as tensors: users, candidates, what users did, what is missing.

    fetcher = OnlineFetcher(store, "ranker_transra", ranker=ranker)
    batch = fetcher.fetch(user_id, pin_ids, {"position": 1, "surface": "home"},
                          history=[Action(pin_id, "click", time), ...])
    batch.versions  # family -> the version that was read, such as {"transra": 1}

It is one read a view, whatever is asked: the pins of the past are looked up with the candidates,
and `fetch_many` looks all requests up together. The tensors are shaped by the code that shapes
training data (`shape_batch`, `shape_history`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore

from provender.consumers.features import Column, FeatureLayout, RankerBatch
from provender.consumers.fetch_metrics import FetchMetrics
from provender.consumers.fetch_request import Key, Prepared, Request, prepare, refused
from provender.consumers.online_readers import online_reader
from provender.consumers.ranker import Ranker
from provender.consumers.reading import Reading, key_types, merged, nothing_read, shaped
from provender.consumers.reading_pool import LateError, ReadingPool
from provender.consumers.served_versions import Assignment, RegisteredViews, VersionGuard
from provender.consumers.user_history import Action, HistorySpec
from provender.plugin.errors import ConfigError, FetchTimeoutError, OnlineStoreError
from provender.plugin.online_store import ProvenderOnlineStore, is_ours
from provender.plugin.releases import Release, Releases, ReleaseWatch

Pins: TypeAlias = Sequence[Key] | npt.NDArray[Any] | pa.Array
Fallback = Literal["missing", "error"]


class OnlineFetcher:
    """Reads a feature service for ranking requests, of versions that serve; for many threads.

    A ranker is given what is live, and only what it learned from: each fetch looks once at the
    releases, and reads all views of a family from one version. Where another version is live than
    the ranker's, it is read if its vectors stay in the space of the ranker's version and the
    ranker accepts that; else the request is refused. A family that was never released is read as
    the service declares, and so is every family of another online store than provender's.

    With a timeout the read is done by another thread. One that is late changes nothing any more:
    its answer goes nowhere.

    Args:
        store: a feature store; with provender's online store rows become tensors without a
            protobuf between, with any other Feast's get_online_features is asked.
        service: the registered feature service.
        ranker: what will be served; another version, space or dim than it learned from raises
            VersionError here, where it is noticed, and not in production's figures.
        now: the time of all requests, for a replay; each request's own time by default.
        pinned: read the versions that the service declares, whatever is live, until they are
            retired; without a ranker it is always so.
        watch: sees the releases; fetchers that share one see the same at any time. Its own, read
            once a second, by default.
        online: an open online store of provender's; fetchers may share its connections.
        history: what is seen of the past; what the ranker looks at by default.
        timeout_seconds: for how long a fetch waits for its read; without limit by default.
        fallback: of a read that is late, or of an online store that can't be reached: "error"
            raises, "missing" answers as if every feature were missing, of no version.
        metrics: where fetches are counted; nowhere by default.
    """

    def __init__(
        self,
        store: FeatureStore,
        service: str,
        *,
        ranker: Ranker | None = None,
        now: datetime | None = None,
        pinned: bool = False,
        watch: ReleaseWatch | None = None,
        online: ProvenderOnlineStore | None = None,
        history: HistorySpec | None = None,
        timeout_seconds: float | None = None,
        fallback: Fallback = "error",
        metrics: FetchMetrics | None = None,
    ) -> None:
        self.layout = FeatureLayout.of_service(store, service)
        opened = online or ProvenderOnlineStore()
        self._reader = online_reader(store, self.layout, opened)
        self._key_types = key_types(store, self.layout)
        if ranker is not None:
            self.layout.check_same(ranker.layout)
        accepts = ranker is not None and ranker.config.accepts_anchored
        self.guard = VersionGuard(self.layout, RegisteredViews(store), accepts_anchored=accepts)
        self._pinned = pinned or ranker is None
        self._watch: ReleaseWatch | None = None
        if is_ours(store.config) and self.layout.embeddings:
            self._watch = watch or ReleaseWatch(Releases(opened, store.config))
        self._assigned: tuple[object, Assignment] = (None, self.guard.own())
        if now is not None and now.tzinfo is None:
            raise refused("now", f"{now} without a zone", "a time with its zone")
        self._now = now
        self.history = history or _looked_at(ranker)
        self._timeout = _positive(timeout_seconds)
        self._fallback = _known(fallback)
        self._metrics = metrics
        self._pool = ReadingPool()

    def fetch(
        self,
        user_id: Key,
        pin_ids: Pins,
        context: Mapping[str, Any] | None = None,
        history: Sequence[Action] = (),
        *,
        assignment: Assignment | None = None,
    ) -> RankerBatch:
        """One row a candidate, in the order of `pin_ids`, duplicates included.

        Values past their ttl at the time of the request, or from later than then, are missing.

        Args:
            user_id: whose request it is; the unknown have no features.
            pin_ids: the candidates; of none the batch has no rows.
            context: column -> one value for all rows, or a sequence or array of one a candidate.
            history: what the user did, in any order. What is not earlier than the request is left
                out, as the training join leaves it out, and so is all where the ranker looks at
                no history; of longer lists the latest count.
            assignment: what to read, settled by the guard of this fetcher; what is live by default.

        Raises:
            VersionError: what is live is not what the ranker learned, or what is read is retired.
            FetchError: a key or context value that is null or NaN or of the wrong type or length,
                an action of an unknown kind or without a zone.
            FetchTimeoutError: the read was late, and the fallback is "error".
            OnlineStoreError: the online store can't be read, likewise.
        """
        started = time.perf_counter()
        asked = [self.prepared(Request(user_id, pin_ids, context, history))]
        return self._answers(asked, assignment, started)[0]

    def fetch_many(
        self, requests: Sequence[Request], *, assignment: Assignment | None = None
    ) -> list[RankerBatch]:
        """Answer several requests with one read a view, each as :meth:`fetch` does, in their order.

        They have one time, that of the call, and one assignment. The first that means nothing
        refuses all.
        """
        started = time.perf_counter()
        instant = self._now or datetime.now(UTC)
        asked = [self.prepared(request, instant) for request in requests]
        return self._answers(asked, assignment, started) if asked else []

    async def fetch_async(
        self,
        user_id: Key,
        pin_ids: Pins,
        context: Mapping[str, Any] | None = None,
        history: Sequence[Action] = (),
        *,
        assignment: Assignment | None = None,
    ) -> RankerBatch:
        """As :meth:`fetch`; a thread reads, and the event loop goes on."""
        asked = [self.prepared(Request(user_id, pin_ids, context, history))]
        return (await self.answers_async(asked, assignment))[0]

    def prepared(self, request: Request, instant: datetime | None = None) -> Prepared:
        """Check a request; raises FetchError as :meth:`fetch` does. Nothing is read."""
        at = instant or self._now or datetime.now(UTC)
        return prepare(request, at, self._key_types, self.history)

    async def answers_async(
        self, asked: Sequence[Prepared], assignment: Assignment | None = None
    ) -> list[RankerBatch]:
        """Answer checked requests with one read, as of the time of the latest of them."""
        started = time.perf_counter()
        try:
            answering = self._pool.submit(
                partial(self._read_and_shaped, asked, assignment),
                bounded=self._timeout is not None,
            )
            answers = await asyncio.wait_for(asyncio.wrap_future(answering), self._timeout)
        except (LateError, OnlineStoreError) as error:
            answers = self._without(asked, error)
        self._note(asked, answers, started)
        return answers

    def assignment(self) -> Assignment:
        """Return what a request reads now; raises VersionError where it may not be served."""
        if self._watch is None:
            return self.guard.own()
        states = self._watch.states()
        seen, assignment = self._assigned  # Settled once for each set of states.
        if seen is not states:
            assignment = self._settled(states)
            self._assigned = (states, assignment)
        return assignment

    def _settled(self, states: Mapping[str, Release]) -> Assignment:
        live = {family: release.live for family, release in states.items()}
        assignment = self.guard.own() if self._pinned else self.guard.reading(live)
        if assignment is None:
            raise self.guard.refusal(states)
        self.guard.check_not_retired(states, assignment)
        return assignment

    def _answers(
        self, asked: Sequence[Prepared], assignment: Assignment | None, started: float
    ) -> list[RankerBatch]:
        answering = partial(self._read_and_shaped, asked, assignment)
        try:
            if self._timeout is None:
                answers = answering()
            else:
                left = self._timeout - (time.perf_counter() - started)
                answers = self._pool.within(answering, max(left, 0.0))
        except (LateError, OnlineStoreError) as error:
            answers = self._without(asked, error)
        self._note(asked, answers, started)
        return answers

    def _read_and_shaped(
        self, asked: Sequence[Prepared], assignment: Assignment | None
    ) -> list[RankerBatch]:
        reading = self._read(asked, assignment or self.assignment())
        return shaped(self.layout, self.history, asked, reading)

    def _read(self, asked: Sequence[Prepared], assignment: Assignment) -> Reading:
        keys = merged(asked)
        instant = max(each.instant for each in asked)
        columns: dict[str, Column] = {}
        for join_key in self.layout.join_keys:
            if join_key not in keys.values:
                thing = f"feature service {self.layout.service}"
                raise refused(thing, f"the key {join_key!r}", ", ".join(keys.values))
            values = keys.values[join_key]
            columns |= self._reader.read(join_key, values, instant, assignment.views)
        if self._metrics is not None:
            self._metrics.read(self.layout.service, self.layout.by_view(columns))
        return Reading(keys, columns, assignment.versions)

    def _without(self, asked: Sequence[Prepared], error: Exception) -> list[RankerBatch]:
        """Answer without features, or raise, as the fallback says."""
        late = isinstance(error, LateError)
        if late and self._metrics is not None:
            self._metrics.timed_out(self.layout.service)
        if self._fallback == "error":
            if late:
                raise self._late() from None
            raise error
        if self._metrics is not None:
            reason = "timeout" if late else "unreachable"
            self._metrics.fell_back(self.layout.service, reason, len(asked))
        return shaped(self.layout, self.history, asked, nothing_read(self.layout, merged(asked)))

    def _late(self) -> FetchTimeoutError:
        return FetchTimeoutError(
            f"online features of {self.layout.service}",
            found=f"no answer in {self._timeout} seconds",
            expected="an answer of the online store",
            remedy='Look after the store, raise timeout_seconds, or let fallback be "missing".',
        )

    def _note(
        self, asked: Sequence[Prepared], answers: Sequence[RankerBatch], started: float
    ) -> None:
        if self._metrics is not None:
            seconds = time.perf_counter() - started
            service, versions = self.layout.service, answers[0].versions
            self._metrics.fetched(service, len(asked), seconds, versions)


def _looked_at(ranker: Ranker | None) -> HistorySpec | None:
    return None if ranker is None else ranker.config.history


def _positive(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise _no_setting("timeout_seconds", seconds, "more than 0, or None for no limit")
    return seconds


def _known(fallback: Fallback) -> Fallback:
    if fallback not in ("missing", "error"):
        raise _no_setting("fallback", fallback, "missing or error")
    return fallback


def _no_setting(name: str, found: object, expected: str) -> ConfigError:
    return ConfigError(name, found=repr(found), expected=expected, remedy="Correct it.")
