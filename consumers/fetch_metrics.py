"""What online fetches say of themselves, by prometheus-client: how long, what was missing, how old.

    metrics = FetchMetrics()
    fetcher = OnlineFetcher(store, service, ranker=ranker, metrics=metrics)
    metrics.exposition()        # the text that a /metrics end point gives

Keys are counted as they are read, each once a read: a user once, however many candidates it has.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from provender.consumers.features import Column

#: Upper edges of the latency's bins, in seconds.
LATENCIES = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_HOUR, _DAY = 3600.0, 86_400.0
#: Upper edges of the ages' bins, in seconds: from a minute to two months.
AGES = (60.0, _HOUR, 6 * _HOUR, 12 * _HOUR, *(days * _DAY for days in (1, 2, 3, 7, 14, 30, 60)))


class FetchMetrics:
    """Counters and histograms of any number of fetchers, from any number of threads.

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
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry() if registry is None else registry

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"provender_fetch_{name}", told, ("service", *labels), **given)

        given: dict[str, Any] = {"registry": self.registry}
        self._seconds = Histogram(
            "provender_fetch_seconds", "Whole fetches", ("service",), buckets=LATENCIES, **given
        )
        self._requests = counter("requests", "Requests answered")
        self._timeouts = counter("timeouts", "Reads that were late")
        self._fallbacks = counter("fallbacks", "Answers without features", "reason")
        self._versions = counter("versions", "Requests answered", "family", "version")
        self._views = _ViewCounts()
        self.registry.register(self._views)
        self._known: dict[tuple[str, ...], Any] = {}  # Finding a label's child takes most of it.

    def fetched(
        self, service: str, requests: int, seconds: float, versions: Mapping[str, int]
    ) -> None:
        """Note a fetch of some requests, and what was read for them."""
        self._child(self._seconds, service).observe(seconds)
        self._child(self._requests, service).inc(requests)
        for family, version in versions.items():
            self._child(self._versions, service, family, str(version)).inc(requests)

    def read(self, service: str, columns: Mapping[str, Column]) -> None:
        """Note what one read found: view -> one of its columns, a row a key."""
        for view, column in columns.items():
            ages = None if column.age_seconds is None else column.age_seconds[column.present]
            self._views.add((service, view), len(column.present), column.present, ages)

    def timed_out(self, service: str) -> None:
        """Note a read that was late."""
        self._child(self._timeouts, service).inc()

    def fell_back(self, service: str, reason: str, requests: int) -> None:
        """Note requests that were answered without features."""
        self._child(self._fallbacks, service, reason).inc(requests)

    def exposition(self) -> bytes:
        """Return everything in the registry in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        child = self._known.get(key)
        if child is None:
            child = self._known[key] = metric.labels(*labels)
        return child


class _ViewCounts:
    """Counts by service and view, whole arrays at once: prometheus-client takes values singly."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edges = np.array(AGES)
        self._keys: dict[tuple[str, str], int] = {}
        self._missing: dict[tuple[str, str], int] = {}
        self._bins: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def add(
        self,
        labels: tuple[str, str],
        keys: int,
        present: npt.NDArray[np.bool_],
        ages: npt.NDArray[np.float64] | None,
    ) -> None:
        """Add one read."""
        missing = keys - int(np.count_nonzero(present))
        bins = np.zeros(len(AGES) + 1, np.int64)
        total = 0.0
        if ages is not None and len(ages):
            bins = np.bincount(self._edges.searchsorted(ages), minlength=len(AGES) + 1)
            total = float(ages.sum())
        with self._lock:
            if labels not in self._keys:
                self._keys[labels] = self._missing[labels] = 0
                self._bins[labels], self._sums[labels] = np.zeros(len(AGES) + 1, np.int64), 0.0
            self._keys[labels] += keys
            self._missing[labels] += missing
            self._bins[labels] += bins
            self._sums[labels] += total

    def collect(self) -> Iterator[Any]:
        """Give prometheus-client what was added so far."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        names = ("service", "view")
        keys = CounterMetricFamily("provender_fetch_keys", "Keys looked up", labels=names)
        missing = CounterMetricFamily("provender_fetch_missing", "Keys missing", labels=names)
        ages = HistogramMetricFamily("provender_fetch_age_seconds", "Ages", labels=names)
        edges = [*map(str, AGES), "+Inf"]
        with self._lock:
            for labels, asked in self._keys.items():
                keys.add_metric(labels, asked)
                missing.add_metric(labels, self._missing[labels])
                counts = np.cumsum(self._bins[labels]).tolist()
                ages.add_metric(labels, list(zip(edges, counts, strict=True)), self._sums[labels])
        yield from (keys, missing, ages)
