"""A step on a table of learned rows, beside torch's own ways: python -m benchmarks.entity_table

Every way looks up the same Zipf ids, takes the same loss and makes its step; rounds are
interleaved, so that a busy machine slows all alike. What is told is the median of the rounds and
its ratio to ours. Rows of 64 float32, batches of 4,096, tables of 10,000, 1 and 10 million rows.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.host_table import HostTable

RESULTS = Path(__file__).parent / "results"
DIM, BATCH, RATE = 64, 4096, 0.02
OURS = "EntityTable"
Step = Callable[[Tensor], None]


def ways(rows: int, device: torch.device, dense_up_to: int) -> dict[str, Step]:
    """Return the steps by name; each has a table of its own."""
    keys = pa.array(np.arange(rows, dtype=np.int64))
    training = RowTraining(rate=RATE)
    table = EntityTable(keys, torch.full((rows, DIM), 0.01), training).to(device)
    found = {
        OURS: _ours(table),
        "HostTable (1/10 cached)": _ours(
            HostTable(keys, table.values.cpu(), training, capacity=max(BATCH, rows // 10)).to(
                device
            )
        ),
    }
    sparse = nn.Embedding(rows, DIM, sparse=True, device=device)
    found["Embedding(sparse) + SparseAdam"] = _torch(
        sparse, torch.optim.SparseAdam(list(sparse.parameters()), lr=RATE)
    )
    adagrad = nn.Embedding(rows, DIM, sparse=True, device=device)
    found["Embedding(sparse) + Adagrad"] = _torch(
        adagrad, torch.optim.Adagrad(adagrad.parameters(), lr=RATE)
    )
    if rows <= dense_up_to:
        dense = nn.Embedding(rows, DIM, device=device)
        found["Embedding + Adam"] = _torch(dense, torch.optim.Adam(dense.parameters(), lr=RATE))
    return found


def zipf(rows: int, count: int, seed: int) -> Tensor:
    """Draw ids: the k-th most frequent with a share like 1 / k, spread over the table."""
    generator = np.random.default_rng(seed)
    # The inverse of the sum of 1/k, which is close to a logarithm.
    ranks = np.exp(generator.random(count) * np.log(rows)).astype(np.int64) - 1
    return torch.from_numpy(ranks * 7_368_787 % rows)


def _ours(table: EntityTable) -> Step:
    def step(ids: Tensor) -> None:
        table(ids).square().sum().backward()
        table.step()

    return step


def _torch(table: nn.Embedding, optimizer: torch.optim.Optimizer) -> Step:
    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        table(ids).square().sum().backward()
        optimizer.step()

    return step


def measured(rows: int, rounds: int, device: torch.device, dense_up_to: int) -> dict[str, float]:
    """Return the median seconds of a step of each way."""
    steps = ways(rows, device, dense_up_to)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        ids = zipf(rows, BATCH, number).to(device)
        for name, step in steps.items():
            start = time.perf_counter()
            step(ids)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # The first ones make the optimizers' state.
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def _table(figures: dict[int, dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    head = "| a step, ms (times ours) | " + " | ".join(f"{rows:,} rows" for rows in figures)
    lines = [f"{head} |", "|---" * (len(figures) + 1) + "|"]
    for name in names:
        cells = [
            f"{1000 * each[name]:.2f} ({each[name] / each[OURS]:.1f})" if name in each else "-"
            for each in figures.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--rows", multiple=True, type=int, default=(10_000, 1_000_000, 10_000_000))
@click.option("--rounds", default=30, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dense-up-to", default=10_000_000, show_default=True, help="Rows, for dense Adam.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(rows: tuple[int, ...], rounds: int, device: str, dense_up_to: int, out: Path) -> None:
    """Measure, print, and write entity_table.json and entity_table.md."""
    place = torch.device(device)
    figures = {count: measured(count, rounds, place, dense_up_to) for count in rows}
    told = {
        "device": torch.cuda.get_device_name() if place.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dim": DIM,
        "batch": BATCH,
        "rounds": rounds,
        "seconds": figures,
    }
    suffix = "" if place.type == "cpu" else f"_{place.type}"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"entity_table{suffix}.json").write_text(json.dumps(told, indent=1) + "\n")
    (out / f"entity_table{suffix}.md").write_text(_table(figures))
    print(_table(figures))


if __name__ == "__main__":
    main()
