"""The top pins for users, by two views of one space, as of a time.

retrieval = Retrieval.at(store, "transra", version=1, time=T)
answer = retrieval.for_users([7, 8], k=20, seen={7: [101, 102]})
answer.pins[0]  # the 20 nearest pins of user 7, the nearest first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore

from provender.consumers.approximate_index import IndexConfig, open_index
from provender.consumers.pin_search import PinSearch
from provender.consumers.retrieval_vectors import (
    Key,
    Vectors,
    ViewVectors,
    keys_of,
    vectors_at,
)
from provender.consumers.retrieval_views import ViewPair, pair_of
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.nearest import Metric, metric_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: user -> pins that are not to be answered
Seen = Mapping[Any, Sequence[Key]]


@dataclass(frozen=True)
class Retrieved:
    """The nearest pins of each user, the nearest first.

    Attributes:
        users: those who were asked for, in their order.
        known: (q,) bool, whether the user has a vector; who has none gets no pins.
        pins: for each user at most k keys.
        distances: (q, k) float64, less is nearer, `inner_product` negative; inf where there is no
            pin.
        metric: of the distances.
        version: of both views.
    """

    users: list[Key]
    known: Bools
    pins: list[list[Key]]
    distances: npt.NDArray[np.float64]
    metric: Metric
    version: int

    def table(self) -> pa.Table:
        """Return a row a user and pin: `user`, `rank` from 1, `pin`, `distance`."""
        counts = [len(pins) for pins in self.pins]
        users = pa.array(self.users).take(pa.array(np.repeat(np.arange(len(counts)), counts)))
        ranks = np.concatenate([np.empty(0, np.int64), *(np.arange(n) + 1 for n in counts)])
        far = [self.distances[row, :n] for row, n in enumerate(counts)]
        columns = {
            "user": users,
            "rank": pa.array(ranks, pa.int32()),
            "pin": pa.array([pin for pins in self.pins for pin in pins]),
            "distance": pa.array(np.concatenate([np.empty(0), *far])),
        }
        return pa.table(columns)


class Retrieval:
    """The top pins for users of one version at one moment.

    Args:
        users, pins: their vectors, of one version and space.
        metric: another one than the space's, by any name of Feast's.
        only: keys of the pins that count, such as the live ones.
        approximate: how to build or open an index; exact by default.

    Raises:
        VersionError: vectors that can't be compared.
        ConfigError: an index without faiss.
    """

    def __init__(
        self,
        users: ViewVectors,
        pins: ViewVectors,
        *,
        metric: str | None = None,
        only: Sequence[Key] | pa.Array | None = None,
        approximate: IndexConfig | None = None,
    ) -> None:
        self.pair = ViewPair(users.spec, pins.spec)
        self.users = users
        self.search = pin_search(self.pair, pins, metric, only, approximate)

    @classmethod
    def at(
        cls,
        store: FeatureStore,
        view: str,
        version: int,
        time: datetime,
        *,
        asking: str = "user",
        found: str = "pin",
        backfills: bool = False,
        metric: str | None = None,
        only: Sequence[Key] | pa.Array | None = None,
        approximate: IndexConfig | None = None,
    ) -> Retrieval:
        """Open the snapshots in force at a time; see :func:`vectors_at` and :func:`pair_of`."""
        pair = pair_of(embedding_specs(store), view, version, asking=asking, found=found)
        views = [store.get_feature_view(each.view_name) for each in (pair.asking, pair.found)]
        users, pins = (vectors_at(each, time, backfills=backfills) for each in views)
        return cls(users, pins, metric=metric, only=only, approximate=approximate)

    def for_users(
        self, users: Sequence[Key] | pa.Array, k: int, *, seen: Seen | None = None
    ) -> Retrieved:
        """Return the k nearest pins of each user.

        Args:
            users: keys; who has no vector gets no pins.
            k: at least 1.
            seen: user -> pins that are not to be answered.

        Raises FetchError: a k below 1, or keys of another type.
        """
        keys = keys_of(users, "of the users")
        places = self.users.places(keys)
        known = places >= 0
        vectors = np.zeros((len(places), self.users.spec.dim), np.float32)
        vectors[known] = self.users.vectors[places[known]]
        return retrieved(self.search, self.pair, keys, known, vectors, k, seen)


def pin_search(
    pair: ViewPair,
    pins: ViewVectors,
    metric: str | None,
    only: Sequence[Key] | pa.Array | None,
    approximate: IndexConfig | None,
) -> PinSearch:
    """Return what searches the pins of a pair; the arguments are those of :class:`Retrieval`."""
    how = metric_of(metric) if metric else pair.metric
    index = open_index(pins, how, approximate) if approximate else None
    return PinSearch(pins, how, only=only, index=index)


def retrieved(
    search: PinSearch,
    pair: ViewPair,
    users: pa.Array,
    known: Bools,
    vectors: Vectors,
    k: int,
    seen: Seen | None,
) -> Retrieved:
    """Answer for the users that are known.

    Args:
        users: (q,) keys.
        known: (q,) bool.
        vectors: (q, dim), a row for every user, known or not.
    """
    keys = users.to_pylist()
    asked = np.flatnonzero(known)
    hidden = None
    if seen:
        hidden = [_places(search.pins, seen.get(keys[row], ())) for row in asked]
    found = search.search(vectors[asked], k, hidden)
    pins: list[list[Key]] = [[] for _ in keys]
    far = np.full((len(keys), found.rows.shape[1]), np.inf)
    far[asked] = found.distances
    for row, places in zip(asked, found.rows, strict=True):
        pins[row] = search.pins.keys.take(pa.array(places[places >= 0])).to_pylist()
    return Retrieved(keys, known, pins, far, search.metric, pair.found.version)


def _places(pins: ViewVectors, keys: Sequence[Key]) -> Ints:
    found = pins.places(keys_of(list(keys), "of pins already seen")) if keys else np.empty(0, int)
    return found[found >= 0]
