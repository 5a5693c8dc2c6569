"""How far do refreshes drift? Tethered to the former one, and trained afresh.

    python benchmarks/refresh_drift.py                       # the simulator
    python benchmarks/refresh_drift.py --data path/to/data   # and Complete Journey and RetailRocket

Each world is refreshed at its five dates, each refresh from the one before. Then its last date is
produced once more in a home of its own, from nothing. The drift is what `provender refresh` gates
by (plugin/drift.py), between every two neighbours, between the first and the last, and between the
last two where the later one was trained afresh. Writes benchmarks/results/refresh_drift.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from provender.plugin.drift import drift
from provender.plugin.home import Home
from provender.plugin.repo import lay_out, views_in_repo
from provender.plugin.snapshot import Snapshot, find_snapshots

FAMILY = "transra"
RESULTS = Path(__file__).parent / "results"
WORLDS = {"completejourney": "completejourney", "retailrocket": "retailrocket_mb"}
#: The columns of the table, and what each is in a Drift.
FIGURES = {"mean cosine": "cosine_mean", "norm ratio": "norm_ratio", "coverage": "coverage"}
FIGURES["neighbours changed"] = "neighbours_changed"


def provender(*words: object) -> None:
    program = str(Path(sys.executable).with_name("provender"))
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)


def laid_out(home: Home, world: str) -> Home:
    """A home with the repo that ships and one of its worlds."""
    lay_out(home.repo)
    home.world.write_bytes((home.repo / "worlds" / f"{world}.yaml").read_bytes())
    return home


def measured(former: Snapshot, later: Snapshot) -> dict[str, Any]:
    return asdict(drift(*former.read(), *later.read()))


def refreshed(world: str, data: Path, folder: Path) -> dict[str, Any]:
    """The drifts of every view of a world."""
    chained, fresh = (laid_out(Home(folder / name), world) for name in ("chained", "fresh"))
    produce = ("produce", "--family", FAMILY, "--data", data)
    provender(*produce, "--home", chained.path)
    specs = [each.spec for each in views_in_repo(chained.repo)]
    views = [spec.view_name for spec in specs if spec.family == FAMILY]
    last = find_snapshots(chained.snapshots, views[0])[-1].manifest.as_of
    provender(*produce, "--home", fresh.path, "--as-of", last.isoformat())
    told = {}
    for view in views:
        days = find_snapshots(chained.snapshots, view)
        (afresh,) = find_snapshots(fresh.snapshots, view)
        told[view] = {
            "tethered": [measured(*two) for two in pairwise(days)],
            "first to last": measured(days[0], days[-1]),
            "trained afresh": measured(days[-2], afresh),
        }
    return told


def cells(drifts: list[dict[str, Any]]) -> str:
    """The least and the greatest of each figure."""
    found = ([one[name] for one in drifts] for name in FIGURES.values())
    return " | ".join(
        f"{min(all_):.3f} to {max(all_):.3f}" if len(all_) > 1 else f"{all_[0]:.3f}"
        for all_ in found
    )


def table(worlds: dict[str, Any]) -> str:
    lines = [f"| world | view | refresh | {' | '.join(FIGURES)} |", "|---" * 7 + "|"]
    for world, views in worlds.items():
        for view, told in views.items():
            for kind, drifts in told.items():
                several = drifts if isinstance(drifts, list) else [drifts]
                lines.append(f"| {world} | {view} | {kind} | {cells(several)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the public data")
    given = parser.parse_args()
    worlds = {}
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "simulation"
        provender("simulate", "--out", events)
        worlds["simulator"] = refreshed("simulator", events / "events", Path(folder) / "simulator")
        for world, name in WORLDS.items() if given.data else ():
            worlds[world] = refreshed(world, given.data / name, Path(folder) / world)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "refresh_drift.json").write_text(json.dumps(worlds, indent=2) + "\n")
    (RESULTS / "refresh_drift.md").write_text(table(worlds))
    print(table(worlds))


if __name__ == "__main__":
    main()
