"""One ranking request from keys to scores: 1 user, 500 candidates, views of 64, 128, 256 floats.

    python benchmarks/online_request.py         # writes benchmarks/results/online_request.{json,md}
    python benchmarks/online_request.py --quick # a twentieth of the size, prints only

The same rows lie in provender's online store with its hot copy and in Feast's own SQLite store, as
`feast materialize` wrote them, and the same attention ranker scores what either path gives. The
contestants take turns in one process: each has the same 60 requests, drawn anew for each turn, of
which the first 10 are not counted. Request by request, each would measure the caches that the one
before left cold, and Feast's path leaves none warm; a server runs one path. Beside the wall's clock
stands the process's CPU time, which others on the machine change less. Scores are compared: they
have to be equal.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from feast import Entity, FeatureService, FeatureStore, ValueType

from provender.consumers.attention_head import AttentionHead
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.fetch_metrics import FetchMetrics
from provender.consumers.fetch_request import Request
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig
from provender.consumers.ranking_request import clicks_of
from provender.consumers.user_history import Action, HistorySpec
from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot

RESULTS = Path(__file__).parent / "results"
NOW = datetime(2026, 3, 2, tzinfo=UTC)
AS_OF = NOW - timedelta(hours=6)
SERVICE, KINDS, LENGTH = "request", ("click", "save", "conversion"), 20
#: Entity and dim of each view.
VIEWS = {"user_small": ("user", 64), "pin_middle": ("pin", 128), "pin_large": ("pin", 256)}
STORES = {
    "provender": """offline_store: {type: provender.plugin.offline_store.ProvenderOfflineStore}
online_store: {type: provender.plugin.online_store.ProvenderOnlineStore, hot: hot,
  url: "sqlite:///online.db"}
batch_engine: {type: provender.plugin.compute_engine.ProvenderEngine}""",
    "feast": """offline_store: {type: provender.plugin.offline_store.ProvenderOfflineStore}
online_store: {type: sqlite, path: online.db}""",
}
#: Requests of a turn that are counted, and those before that are not.
RUN, WARM = 50, 10
MILLISECONDS = (
    "p50_ms",
    "p99_ms",
    "fetch_p50_ms",
    "fetch_p99_ms",
    "fetch_cpu_ms",
    "score_cpu_ms",
)
#: Label -> (requests, 4): fetch and score on the wall's clock, then in CPU time, milliseconds.
Times = dict[str, npt.NDArray[np.float64]]
#: From keys to tensors: a contestant's part that is not the ranker's.
Fetch = Callable[[int, list[int]], RankerBatch]


@dataclass(frozen=True)
class Contestant:
    """A way from keys to tensors, and who scores them."""

    fetch: Fetch
    ranker: Ranker


def applied(folder: Path, kind: str, snapshots: Path) -> FeatureStore:
    """A repo of its own on one kind of stores, over the same snapshots."""
    folder.mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(
        f"project: request\nprovider: local\nregistry: registry.db\n{STORES[kind]}\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(str(folder))
    names = ("user", "pin")
    entities = {
        name: Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        for name in names
    }
    views = [
        embedding_view(
            name=name,
            version=1,
            entity=entities[entity],
            dim=dim,
            space=name,
            producer="bench",
            ttl=timedelta(days=30),
            snapshots=snapshots,
        )
        for name, (entity, dim) in VIEWS.items()
    ]
    store.apply([*entities.values(), *views, FeatureService(name=SERVICE, features=list(views))])
    return store


def write(store: FeatureStore, snapshots: Path, rows: dict[str, int]) -> None:
    generator = np.random.default_rng(7)
    for name in VIEWS:
        spec = spec_of(store.get_feature_view(f"{name}_v1"))
        count = rows[spec.entity]
        vectors = generator.standard_normal((count, spec.dim), dtype=np.float32)
        run = RunInfo("run", "bench", "c" * 64, AS_OF, AS_OF)
        write_snapshot(snapshots, spec, AS_OF, pa.array(range(count), pa.int64()), vectors, run)


def attention_ranker(layout: FeatureLayout, rows: RankerBatch, past: HistorySpec | None) -> Ranker:
    """A ranker of random weights whose gate is open: what it costs does not depend on them."""
    torch.manual_seed(0)
    config = RankerConfig(query="pin_large_v1")
    ranker = Ranker(config, layout, Preprocessing.fit(layout, rows, ["position", "surface"]))
    ranker.head = AttentionHead(
        layout.embeddings, "pin_large_v1", tasks=2, width=config.head_width, history=past
    )
    torch.nn.init.ones_(ranker.head.gate)
    return ranker.eval()


def context(count: int) -> dict[str, Any]:
    return {"position": list(range(count)), "surface": "home"}


def through_feast(store: FeatureStore, layout: FeatureLayout) -> Fetch:
    """Feast's stock way: get_online_features, to_dict, tensors."""
    service = store.get_feature_service(SERVICE)

    def fetch(user: int, pins: list[int]) -> RankerBatch:
        rows = [{"user_id": user, "pin_id": pin} for pin in pins]
        told = store.get_online_features(service, rows, full_feature_names=True).to_dict()
        vectors, present = {}, {}
        for spec in layout.embeddings:
            values = told[f"{spec.view_name}__embedding"]
            mask = torch.tensor([value is not None for value in values])
            zeros = [0.0] * spec.dim
            vectors[spec.view_name] = torch.tensor([value or zeros for value in values])
            present[spec.view_name] = mask
        empty = torch.zeros(len(pins), 0)
        columns = {"position": pa.array(range(len(pins))), "surface": pa.repeat("home", len(pins))}
        return RankerBatch(vectors, present, {}, empty, empty.bool(), columns)

    return fetch


