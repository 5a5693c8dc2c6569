"""Online features of one request as tensors: its user, its candidates, what is missing, how old.

fetcher = OnlineFetcher(store, "ranker_transra")
batch = fetcher.fetch(user_id, pin_ids, {"position": 1, "surface": "home"})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.consumers.ranker import Ranker
from provender.consumers.ranking_task import PIN, USER
from provender.plugin.errors import FetchError
from provender.plugin.spec import VECTOR_COLUMN

Key = int | str
Ints = npt.NDArray[np.int64]


class OnlineFetcher:
    """Reads a feature service for ranking requests through Feast's public online retrieval.

    Args:
        store: a feature store, of which only get_online_features is used.
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
        self._store = store
        self.layout = FeatureLayout.of_service(store, service)
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
            for name, column in self._read(join_key, keys, instant).items():
                columns[name] = _spread(column, rows)
        return shape_batch(self.layout, columns, len(pin_ids), context=arrays)

    def _keys(self, join_key: str, user_id: Key, pin_ids: Sequence[Key]) -> Sequence[Key]:
        if join_key == PIN:
            return pin_ids
        if join_key == USER:
            return [user_id] * len(pin_ids)
        raise _refused(f"feature service {self.layout.service}", f"the key {join_key!r}", "pin_id")

    def _read(self, join_key: str, keys: list[Key], instant: datetime) -> dict[str, Column]:
        """The key's features, one row a key: each is read, and decoded, once a request."""
        if not keys:
            return self._nothing(join_key)
        try:
            response = self._store.get_online_features(
                features=self.layout.references(join_key),
                entity_rows={join_key: keys},
                full_feature_names=True,
            ).proto
        except Exception as error:  # Each online store raises its own; the user gets one line.
            raise FetchError(
                f"online features of {self.layout.service} by {join_key}",
                found=str(error)[:300],
                expected="an answer of the online store",
                remedy="See that `feast materialize` has run and the keys have their type.",
            ) from error
        answer = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
        return self._decode(join_key, answer, instant)

    def _decode(
        self,
        join_key: str,
        answer: Mapping[str, GetOnlineFeaturesResponse.FeatureVector],
        instant: datetime,
    ) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        ages: dict[str, Ints] = {}  # One time a view and key, whatever the feature.
        for spec in self.layout.embeddings:
            if spec.join_key == join_key:
                found = answer[f"{spec.view_name}__{VECTOR_COLUMN}"]
                ages[spec.view_name] = _ages(found, instant)
                vectors, present = _vectors(found.values, spec.dim, spec.view_name)
                columns[f"{spec.view_name}__{VECTOR_COLUMN}"] = _fresh(
                    vectors, present, ages[spec.view_name], spec.ttl
                )
        for feature in self.layout.dense:
            if feature.join_key == join_key:
                found = answer[feature.column]
                if feature.view not in ages:
                    ages[feature.view] = _ages(found, instant)
                numbers, present = _numbers(found.values)
                columns[feature.column] = _fresh(numbers, present, ages[feature.view], feature.ttl)
        return columns

    def _nothing(self, join_key: str) -> dict[str, Column]:
        none, columns = np.zeros(0, dtype=np.bool_), {}
        for spec in self.layout.embeddings:
            if spec.join_key == join_key:
                empty = np.zeros((0, spec.dim), dtype=np.float32)
                columns[f"{spec.view_name}__{VECTOR_COLUMN}"] = Column(empty, none)
        for feature in self.layout.dense:
            if feature.join_key == join_key:
                columns[feature.column] = Column(np.zeros(0), none)
        return columns


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


def _vectors(
    values: Iterable[Any], dim: int, view: str
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Decode Feast's values of an Array(Float32) feature, where null is an unset value.

    A FloatList's bytes end in its floats, packed as little-endian, by protobuf's encoding of
    packed repeated fields; reading them so takes half the time of going through Python floats.
    """
    packed: list[bytes] = []
    found: list[bool] = []
    for value in values:
        kind = value.WhichOneof("val")
        if kind not in (None, "float_list_val") or (kind and len(value.float_list_val.val) != dim):
            raise FetchError(
                f"embedding view {view}",
                found=f"an online value of type {kind}, or of another length",
                expected=f"{dim} floats",
                remedy="Materialize the view again.",
            )
        found.append(kind is not None)
        if kind is not None:
            packed.append(value.float_list_val.SerializeToString()[-4 * dim :])
    present = np.array(found, dtype=np.bool_)
    vectors = np.zeros((len(found), dim), dtype=np.float32)
    vectors[present] = np.frombuffer(b"".join(packed), dtype="<f4").reshape(-1, dim)
    return vectors, present


def _numbers(
    values: Iterable[Any],
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    kinds = [(value, value.WhichOneof("val")) for value in values]
    numbers = [0.0 if kind is None else float(getattr(value, kind)) for value, kind in kinds]
    return np.array(numbers), np.array([kind is not None for _, kind in kinds], dtype=np.bool_)


def _ages(answer: GetOnlineFeaturesResponse.FeatureVector, instant: datetime) -> Ints:
    """Microseconds from each value's event time to the request."""
    stamps = [time.seconds * 1_000_000 + time.nanos // 1000 for time in answer.event_timestamps]
    now = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return now - np.array(stamps, dtype=np.int64)


def _fresh(
    values: npt.NDArray[np.floating],
    present: npt.NDArray[np.bool_],
    ages: Ints,
    ttl: timedelta | None,
) -> Column:
    """Hold values to their ttl as the point-in-time join does: Feast's online stores do not."""
    alive = ages >= 0
    if ttl is not None:
        alive &= ages <= ttl // timedelta(microseconds=1)
    return Column(values, present & alive, ages / 1e6)
