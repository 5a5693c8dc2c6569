"""The stores beside Feast's: time, memory and growth, in one interleaved run.

    python benchmarks/stores.py              # writes benchmarks/results/stores.{json,md}
    python benchmarks/stores.py --quick      # a twentieth of the size, into the work folder
    python benchmarks/stores.py --only wide_1m requests     # these again, the others as they are

Contestants take turns; each run is a process of its own, forked from one that has imported all and
done nothing. Whatever comes out is compared: another float anywhere ends the run. PostgreSQL and
Redis are found by PROVENDER_TEST_POSTGRES and PROVENDER_TEST_REDIS; Feast's stores for them need
`pip install '.[bench]'`. A contestant that can't run is named in the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from store_process import SETTINGS, job_context, measure
from store_tables import tables
from store_works import Goal, Growth, Scale, Work, growths, works

RESULTS = Path(__file__).parent / "results"
#: The exponent of a power law, fitted to a doubling size, that still counts as linear.
LINEAR = 1.1

Told = dict[str, Any]


def do_work(context: Any, work: Work, scale: Scale) -> Told:
    """Let a work's contestants take turns; return every run and the medians."""
    for table in work.tables:
        table.write(scale.work)
    failed: dict[str, str] = {}
    runs: dict[str, list[Told]] = {one.label: [] for one in work.contestants}
    for job, arguments in work.before:
        _announce(work.name, job, measure(context, job, arguments))
    for turn in range(max(one.runs for one in work.contestants)):
        for one in work.contestants:
            if turn >= one.runs or one.label in failed:
                continue
            figures = figures_of(measure(context, one.job, one.arguments, one.touch))
            _announce(work.name, one.label, figures)
            if "error" in figures:
                failed[one.label] = figures["error"]
            else:
                runs[one.label].append(figures)
    for job, arguments in work.after:
        _announce(work.name, job, measure(context, job, arguments))
    _check_same(work, runs)
    medians = {label: median_of(some) for label, some in runs.items() if some}
    goals = [reached(goal, medians) for goal in work.goals]
    return {"title": work.title, "medians": medians, "failed": failed, "goals": goals, "runs": runs}


def figures_of(told: Told) -> Told:
    """Return a run's figures, the milliseconds of its requests as percentiles."""
    if "error" in told:
        return told
    milliseconds = told.pop("ms", None)
    if milliseconds:
        told["cpu_ms"] = 1e3 * told["cpu_s"] / len(milliseconds)
        told["p50_ms"], told["p99_ms"] = np.percentile(milliseconds, [50, 99]).tolist()
    told["resident_mib"] = told["peak_mib"] + told["baseline_mib"]
    return told


def median_of(runs: list[Told]) -> Told:
    numbers = [name for name, value in runs[0].items() if isinstance(value, int | float)]
    return {name: statistics.median(run[name] for run in runs) for name in numbers}


def reached(goal: Goal, medians: dict[str, Told]) -> Told:
    """Return a goal with what was measured: how many times less, or the amount itself."""
    found: Told = asdict(goal)
    ours, other = medians.get(goal.label), medians.get(goal.against or "")
    if ours is None or (goal.against and other is None):
        return {**found, "measured": None, "reached": False}
    if other is None:
        measured = ours[goal.figure] / (goal.most or 1.0)
        return {**found, "measured": measured, "reached": measured <= goal.times}
    measured = other[goal.figure] / ours[goal.figure]
    return {**found, "measured": measured, "reached": measured >= goal.times}


