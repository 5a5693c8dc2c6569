"""What the attention head costs: a training step of the same ranker, with the head and with concat.

    python -m benchmarks.head_overhead [--batch 4096] [--repeats 60] [--history 20]

Both rankers are the DCNv2 reference with the same dense inputs and the same frozen vectors: one has
the vectors as plain inputs, the other through the attention head. Steps (loss, gradients, AdamW)
are taken in turn, so that whatever else the machine does falls on both; the figure is the median of
the ratios of neighbours. With a past, both rankers see it: concat as the mean of its vectors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from provender.consumers.features import DenseFeature, FeatureLayout, RankerBatch
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig, entire_space_loss
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.spec import EmbeddingSpec

RESULTS = Path(__file__).parent / "results"
KINDS = ("click", "save", "hide")
#: Vectors of two producers for users and pins, and of the page behind the pin.
VIEWS = (
    ("user_graph", "user", 64, "graph"),
    ("pin_graph", "pin", 64, "graph"),
    ("page_text", "page", 256, "text"),
    ("user_towers", "user", 128, "towers"),
    ("pin_towers", "pin", 128, "towers"),
)
QUERY = "pin_graph_v1"
DENSE = 16


def layout(views: int) -> FeatureLayout:
    """A service with the first so many views, and counters of pins."""
    return FeatureLayout(
        service="bench",
        embeddings=tuple(
            EmbeddingSpec.declare(
                name=name,
                version=1,
                entity=entity,
                join_key=f"{entity}_id",
                dim=dim,
                space=space,
                producer="bench",
                ttl=timedelta(days=7),
            )
            for name, entity, dim, space in VIEWS[:views]
        ),
        dense=tuple(
            DenseFeature(view="counters", name=f"n{place}", join_key="pin_id", integer=True)
            for place in range(DENSE)
        ),
    )


def rows(of: FeatureLayout, batch: int, length: int) -> RankerBatch:
    """A batch of made-up rows, a tenth of the vectors missing."""
    generator = torch.Generator().manual_seed(0)
    vectors = {s.view_name: torch.randn(batch, s.dim, generator=generator) for s in of.embeddings}
    present = {view: torch.rand(batch, generator=generator) < 0.9 for view in vectors}
    labels = {
        task: (torch.rand(batch, generator=generator) < rate).float()
        for task, rate in (("click", 0.1), ("conversion", 0.3))
    }
    return RankerBatch(
        vectors={view: torch.where(present[view][:, None], v, 0) for view, v in vectors.items()},
        present=present,
        age_seconds={},
        dense=torch.randint(0, 50, (batch, DENSE), generator=generator).float(),
        dense_present=torch.ones(batch, DENSE, dtype=torch.bool),
        labels=labels,
        history=past(of, batch, length, generator) if length else None,
    )


def past(of: FeatureLayout, batch: int, length: int, generator: torch.Generator) -> History:
    """Up to so many actions a row, over items of which there are half as many as rows."""
    items = batch // 2
    places = torch.randint(0, items, (batch, length), generator=generator)
    lengths = torch.randint(0, length + 1, (batch, 1), generator=generator)
    there = torch.arange(length) < lengths
    views = {s.view_name: s.dim for s in of.embeddings if s.join_key == "pin_id"}
    return History(
        items=torch.where(there, places, -1),
        kinds=torch.randint(0, len(KINDS), (batch, length), generator=generator) * there,
        age_seconds=torch.rand(batch, length, generator=generator) * 1e6 * there,
        keys=pa.array(np.arange(items)),
        vectors={view: torch.randn(items, dim, generator=generator) for view, dim in views.items()},
        present={view: torch.ones(items, dtype=torch.bool) for view in views},
    )


def stepper(config: RankerConfig, of: FeatureLayout, batch: RankerBatch) -> Callable[[], None]:
    """A ranker's training step on one batch."""
    torch.manual_seed(0)
    ranker = Ranker(config, of, Preprocessing.fit(of, batch, [])).train()
    ranker.fit_inputs(batch)
    optimizer = torch.optim.AdamW(ranker.dense_parameters(), lr=1e-3)
    inputs = ranker.preprocessing(batch)

    def step() -> None:
        logits = ranker.logits(inputs, batch)
        loss = entire_space_loss(logits, batch.labels["click"], batch.labels["conversion"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None]) -> float:
    """Milliseconds of one step."""
    started = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - started)


def measure(views: int, batch: int, length: int, repeats: int) -> dict[str, float | int]:
    """Take steps of both rankers in turn and compare neighbours."""
    of = layout(views)
    history = HistorySpec(length=length, kinds=KINDS) if length else None
    made = rows(of, batch, length)
    sizes = RankerConfig(history=history, query=QUERY)
    head = stepper(replace_vectors(sizes, "attention"), of, made)
    concat = stepper(replace_vectors(sizes, "concat"), of, made)
    for _ in range(5):
        head(), concat()
    pairs = []
    for turn in range(repeats):
        first, second = (head, concat) if turn % 2 else (concat, head)
        one, other = timed(first), timed(second)
        pairs.append((one, other) if turn % 2 else (other, one))
    return {
        "views": views,
        "numbers": sum(spec.dim for spec in of.embeddings),
        "history": length,
        "batch": batch,
        "head_milliseconds": statistics.median(h for h, _ in pairs),
        "concat_milliseconds": statistics.median(c for _, c in pairs),
        "ratio": statistics.median(h / c for h, c in pairs),
    }


def replace_vectors(config: RankerConfig, vectors: str) -> RankerConfig:
    """The same sizes with the vectors used otherwise."""
    return RankerConfig(**{**config.model_dump(), "vectors": vectors})


def main() -> None:
    """Measure, print and write benchmarks/results/head_overhead.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--history", type=int, default=20)
    parser.add_argument("--preliminary", action="store_true", help="print only")
    told = parser.parse_args()
    cases = [(views, length) for length in (0, told.history) for views in (2, 3, 5)]
    found = [measure(views, told.batch, length, told.repeats) for views, length in cases]
    lines = [
        "A training step, attention head against concatenation:",
        "",
        f"Batch {told.batch:,}, the same DCNv2 ranker, {told.repeats} steps of each in turn, "
        f"{torch.get_num_threads()} thread(s); medians. Target: a ratio of at most 1.5.",
        "",
        "| views | floats a row | past actions | head, ms | concat, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['views']} | {one['numbers']} | {one['history']} | "
        f"{one['head_milliseconds']:.1f} | {one['concat_milliseconds']:.1f} | "
        f"{one['ratio']:.2f} |"
        for one in found
    ]
    print("\n".join(lines))
    if not told.preliminary:
        about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rows": found}
        (RESULTS / "head_overhead.json").write_text(json.dumps(about, indent=1) + "\n")
        (RESULTS / "head_overhead.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
