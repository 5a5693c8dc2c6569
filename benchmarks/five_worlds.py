"""Is the planted structure recovered? Five simulated worlds, the whole path in each.

    python benchmarks/five_worlds.py            # writes benchmarks/results/five_worlds.{json,md}

For each world (seed): Recall@100 of next-day clicks by TransRA, popularity and chance, and the
click AUC of the ranker without and with the embeddings. The interval is Student's t over worlds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

RESULTS = Path(__file__).parent / "results"
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def walk(home: Path, seed: int) -> dict[str, float]:
    started = time.perf_counter()
    command = ["provender", "demo", "--home", str(home), "--seed", str(seed), "--seeds", "3"]
    command[0] = str(Path(sys.executable).with_name("provender"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    links = json.loads((home / "reports" / "evaluation.json").read_text())["metrics"]
    lift = json.loads((home / "reports" / "lift.json").read_text())["tasks"]["click"]["auc"]
    return {
        "seed": seed,
        "transra": links["click/model/recall@100"],
        "popularity": links["click/popularity/recall@100"],
        "chance": links["click/random/recall@100"],
        "auc_without": mean(lift["without"]),
        "auc_with": mean(lift["with"]),
        "seconds": time.perf_counter() - started,
    }


def interval(values: list[float]) -> tuple[float, float]:
    half = T_975[len(values)] * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def table(worlds: list[dict[str, float]]) -> str:
    head = "| world | TransRA | popularity | chance | ratio | AUC without | AUC with | difference |"
    lines = [head, "|---" * 8 + "|"]
    for one in worlds:
        lines.append(
            f"| {one['seed']:.0f} | {one['transra']:.3f} | {one['popularity']:.3f} "
            f"| {one['chance']:.3f} | {one['transra'] / one['popularity']:.1f} "
            f"| {one['auc_without']:.4f} | {one['auc_with']:.4f} "
            f"| {one['auc_with'] - one['auc_without']:+.4f} |"
        )
    low, high = interval([one["auc_with"] - one["auc_without"] for one in worlds])
    lines.append("")
    lines.append(
        f"Recall@100 of next-day clicks; AUC of clicks on the last day. The difference's "
        f"95% interval over {len(worlds)} worlds: {low:+.4f} to {high:+.4f}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/five_worlds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    worlds = [walk(options.work / str(seed), seed) for seed in options.seeds]
    low, high = interval([one["auc_with"] - one["auc_without"] for one in worlds])
    told = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "worlds": worlds,
        "auc_difference_95": [low, high],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "five_worlds.json").write_text(json.dumps(told, indent=2) + "\n")
    (RESULTS / "five_worlds.md").write_text(table(worlds))
    print(table(worlds))


if __name__ == "__main__":
    main()