def do_growth(context: Any, growth: Growth, scale: Scale) -> Told:
    """Measure figures at sizes that double; return the exponents of their growth."""
    for table in growth.tables:
        table.write(scale.work)
    for job, arguments in growth.before:
        _announce(growth.name, job, measure(context, job, arguments))
    runs: dict[int, list[Told]] = {size: [] for size, _ in growth.points}
    for _ in range(scale.repeats):
        for size, arguments in growth.points:
            figures = figures_of(measure(context, growth.job, arguments, growth.touch))
            _announce(growth.name, f"{size:,}", figures)
            if "error" in figures:
                return {"title": growth.title, "error": figures["error"]}
            runs[size].append(figures)
    for job, arguments in growth.after:
        _announce(growth.name, job, measure(context, job, arguments))
    medians = {size: median_of(some) for size, some in runs.items()}
    series = {
        name: {size: figures[name] for size, figures in medians.items()} for name in growth.figures
    }
    fits = {name: {"medians": values, **power(values)} for name, values in series.items()}
    return {"title": growth.title, "figures": fits, "runs": runs}


def power(medians: dict[int, float]) -> Told:
    """Fit figure = a size^b by least squares over the logarithms."""
    logs = [(math.log(size), math.log(max(value, 1e-9))) for size, value in medians.items()]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    return {"exponent": slope, "linear_or_better": slope <= LINEAR}


def _check_same(work: Work, runs: dict[str, list[Told]]) -> None:
    by_arguments: dict[str, dict[str, Any]] = {}
    for one in work.contestants:
        for run in runs[one.label]:
            if run["digest"]:
                # Of one work, other tables are other outputs.
                key = str(one.arguments.get("table", ""))
                by_arguments.setdefault(key, {})[one.label] = run["digest"]
    for digests in by_arguments.values():
        if len({str(digest) for digest in digests.values()}) > 1:
            raise SystemExit(f"{work.name}: the results differ: {digests}")


def _announce(work: str, who: str, told: Told) -> None:
    shown = ("wall_s", "cpu_s", "peak_mib", "anonymous_mib", "p50_ms", "p99_ms")
    figures = "  ".join(f"{name} {told[name]:.3f}" for name in shown if name in told)
    print(f"{work:20} {who:45} {told.get('error') or figures}", flush=True)


def machine() -> Told:
    packages = ("provender", "feast", "duckdb", "pyarrow", "numpy", "torch", "sqlalchemy")
    settings = {name: value for name, value in SETTINGS.items() if name != "PYTHONPATH"}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "settings": {**settings, "malloc": "as the C library has it"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/provender_stores"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the size")
    parser.add_argument("--only", nargs="+", default=[], help="these rows, again")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, help="another folder for the two files")
    parser.add_argument("--stream-rows", type=int, default=20_000_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.quick:
        scale = Scale(options.work, options.repeats, 20, 200_000, requests=40)
    else:
        scale = Scale(options.work, options.repeats, 1, options.stream_rows)
    folder = options.results or (options.work if options.quick else RESULTS)
    folder.mkdir(exist_ok=True)
    if measure_all(scale, folder / "stores", set(options.only), options.again):
        sys.exit(1)


def measure_all(scale: Scale, path: Path, only: set[str], again: bool) -> list[str]:
    """Measure what is not yet, writing after each; return what failed of ours."""
    file = path.with_suffix(".json")
    told: Told = {} if again or not file.exists() else json.loads(file.read_text())
    told = {"works": {}, "growth": {}} | told | machine()
    context = job_context()
    doings: list[tuple[str, Work | Growth]] = [("works", work) for work in works(scale)]
    doings += [("growth", growth) for growth in growths(scale)]
    unknown = only - {doing.name for _, doing in doings}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}")
    started = time.perf_counter()
    for kind, doing in doings:
        if doing.name in only or (not only and doing.name not in told[kind]):
            do: Any = do_work if isinstance(doing, Work) else do_growth
            told[kind][doing.name] = do(context, doing, scale)
            told = json.loads(json.dumps(told))  # Sizes become text, as when read again.
            file.write_text(json.dumps(told, indent=1) + "\n")
            path.with_suffix(".md").write_text(tables(told))
    print(tables(told))
    print(f"{time.perf_counter() - started:.0f} s")
    return [
        name
        for name, work in told["works"].items()
        if any("provender" in f for f in work["failed"])
    ]


if __name__ == "__main__":
    main()