def contestants(ours: FeatureStore, feasts: FeatureStore, pins: int) -> dict[str, Contestant]:
    layout = FeatureLayout.of_service(ours, SERVICE)
    plain = OnlineFetcher(ours, SERVICE, now=NOW)
    spec = HistorySpec(length=LENGTH, kinds=KINDS)
    remembering = OnlineFetcher(ours, SERVICE, now=NOW, history=spec)
    counting = OnlineFetcher(ours, SERVICE, now=NOW, metrics=FetchMetrics())
    limited = OnlineFetcher(ours, SERVICE, now=NOW, timeout_seconds=1.0, fallback="missing")
    rows = plain.fetch(1, list(range(100)), context(100))
    ranker = attention_ranker(layout, rows, None)
    generator = np.random.default_rng(3)

    def with_past(user: int, candidates: list[int]) -> RankerBatch:
        past = [
            Action(pin, KINDS[pin % 3], NOW - timedelta(minutes=place + 1))
            for place, pin in enumerate(generator.integers(0, pins, LENGTH).tolist())
        ]
        return remembering.fetch(user, candidates, context(len(candidates)), past)

    def by(fetcher: OnlineFetcher) -> Fetch:
        return lambda user, candidates: fetcher.fetch(user, candidates, context(len(candidates)))

    return {
        "provender, hot": Contestant(by(plain), ranker),
        "with metrics": Contestant(by(counting), ranker),
        "with a timeout": Contestant(by(limited), ranker),
        "with 20 past actions": Contestant(with_past, attention_ranker(layout, rows, spec)),
        "Feast, stock": Contestant(through_feast(feasts, layout), ranker),
    }


