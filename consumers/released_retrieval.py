"""The top pins for users by whatever is released, from the online store.

live = ReleasedRetrieval(store, "transra")
live.for_users([7], k=20).version
"""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from feast import FeatureStore

from provender.consumers.approximate_index import IndexConfig
from provender.consumers.pin_search import PinSearch
from provender.consumers.retrieval import Retrieved, Seen, pin_search, retrieved
from provender.consumers.retrieval_vectors import Key, keys_of, online_vectors
from provender.consumers.retrieval_views import ViewPair, family_of, pair_of, versions_of
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import VersionError
from provender.plugin.online_rows import microseconds_of
from provender.plugin.releases import Releases, ReleaseWatch
from provender.plugin.spec import VECTOR_COLUMN


class ReleasedRetrieval:
    """The top pins for users by what is released, from the online store; for many threads.

    Each request looks once at the releases: user and pins are of that version, or the request is
    refused. The pins lie in memory: those of another version are read when it goes live, those of
    a later load within `reload_seconds`.

    Args:
        store: a feature store with provender's online store.
        view: as :func:`pair_of` takes it.
        version: answer only while this version is live; whatever is live by default. A family
            that was never released is answered from this version, or else from its newest.
        reload_seconds: for how long the pins are used before they are read again.
        now: the time of all requests, for a replay; each request's own time by default.
        watch: sees the releases; its own, read once a second, by default.

    Raises:
        ConfigError: another online store.
        FetchError: there are no such views.
    """

    def __init__(
        self,
        store: FeatureStore,
        view: str,
        *,
        version: int | None = None,
        asking: str = "user",
        found: str = "pin",
        metric: str | None = None,
        only: Sequence[Key] | pa.Array | None = None,
        approximate: IndexConfig | None = None,
        reload_seconds: float = 60.0,
        now: datetime | None = None,
        watch: ReleaseWatch | None = None,
    ) -> None:
        self._store, self._view, self._version = store, view, version
        self._asking, self._found = asking, found
        self._options = (metric, only, approximate)
        self._releases = Releases.of(store)
        self._watch = watch or ReleaseWatch(self._releases)
        self._family = family_of(embedding_specs(store), view, asking, found)
        self._reload_seconds, self._now = reload_seconds, now
        self._opened: tuple[ViewPair, PinSearch, float] | None = None
        self._opening = threading.Lock()

    def for_users(
        self, users: Sequence[Key] | pa.Array, k: int, *, seen: Seen | None = None
    ) -> Retrieved:
        """Return the k nearest pins of each user, as :meth:`Retrieval.for_users`.

        Raises:
            VersionError: another version is live than was asked for, or it is retired.
            FetchError: as there; OnlineStoreError: the store can't be read.
        """
        now = self._now or datetime.now(UTC)
        pair, search = self._searched(self._live(), now)
        keys = keys_of(users, "of the users")
        view = self._store.get_feature_view(pair.asking.view_name)
        rows = self._releases.online.read_columns(
            self._releases.config, view, {pair.asking.join_key: keys.to_pylist()}, [VECTOR_COLUMN]
        )
        column = rows.columns[VECTOR_COLUMN]
        known = column.valid & rows.fresh(pair.asking.ttl, now)
        return retrieved(search, pair, keys, known, column.values, k, seen)

    def _live(self) -> int:
        state = self._watch.states().get(self._family)
        live = None if state is None else state.live
        retired = state.retired if state else ()
        if self._version is not None and (live not in (None, self._version)):
            raise self._refused(f"version {live} live", f"version {self._version}, as asked for")
        if live is None:
            known = versions_of(embedding_specs(self._store), self._view, self._asking)
            live = self._version or known[-1]
        if live in retired:
            raise self._refused(f"version {live}, which is retired", "a version that may serve")
        return live

    def _refused(self, found: str, expected: str) -> VersionError:
        return VersionError(
            f"retrieval by {self._view}, family {self._family}",
            found=found,
            expected=expected,
            remedy="Ask for what is live, or see `provender release status`.",
        )

    def _searched(self, version: int, now: datetime) -> tuple[ViewPair, PinSearch]:
        """Return the pins of a version, read again where they are old or partly past their ttl."""
        opened = self._opened
        if opened is None or not self._current(opened, version, now):
            with self._opening:
                opened = self._opened
                if opened is None or not self._current(opened, version, now):
                    opened = self._opened = self._open(version, now)
        return opened[:2]

    def _current(
        self, opened: tuple[ViewPair, PinSearch, float], version: int, now: datetime
    ) -> bool:
        pair, search, since = opened
        oldest = int(search.pins.event_us.min(initial=microseconds_of(now)))
        fresh = oldest >= microseconds_of(now - pair.found.ttl)
        within = clock.monotonic() - since < self._reload_seconds
        return pair.found.version == version and fresh and within

    def _open(self, version: int, now: datetime) -> tuple[ViewPair, PinSearch, float]:
        since = clock.monotonic()
        specs = embedding_specs(self._store)
        pair = pair_of(specs, self._view, version, asking=self._asking, found=self._found)
        view = self._store.get_feature_view(pair.found.view_name)
        pins = online_vectors(self._releases.online, self._releases.config, view, now)
        return pair, pin_search(pair, pins, *self._options), since
