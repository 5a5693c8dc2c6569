"""The whole path on public data: Complete Journey and RetailRocket, later weeks only.

    python benchmarks/real_worlds.py --data path/to/data   # writes benchmarks/results/real_worlds.*

`--data` (or PROVENDER_DATA) holds the folders completejourney and retailrocket_mb.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORLDS = {"completejourney": "completejourney", "retailrocket": "retailrocket_mb"}
FIGURES = {"auc": "AUC", "log_loss": "log loss"}


def walk(world: str, data: Path, home: Path) -> dict[str, Any]:
    started = time.perf_counter()
    provender = str(Path(sys.executable).with_name("provender"))
    command = [provender, "demo", "--home", str(home), "--world", world, "--data", str(data)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = {
        name: json.loads((home / "reports" / f"{name}.json").read_text())
        for name in ("evaluation", "lift", "request")
    }
    return {**told, "seconds": time.perf_counter() - started}


def links(world: str, told: dict[str, Any]) -> list[str]:
    metrics = told["evaluation"]["metrics"]
    relations = dict.fromkeys(name.split("/")[0] for name in metrics)
    return [
        f"| {world} | {relation} | {metrics[f'{relation}/pairs']:,.0f} | "
        + " | ".join(
            f"{metrics[f'{relation}/{who}/recall@100']:.3f}"
            for who in ("model", "popularity", "random")
        )
        + " |"
        for relation in relations
    ]


def lifts(world: str, told: dict[str, Any]) -> list[str]:
    return [
        f"| {world} | {name} | {without} | {with_} | {difference} |"
        for name, without, with_, difference in told["lift"]["table"]
    ]


def table(worlds: dict[str, dict[str, Any]]) -> str:
    lines = ["| data | later links | pairs | TransRA | popularity | chance |", "|---" * 6 + "|"]
    lines += [line for world, told in worlds.items() for line in links(world, told)]
    lines += ["", "| data | ranker | without | with | difference (95 %) |", "|---" * 5 + "|"]
    lines += [line for world, told in worlds.items() for line in lifts(world, told)]
    lines.append("")
    for world, told in worlds.items():
        rows, clicks = told["lift"]["rows"], told["lift"]["positives"]["click"]
        lines.append(
            f"{world}: {rows['training']:,} impressions to learn from, "
            f"{rows['evaluation']:,} later ones with {clicks:,} clicks; "
            f"the whole job took {told['seconds']:.0f} s.  "
        )
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    given = os.environ.get("PROVENDER_DATA")
    parser.add_argument("--data", type=Path, default=given and Path(given), required=not given)
    parser.add_argument("--work", type=Path, default=Path("/tmp/real_worlds"))
    options = parser.parse_args()
    worlds = {
        world: walk(world, options.data / folder, options.work / world)
        for world, folder in WORLDS.items()
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "real_worlds.json").write_text(json.dumps(worlds, indent=2) + "\n")
    (RESULTS / "real_worlds.md").write_text(table(worlds))
    print(table(worlds))


if __name__ == "__main__":
    main()
