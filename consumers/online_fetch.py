"""Online features of one request as tensors: its user, its candidates, what is missing, how old.

fetcher = OnlineFetcher(store, "ranker_transra")
batch = fetcher.fetch(user_id, pin_ids, {"position": 1, "surface": "home"})
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
from provender.plugin.errors import FetchError

Ints = npt.NDArray[np.int64]


class OnlineFetcher:
    """Reads a feature service for ranking requests.

    Args:
        store: a feature store; with provender's online store rows become tensors without a
            protobuf between, with any other Feast's get_online_features is asked.
        service: the registered feature service.
        ranker: what will be served; another version, space or dim than it learned from raises
            VersionError here, where it is noticed, and not in production's figures.
        now: the time of all requests, for a replay; each request's own time by default.
    """

    def __init__(
        self,
        store: FeatureStore,
        service: str,
        *,
        ranker: Ranker | None = None,
        now: datetime | None = None,
    ) -> None:
        self.layout = FeatureLayout.of_service(store, service)
        self._reader = online_reader(store, self.layout)
        if ranker is not None:
            self.layout.check_same(ranker.layout)
        if now is not None and now.tzinfo is None:
            raise _refused("now", f"{now} without a zone", "a time with its zone")
        self._now = now

    def fetch(
        self,
        user_id: Key,
        pin_ids: Sequence[Key],
        context: Mapping[str, Any] | None = None,
    ) -> RankerBatch:
        """One row a candidate, in the order of `pin_ids`, duplicates included.

        Values past their ttl at the time of the request, or from later than then, are missing.

        Args:
            user_id: whose request it is; the unknown have no features.
            pin_ids: the candidates.
            context: column -> one value for all rows, or a sequence or array of one a candidate.

        Raises:
            FetchError: a key or context value that is null or NaN or of the wrong type or length,
                or an online store that can't be read.
        """
        instant = self._now or datetime.now(UTC)
        arrays = {name: _context(name, v, len(pin_ids)) for name, v in (context or {}).items()}
        columns: dict[str, Column] = {}
        for join_key in self.layout.join_keys:
            keys, rows = _unique(join_key, self._keys(join_key, user_id, pin_ids))
            for name, column in self._reader.read(join_key, keys, instant).items():
                columns[name] = _spread(column, rows)
        return shape_batch(self.layout, columns, len(pin_ids), context=arrays)

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
