"""From impressions to batches of a ranker, beside Feast's own way; and does the trainer wait?

    python benchmarks/training_batches.py          # writes results/training_batches.{json,md}
    python benchmarks/training_batches.py --quick  # a twentieth, into the work folder

1,000,000 impressions with two views (users x 64, pins x 256, 100,000 keys each, five daily
snapshots) become batches of 4,096. Ours: `TrainingStream`, the laying out of the impressions
included. Feast's: its DuckDB store, `to_df`, a tensor a column, shuffled batches. They take turns,
each run is a process of its own, and the rows that come out must be the same to the last bit. Then
the reference ranker with its attention head is trained from the stream, on CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from store_process import job_context, measure
from store_worlds import Table
from stores import RESULTS, figures_of, machine, median_of

Told = dict[str, Any]
#: How many times our rows a second must be Feast's, and the share of time a trainer may wait.
FASTER, WAITING = 15.0, 0.05
OURS, FEAST = "provender", "feast"
LABELS = {FEAST: "Feast duckdb, `to_df` + tensors", OURS: "provender `TrainingStream`"}


def measured(work: Path, keys: int, rows: int, repeats: int, steps: int) -> Told:
    """Let the two take turns, then train; return every run and the medians."""
    tables = [Table("user", keys, 64, 5), Table("pin", keys, 256, 5)]
    for table in tables:
        table.write(work)
    context = job_context("training_jobs")
    runs: dict[str, list[Told]] = {who: [] for who in LABELS}
    trained: list[Told] = []
    shared = {"tables": tables, "rows": rows, "work": work}
    for _ in range(repeats):
        for who in LABELS:
            told = measure(context, "batches", {"who": who, **shared}, module="training_jobs")
            runs[who].append(_checked(who, told))
        told = measure(context, "training", {**shared, "steps": steps}, module="training_jobs")
        trained.append(_checked("training", told))
    if len({str(run["digest"]) for some in runs.values() for run in some}) > 1:
        raise SystemExit("the two do not give the same rows")
    medians = {who: median_of(some) for who, some in runs.items()}
    return {
        **machine(),
        "rows": rows,
        "keys": keys,
        "steps": steps,
        "runs": {**runs, "training": trained},
        "medians": {**medians, "training": median_of(trained)},
        "faster": medians[OURS]["rows_per_s"] / medians[FEAST]["rows_per_s"],
        "faster_cpu": medians[FEAST]["cpu_s"] / medians[OURS]["cpu_s"],
        "goals": {"faster": FASTER, "waiting_share": WAITING},
    }


def _checked(who: str, told: Told) -> Told:
    figures = figures_of(told)
    if "error" in figures:
        raise SystemExit(f"{who}: {figures['error']}")
    shown = ("wall_s", "cpu_s", "peak_mib", "rows_per_s", "waiting_share", "step_ms")
    print(who, *(f"{name} {figures[name]:.3f}" for name in shown if name in figures), flush=True)
    return figures


def table(told: Told) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"{told['rows']:,} impressions to batches of 4,096: {told['keys']:,} users x 64 and "
        f"pins x 256, five snapshots",
        "",
        "| medians | rows/s | wall s | CPU s | peak MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for who, label in LABELS.items():
        one = told["medians"][who]
        lines.append(
            f"| {label} | {one['rows_per_s']:,.0f} | {one['wall_s']:.2f} | {one['cpu_s']:.2f} "
            f"| {one['peak_mib']:,.0f} |"
        )
    trained = told["medians"]["training"]
    lines += [
        "",
        f"{told['faster']:.1f} times as many rows a second (goal {FASTER:.0f}), with "
        f"{told['faster_cpu']:.1f} times less processor time.",
        "",
        "The reference ranker with its attention head waits "
        f"{100 * trained['waiting_share']:.2f} % of the time of {told['steps']} steps for data "
        f"(goal below {100 * WAITING:.0f} %): a step takes "
        f"{trained['step_ms']:.0f} ms, {trained['rows_per_s']:,.0f} rows/s.",
        "",
        f"{told['machine']}, Python {told['python']}, "
        + ", ".join(f"{name} {number}" for name, number in told["versions"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/provender_training"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the training")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    part = 20 if options.quick else 1
    started = time.perf_counter()
    told = measured(
        options.work, 100_000 // part, 1_000_000 // part, options.repeats, options.steps
    )
    folder = options.work if options.quick else RESULTS
    (folder / "training_batches.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / "training_batches.md").write_text(table(told))
    print(table(told))
    print(f"{time.perf_counter() - started:.0f} s")
    waited = told["medians"]["training"]["waiting_share"]
    if told["faster"] < FASTER or waited > WAITING:
        sys.exit(1)


if __name__ == "__main__":
    main()
