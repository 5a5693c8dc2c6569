"""TransRA on public data: Complete Journey and RetailRocket, links of later weeks only.

    python benchmarks/real_worlds.py --data path/to/data   # writes benchmarks/results/real_worlds.*

`--data` (or PROVENDER_DATA) holds the folders completejourney and retailrocket_mb.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORLDS = {"completejourney": "completejourney", "retailrocket": "retailrocket_mb"}


def walk(world: str, data: Path, home: Path) -> dict[str, Any]:
    provender = str(Path(sys.executable).with_name("provender"))
    command = [provender, "demo", "--home", str(home), "--world", world, "--data", str(data)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {"evaluation": json.loads((home / "reports" / "evaluation.json").read_text())}


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


def table(worlds: dict[str, dict[str, Any]]) -> str:
    lines = ["| data | later links | pairs | TransRA | popularity | chance |", "|---" * 6 + "|"]
    lines += [line for world, told in worlds.items() for line in links(world, told)]
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
