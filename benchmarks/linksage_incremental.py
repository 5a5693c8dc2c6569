"""What a refresh of LinkSage costs when 1 % of the pages have changed, beside doing all anew.

    python benchmarks/linksage_incremental.py

20,000 pages and 30,000 pins of 60 planted topics with texts of eight words, boards of ten pins;
width 256, 2 layers, 50 neighbours. Processor seconds of one core by stage; training, which later
refreshes never do, is told apart. Writes benchmarks/results/linksage_incremental.{json,md}.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_refresh import refresh_pages

RESULTS = Path(__file__).parent / "results"
PAGES, PINS, TOPICS, WORDS, BOARDS = 20_000, 30_000, 60, 40, 3_000
START = datetime(2026, 3, 1, tzinfo=UTC)
DIMS: dict[str, Any] = {"dim": 256, "nested_dims": (16, 32, 64, 128)}
WORLD: dict[str, Any] = {
    "tables": {name: {"path": f"{name}.parquet"} for name in ("pages", "pins", "saves")},
    "entities": {"page": "int64", "pin": "int64"},
    "events": {"links": {"table": "pins"}},
    "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
    "linksage": {
        "pages": {"table": "pages", "key": "page_id", "text": ["title"], "time": "at"},
        "pins": {"table": "pins", "key": "pin_id", "text": ["title"], "time": "at"},
        "pairs": {"links": {"table": "pins", "pin": "pin_id", "page": "page_id", "time": "at"}},
        "boards": {"table": "saves", "key": "board", "pin": "pin_id", "time": "at"},
        "training": {"epochs": 1},
    },
}


def write(data: Path, changed: int) -> None:
    """The tables, to which as many changed pages are added a day later."""
    rng = np.random.default_rng(0)

    def texts(topics: Any) -> list[str]:
        words = rng.integers(0, WORDS, (len(topics), 8)) + WORDS * topics[:, None]
        return [" ".join(f"word{word}" for word in row) for row in words]

    def save(name: str, late: int, **columns: Any) -> None:
        rows = len(next(iter(columns.values())))
        at = [START] * (rows - late) + [START + timedelta(days=1)] * late
        times = pa.array(at, pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({**columns, "at": times}), data / f"{name}.parquet")

    page, pin = np.arange(PAGES), np.arange(PINS)
    of_pin = rng.integers(0, PAGES // TOPICS, PINS) * TOPICS + pin % TOPICS
    boards = rng.integers(0, BOARDS, PINS)
    told, pins = texts(page % TOPICS), texts(pin % TOPICS)
    again = rng.choice(PAGES, changed, replace=False)
    save(
        "pages",
        changed,
        page_id=np.concatenate([page, again]),
        title=told + texts((again + 1) % TOPICS),
    )
    save("pins", 0, pin_id=pin, title=pins, page_id=of_pin)
    save("saves", 0, board=boards, pin_id=pin)


def job(home: Home) -> PageJob:
    spec = EmbeddingSpec.declare(
        name="page_linksage",
        version=1,
        entity="page",
        join_key="page_id",
        space="linksage_v1",
        producer="linksage",
        ttl=timedelta(days=30),
        **DIMS,
    )
    world = World.model_validate(WORLD)
    return PageJob.declare(world, home.data, home, [DeclaredView(spec, "int64")], "cpu")


def refreshed(home: Home, day: int) -> dict[str, float]:
    """Refresh, and return the processor seconds of each stage."""
    seconds: dict[str, float] = defaultdict(float)
    last = begun = time.process_time()

    def tell(stage: str, done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.process_time()
        seconds[stage] += now - last
        last = now

    refresh_pages(job(home), START + timedelta(days=day), tell)
    return {**seconds, "whole": time.process_time() - begun}


def table(anew: dict[str, float], changed: dict[str, float]) -> str:
    without = {**anew, "whole": anew["whole"] - anew["train"]}
    lines = ["| CPU seconds | all 20,000 pages | 1 % changed | share |\n|---|---|---|---|\n"]
    for stage in changed:
        whole = without.get(stage)
        cells = ("", "") if not whole else (f"{whole:.2f}", f"{changed[stage] / whole:.0%}")
        lines.append(f"| {stage} | {cells[0]} | {changed[stage]:.2f} | {cells[1]} |\n")
    return "".join(lines) + f"\nBefore all were embedded, training took {anew['train']:.0f} s.\n"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.data.mkdir(parents=True)
        write(home.data, PAGES // 100)
        anew, changed = refreshed(home, 1), refreshed(home, 2)
    found = {"anew": anew, "changed": changed}
    (RESULTS / "linksage_incremental.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "linksage_incremental.md").write_text(table(anew, changed))
    print(table(anew, changed))


if __name__ == "__main__":
    main()
