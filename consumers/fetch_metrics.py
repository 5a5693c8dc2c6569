"""What online fetches say of themselves, by prometheus-client: how long, what was missing, how old.

    metrics = FetchMetrics()
    fetcher = OnlineFetcher(store, service, ranker=ranker, metrics=metrics)
    metrics.exposition()        # the text that a /metrics end point gives

Keys are counted as they are read, each once a read: a user once, however many candidates it has.

What is counted is given to prometheus-client when it asks. Its own counters are not used: they take
values one by one, and Feast sets PROMETHEUS_MULTIPROCESS_DIR when it is imported, with which those
of all registries of a process are one, and kept in files.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from provender.consumers.features import Column

#: Upper edges of the latency's bins, in seconds.
LATENCIES = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_HOUR, _DAY = 3600.0, 86_400.0
#: Upper edges of the ages' bins, in seconds: from a minute to two months.
AGES = (60.0, _HOUR, 6 * _HOUR, 12 * _HOUR, *(days * _DAY for days in (1, 2, 3, 7, 14, 30, 60)))


class FetchMetrics:
    """Counters and histograms of any number of fetchers, from any thread of this process.

    ======================================  ====================================================
    provender_fetch_seconds                 histogram by service, of whole fetches
    provender_fetch_requests_total          requests answered, by service
    provender_fetch_keys_total              keys that were looked up, by service and view
    provender_fetch_missing_total           those of them without a value that counts, likewise
    provender_fetch_age_seconds             histogram of the ages of the others, likewise
    provender_fetch_timeouts_total          reads that were late, by service
    provender_fetch_fallbacks_total         answers without features, by service and reason
    provender_fetch_versions_total          requests answered, by service, family and version
    ======================================  ====================================================

    Args:
        registry: where they are registered; one of its own by default. A registry takes them once.

    Attributes:
        registry: of prometheus-client, for its exposition.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry

        self._lock = threading.Lock()
        service, view = ("service",), ("service", "view")
        self._seconds = _Histogram("seconds", "Whole fetches", service, LATENCIES)
        self._ages = _Histogram("age_seconds", "Ages of the values that count", view, AGES)
        self._requests = _Counter("requests", "Requests answered", service)
        self._keys = _Counter("keys", "Keys looked up", view)
        self._missing = _Counter("missing", "Keys without a value that counts", view)
        self._timeouts = _Counter("timeouts", "Reads that were late", service)
        self._fallbacks = _Counter("fallbacks", "Answers without features", (*service, "reason"))
        self._versions = _Counter("versions", "Requests answered", (*service, "family", "version"))
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)

    def fetched(
        self, service: str, requests: int, seconds: float, versions: Mapping[str, int]
    ) -> None:
        """Note a fetch of some requests, and what was read for them."""
        with self._lock:
            self._seconds.add((service,), np.array([seconds]))
            self._requests.add((service,), requests)
            for family, version in versions.items():
                self._versions.add((service, family, str(version)), requests)

    def read(self, service: str, columns: Mapping[str, Column]) -> None:
        """Note what one read found: view -> one of its columns, a row a key."""
        with self._lock:
            for view, column in columns.items():
                keys, found = len(column.present), int(np.count_nonzero(column.present))
                self._keys.add((service, view), keys)
                self._missing.add((service, view), keys - found)
                if column.age_seconds is not None:
                    ages = column.age_seconds
                    known = ages if found == keys else ages[column.present]
                    self._ages.add((service, view), known)

    def timed_out(self, service: str) -> None:
        """Note a read that was late."""
        with self._lock:
            self._timeouts.add((service,), 1)

    def fell_back(self, service: str, reason: str, requests: int) -> None:
        """Note requests that were answered without features."""
        with self._lock:
            self._fallbacks.add((service, reason), requests)

    def exposition(self) -> bytes:
        """Return everything in the registry in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Give prometheus-client what was counted so far."""
        with self._lock:
            counts = (self._requests, self._keys, self._missing, self._timeouts, self._fallbacks)
            metrics = [each.metric() for each in (*counts, self._versions)]
            metrics += [each.metric() for each in (self._seconds, self._ages)]
        yield from metrics


class _Counter:
    """A number that grows, for each set of labels."""

    def __init__(self, name: str, told: str, labels: Sequence[str]) -> None:
        self._name, self._told, self._labels = f"provender_fetch_{name}", told, labels
        self._counts: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def add(self, labels: tuple[str, ...], count: int) -> None:
        self._counts[labels] += count

    def metric(self) -> Metric:
        from prometheus_client.core import CounterMetricFamily

        metric = CounterMetricFamily(self._name, self._told, labels=self._labels)
        for labels, count in self._counts.items():
            metric.add_metric(labels, count)
        return metric


class _Histogram:
    """Counts of values in bins, for each set of labels; whole arrays at once."""

    def __init__(self, name: str, told: str, labels: Sequence[str], edges: Sequence[float]) -> None:
        self._name, self._told, self._labels = f"provender_fetch_{name}", told, labels
        self._edges = list(edges)
        self._bins: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        self._sums: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def add(self, labels: tuple[str, ...], values: npt.NDArray[np.float64]) -> None:
        size = len(self._edges) + 1
        if labels not in self._bins:
            self._bins[labels] = np.zeros(size, np.int64)
        if len(values):
            ends = values.min(), values.max()
            first, last = (bisect_left(self._edges, end) for end in ends)
            if first == last:  # A whole run has one event time: its ages need not be searched.
                self._bins[labels][first] += len(values)
            else:
                places = np.searchsorted(self._edges, values)
                self._bins[labels] += np.bincount(places, minlength=size)
            self._sums[labels] += float(values.sum())

    def metric(self) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        metric = HistogramMetricFamily(self._name, self._told, labels=self._labels)
        edges = [*map(str, self._edges), "+Inf"]
        for labels, bins in self._bins.items():
            counts = zip(edges, np.cumsum(bins).tolist(), strict=True)
            metric.add_metric(labels, list(counts), self._sums[labels])
        return metric
