"""What the ranking service says of itself, in Prometheus' text, beside what fetches say.

Feast switches prometheus-client to values that all registries of a process share, in files; these
are kept here instead, so that two services in one process do not count each other's requests.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from provender.consumers.fetch_metrics import LATENCIES, FetchMetrics

#: Upper edges of the bins of candidates.
CANDIDATES = (0, 1, 10, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class ServiceMetrics:
    """Requests and refusals; for many threads.

    =====================================  ====================================================
    provender_rank_requests_total          requests by status, such as 200
    provender_rank_errors_total            requests without an answer, by the error's name
    provender_rank_seconds                 histogram, from the whole body to the whole answer
    provender_rank_candidates              histogram
    provender_rank_in_progress             requests that are waiting or being scored
    =====================================  ====================================================

    Attributes:
        fetches: what the fetchers are given, in the same registry.
    """

    def __init__(self) -> None:
        self.fetches = FetchMetrics()
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = _Histogram("provender_rank_seconds", "Requests to answers", LATENCIES)
        self._candidates = _Histogram("provender_rank_candidates", "Of a request", CANDIDATES)
        self._in_progress = 0
        self.fetches.registry.register(self)

    def began(self) -> None:
        """Note a request that is to be scored."""
        with self._lock:
            self._in_progress += 1

    def ended(self) -> None:
        """Note that one of those is done, whichever way."""
        with self._lock:
            self._in_progress -= 1

    def answered(self, seconds: float, candidates: int) -> None:
        """Note an answer."""
        with self._lock:
            self._requests["200"] += 1
            self._seconds.add(seconds)
            self._candidates.add(candidates)

    def refused(self, status: int, error: str) -> None:
        """Note a request without an answer."""
        with self._lock:
            self._requests[str(status)] += 1
            self._errors[error] += 1

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return self.fetches.exposition()

    def collect(self) -> Iterator[Any]:
        """Give prometheus-client what was counted so far."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        requests = CounterMetricFamily("provender_rank_requests", "Requests", labels=["status"])
        errors = CounterMetricFamily("provender_rank_errors", "Refusals", labels=["error"])
        with self._lock:
            for family, counts in ((requests, self._requests), (errors, self._errors)):
                for label, count in counts.items():
                    family.add_metric([label], count)
            yield from (requests, errors, self._seconds.family(), self._candidates.family())
            yield GaugeMetricFamily(
                "provender_rank_in_progress", "Waiting or being scored", self._in_progress
            )


class _Histogram:
    """Counts by bin."""

    def __init__(self, name: str, told: str, edges: Sequence[float]) -> None:
        self._name, self._told, self._edges = name, told, edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def family(self) -> Any:
        from prometheus_client.core import HistogramMetricFamily

        edges = [*map(str, map(float, self._edges)), "+Inf"]
        within, bins = 0, []
        for edge, count in zip(edges, self._counts, strict=True):
            within += count
            bins.append((edge, within))
        return HistogramMetricFamily(self._name, self._told, bins, self._sum)
