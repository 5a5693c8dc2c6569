"""Online features of one request as tensors: its user, its candidates, what is missing, how old.

fetcher = OnlineFetcher(store, "ranker_transra", ranker=ranker)
batch = fetcher.fetch(user_id, pin_ids, {"position": 1, "surface": "home"})
batch.versions  # family -> the version that was read, such as {"transra": 1}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.consumers.online_readers import Key, online_reader
from provender.consumers.ranker import Ranker
from provender.consumers.ranking_task import PIN, USER
from provender.consumers.served_versions import Assignment, RegisteredViews, VersionGuard
from provender.plugin.errors import FetchError
from provender.plugin.online_store import ProvenderOnlineStore, is_ours
from provender.plugin.releases import Release, Releases, ReleaseWatch

Ints = npt.NDArray[np.int64]


class OnlineFetcher:
    """Reads a feature service for ranking requests, of versions that serve; for many threads.

    A ranker is given what is live, and only what it learned from: each request looks once at the
    releases, and reads all views of a family from one version. Where another version is live than
    the ranker's, it is read if its vectors stay in the space of the ranker's version and the
    ranker accepts that; else the request is refused. A family that was never released is read as
    the service declares, and so is every family of another online store than provender's.

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
    ) -> None:
        self.layout = FeatureLayout.of_service(store, service)
        opened = online or ProvenderOnlineStore()
        self._reader = online_reader(store, self.layout, opened)
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
            raise _refused("now", f"{now} without a zone", "a time with its zone")
        self._now = now

    def fetch(
        self,
        user_id: Key,
        pin_ids: Sequence[Key],
        context: Mapping[str, Any] | None = None,
        *,
        assignment: Assignment | None = None,
    ) -> RankerBatch:
        """One row a candidate, in the order of `pin_ids`, duplicates included.

        Values past their ttl at the time of the request, or from later than then, are missing.

        Args:
            user_id: whose request it is; the unknown have no features.
            pin_ids: the candidates.
            context: column -> one value for all rows, or a sequence or array of one a candidate.
            assignment: what to read, settled by the guard of this fetcher; what is live by default.

        Raises:
            VersionError: what is live is not what the ranker learned, or what is read is retired.
            FetchError: a key or context value that is null or NaN or of the wrong type or length,
                or an online store that can't be read.
        """
        reading = assignment or self.assignment()
        instant = self._now or datetime.now(UTC)
        arrays = {name: _context(name, v, len(pin_ids)) for name, v in (context or {}).items()}
        columns: dict[str, Column] = {}
        for join_key in self.layout.join_keys:
            keys, rows = _unique(join_key, self._keys(join_key, user_id, pin_ids))
            for name, column in self._reader.read(join_key, keys, instant, reading.views).items():
                columns[name] = _spread(column, rows)
        return shape_batch(
            self.layout, columns, len(pin_ids), context=arrays, versions=reading.versions
        )

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

    def _keys(self, join_key: str, user_id: Key, pin_ids: Sequence[Key]) -> Sequence[Key]:
        if join_key == PIN:
            return pin_ids
        if join_key == USER:
            return [user_id] * len(pin_ids)
        raise _refused(f"feature service {self.layout.service}", f"the key {join_key!r}", "pin_id")


def _refused(thing: str, found: str, expected: str) -> FetchError:
    return FetchError(thing, found=found, expected=expected, remedy="Correct the request.")


def _context(name: str, value: Any, rows: int) -> pa.Array:
    if isinstance(value, pa.Array | pa.ChunkedArray):
        values = value.to_pylist()
    elif isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        values = list(value)
    else:
        values = [value] * rows
    if len(values) != rows:
        raise _refused(f"context {name}", f"{len(values)} values", f"one, or {rows}")
    if any(each is None or each != each for each in values):
        raise _refused(f"context {name}", "null or NaN", "a value for each candidate")
    try:
        return value if isinstance(value, pa.Array) else pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise _refused(f"context {name}", "values of several types", "one type") from None


def _unique(join_key: str, keys: Sequence[Key]) -> tuple[list[Key], Ints]:
    """Each key once, in order of first appearance, and for every row the place of its key."""
    places: dict[Key, int] = {}
    rows = np.empty(len(keys), dtype=np.int64)
    for row, key in enumerate(keys):
        plain = key.item() if isinstance(key, np.generic) else key
        if isinstance(plain, bool) or not isinstance(plain, int | str):
            raise _refused(f"key {join_key}", repr(key), "a whole number or a string")
        rows[row] = places.setdefault(plain, len(places))
    return list(places), rows


def _spread(column: Column, rows: Ints) -> Column:
    ages = None if column.age_seconds is None else column.age_seconds[rows]
    return Column(column.values[rows], column.present[rows], ages)