def raced(some: dict[str, Contestant], requests: int, users: int, pins: int, count: int) -> Times:
    """Let them take turns of RUN requests; returns label -> (requests, 4) milliseconds.

    Those are the fetch's and the score's on the wall's clock, then of the processor's time.
    """
    generator = np.random.default_rng(11)
    times: dict[str, list[list[float]]] = {name: [] for name in some}
    gc.collect()
    gc.freeze()
    for _ in range(-(-requests // RUN)):
        asked = [
            (int(generator.integers(users)), generator.choice(pins, count, replace=False).tolist())
            for _ in range(WARM + RUN)
        ]
        scores: dict[str, torch.Tensor] = {}
        for name, one in some.items():
            made = [measured(one, *request) for request in asked]
            times[name] += [ms for ms, _ in made[WARM:]]
            scores[name] = torch.stack([clicks for _, clicks in made])
        torch.testing.assert_close(scores["Feast, stock"], scores["provender, hot"])
    return {name: np.array(each) for name, each in times.items()}


def measured(one: Contestant, user: int, pins: list[int]) -> tuple[list[float], torch.Tensor]:
    """One request: milliseconds as :func:`raced` has them, and its scores."""
    clocks = [(time.perf_counter(), time.process_time())]
    batch = one.fetch(user, pins)
    clocks.append((time.perf_counter(), time.process_time()))
    clicks = clicks_of(one.ranker, batch)
    clocks.append((time.perf_counter(), time.process_time()))
    return (1e3 * np.diff(np.array(clocks), axis=0).T).flatten().tolist(), clicks


def batched(fetcher: OnlineFetcher, users: int, pins: int, count: int) -> dict[str, float]:
    """Milliseconds a request, alone and 16 together."""
    generator = np.random.default_rng(13)
    alone, together = [], []
    for _ in range(20):
        asked = [
            Request(int(generator.integers(users)), generator.choice(pins, count), context(count))
            for _ in range(16)
        ]
        started = time.perf_counter()
        for request in asked:
            fetcher.fetch(*request)
        middle = time.perf_counter()
        fetcher.fetch_many(asked)
        alone.append((middle - started) / 16)
        together.append((time.perf_counter() - middle) / 16)
    return {
        "alone_ms": 1e3 * float(np.median(alone)),
        "together_ms": 1e3 * float(np.median(together)),
    }


def figures(times: Times) -> dict[str, dict[str, float]]:
    made = {}
    for name, (fetch, score, fetch_cpu, score_cpu) in ((n, each.T) for n, each in times.items()):
        whole = fetch + score
        made[name] = {
            "p50_ms": float(np.median(whole)),
            "p99_ms": float(np.percentile(whole, 99)),
            "fetch_p50_ms": float(np.median(fetch)),
            "fetch_p99_ms": float(np.percentile(fetch, 99)),
            "fetch_cpu_ms": float(np.median(fetch_cpu)),
            "score_cpu_ms": float(np.median(score_cpu)),
            "fetch_share": float(np.median(fetch) / np.median(whole)),
            "fetch_cpu_share": float(np.median(fetch_cpu) / np.median(fetch_cpu + score_cpu)),
        }
    return made


def page(told: dict[str, Any]) -> str:
    lines = [
        "One ranking request, online:",
        "",
        f"1 user and {told['candidates']} candidates of {told['pins']:,} pins, views of 64 (user), "
        f"128 and 256 (pin) floats, to scores by the attention ranker; {told['requests']} requests "
        f"in turns of {RUN} after {WARM} that are not counted, "
        f"medians, one process, {told['threads']} thread(s) of torch, {told['machine']}, "
        f"load average {told['load']:.1f} at the end (about 1 is this process alone).",
        "",
        "| | p50 ms | p99 ms | fetch p50 ms | fetch p99 ms | fetch, CPU ms | score, CPU ms "
        "| fetch's share | of CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in told["figures"].items():
        numbers = [each[key] for key in MILLISECONDS]
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        shares = f"{100 * each['fetch_share']:.1f} % | {100 * each['fetch_cpu_share']:.1f} %"
        lines.append(f"| {name} | {cells} | {shares} |")
    goals = told["goals"]
    lines += [
        "",
        f"Goals: p99 under 15 ms: {'reached' if goals['p99'] else 'missed'}; the fetch under 10 % "
        f"of a request: {'reached' if goals['share'] else 'missed'}; its p99 under 10 % of 15 ms: "
        f"{'reached' if goals['share_of_limit'] else 'missed'}. Metrics cost "
        f"{100 * told['metrics_cost']:.1f} % of a fetch's CPU time, a request through Feast's "
        f"stock path {told['against_feast']:.1f} times the time of the hot copy's.",
        "",
        f"16 requests in one read: {told['batched']['together_ms']:.2f} ms a request, "
        f"{told['batched']['alone_ms']:.2f} ms one by one.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small, and only printed")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--pins", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    asked = parser.parse_args()
    if asked.quick:
        asked.requests, asked.pins = max(asked.requests // 20, 50), asked.pins // 20
    torch.set_num_threads(asked.threads)
    users = asked.pins // 5
    with tempfile.TemporaryDirectory() as name:
        snapshots = Path(name) / "snapshots"
        ours, feasts = (applied(Path(name) / kind, kind, snapshots) for kind in STORES)
        write(ours, snapshots, {"user": users, "pin": asked.pins})
        for store in (ours, feasts):
            store.materialize(AS_OF - timedelta(days=1), NOW)
        some = contestants(ours, feasts, asked.pins)
        times = raced(some, asked.requests, users, asked.pins, asked.candidates)
        together = batched(
            OnlineFetcher(ours, SERVICE, now=NOW), users, asked.pins, asked.candidates
        )
    made = figures(times)
    plain, counted = made["provender, hot"], made["with metrics"]
    told = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("feast", "torch", "numpy", "pyarrow")},
        "requests": asked.requests,
        "pins": asked.pins,
        "candidates": asked.candidates,
        "threads": asked.threads,
        "figures": made,
        "metrics_cost": counted["fetch_cpu_ms"] / plain["fetch_cpu_ms"] - 1,
        "against_feast": made["Feast, stock"]["p50_ms"] / plain["p50_ms"],
        "batched": together,
        "load": os.getloadavg()[0],
        "goals": {
            "p99": plain["p99_ms"] < 15,
            "share": plain["fetch_share"] < 0.1,
            "share_of_limit": plain["fetch_p99_ms"] < 1.5,
        },
    }
    print(page(told))
    if not asked.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "online_request.json").write_text(json.dumps(told, indent=2) + "\n")
        (RESULTS / "online_request.md").write_text(page(told))


if __name__ == "__main__":
    main()
