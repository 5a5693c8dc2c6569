"""The nearest pins: exact by GEMM, faiss flat, HNSW and IVF, side by side.

    python benchmarks/retrieval.py [--rows 100000 --rows 1000000] [--queries 512] [--repeat 5]

Clustered vectors of 64 floats whose lengths differ, as those of graph embeddings do, compared by
inner product; the nearest 100 of each query. All run on one thread, in turns, on the same blocks of
queries; what is compared is the median of the ratios within a turn. Recall is against the answers
in float64 (plugin/nearest.py gives the same for the first of the queries, which is looked up).
Writes benchmarks/results/retrieval.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from provender.consumers.approximate_index import IndexConfig, open_index, recall_at
from provender.consumers.exact_search import ExactSearch
from provender.consumers.retrieval_vectors import ViewVectors
from provender.plugin.nearest import nearest_batch
from provender.plugin.spec import EmbeddingSpec

RESULTS = Path(__file__).parent / "results"
DIM, K, CLUSTERS = 64, 100, 1_000
Vectors = npt.NDArray[np.float32]
Search = Callable[[Vectors], npt.NDArray[np.int64]]


def drawn(rows: int, queries: int, seed: int = 7) -> tuple[Vectors, Vectors]:
    """Pins around clusters' centres with lengths of their own, and users of the same kind."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((CLUSTERS, DIM), dtype=np.float32)

    def around(count: int) -> Vectors:
        chosen = centres[generator.integers(0, CLUSTERS, count)]
        near = chosen + 0.7 * generator.standard_normal((count, DIM), dtype=np.float32)
        lengths = np.exp(0.3 * generator.standard_normal((count, 1), dtype=np.float32))
        return np.asarray(near * lengths, np.float32)

    return around(rows), around(queries)


def as_view(vectors: Vectors) -> ViewVectors:
    spec = EmbeddingSpec.declare(
        name="pin_bench", version=1, entity="pin", join_key="pin_id", dim=DIM, space="bench",
        producer="bench", ttl="P30D",
    )  # fmt: skip
    keys = pa.array(np.arange(len(vectors)))
    return ViewVectors(spec, keys, vectors, np.zeros(len(vectors), np.int64), ("bench",))


def built(vectors: Vectors, graph: bool) -> dict[str, tuple[Search, float]]:
    """Each contestant and the seconds that it took to build."""
    made: dict[str, tuple[Search, float]] = {}

    def note(label: str, build: Callable[[], Search]) -> None:
        started = time.perf_counter()
        search = build()
        made[label] = (search, time.perf_counter() - started)
        print(f"  {label}: built in {made[label][1]:.1f} s", flush=True)

    def exact() -> Search:
        table = ExactSearch(vectors, "inner_product")
        return lambda queries: table.search(queries, K).rows

    def flat() -> Search:
        index = faiss.IndexFlatIP(DIM)
        index.add(vectors)
        return lambda queries: np.asarray(index.search(queries, K)[1])

    def approximate(config: IndexConfig) -> Callable[[], Search]:
        def build() -> Search:
            index = open_index(as_view(vectors), "inner_product", config)
            return lambda queries: index.search(queries, K)

        return build

    note("exact GEMM", exact)
    note("faiss flat", flat)
    for probes in (32, 128):
        note(f"IVF, {probes} probes", approximate(IndexConfig(kind="ivf", probes=probes)))
    if graph:
        note("HNSW, M 32, ef 256", approximate(IndexConfig(kind="hnsw")))
    return made


def measured(rows: int, queries: int, repeat: int, graph: bool) -> dict[str, Any]:
    vectors, asked = drawn(rows, queries)
    print(f"{rows:,} vectors", flush=True)
    contestants = built(vectors, graph)
    answers = {label: search(asked) for label, (search, _) in contestants.items()}
    true = answers["exact GEMM"]
    oracle = nearest_batch(asked[:16], [(np.arange(rows), vectors)], K, "inner_product")
    assert true[:16].tolist() == [each.keys for each in oracle]
    seconds: dict[str, list[float]] = {label: [] for label in contestants}
    for _ in range(repeat):
        for label, (search, _) in contestants.items():
            started = time.perf_counter()
            search(asked)
            seconds[label].append(time.perf_counter() - started)
    flat = seconds["faiss flat"]
    return {
        label: {
            "queries_per_second": queries / statistics.median(seconds[label]),
            "against_flat": statistics.median(
                theirs / mine for theirs, mine in zip(flat, seconds[label], strict=True)
            ),
            "one_query_ms": 1e3 * one_by_one(search, asked[:20]),
            "recall": recall_at(answers[label], true),
            "build_seconds": build,
        }
        for label, (search, build) in contestants.items()
    }


def one_by_one(search: Search, asked: Vectors) -> float:
    """The median seconds of queries that come alone."""
    took = []
    for query in asked:
        started = time.perf_counter()
        search(query[None])
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def table(told: dict[str, Any]) -> str:
    lines = [
        f"| vectors | search | queries/s | x faiss flat | one query, ms | recall@{K} | build s |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, figures in told["sizes"].items():
        for place, (label, some) in enumerate(figures.items()):
            first = f"{int(rows):,}" if place == 0 else ""
            lines.append(
                f"| {first} | {label} | {some['queries_per_second']:,.0f} | "
                f"{some['against_flat']:.2f} | {some['one_query_ms']:.2f} | {some['recall']:.4f} | "
                f"{some['build_seconds']:.1f} |"
            )
    lines.append(
        f"\n{told['queries']} queries at once, medians of {told['repeat']} turns, one thread. "
        f"{DIM} floats, {CLUSTERS:,} clusters, inner product. {told['machine']}; "
        f"faiss {told['faiss']}, torch {told['torch']}.\n"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="default: 100000 and 1000000")
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-graph", action="store_true", help="leave HNSW out: it builds long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    sizes = given.rows or [100_000, 1_000_000]
    told = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "queries": given.queries,
        "repeat": given.repeat,
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "sizes": {
            rows: measured(rows, given.queries, given.repeat, not given.no_graph) for rows in sizes
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "retrieval.json").write_text(json.dumps(told, indent=2) + "\n")
    (given.out / "retrieval.md").write_text(table(told))
    print(table(told))


if __name__ == "__main__":
    main()
