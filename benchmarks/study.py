"""What embeddings are worth to a ranker, and by which way of using them: `provender study`.

    python benchmarks/study.py --data path/to/data --work DIR   # writes benchmarks/results/study.*

The worlds that ship, each in a home under --work: what `provender demo` has not laid out there yet
is laid out first. The simulator makes its own data; `--data` (or PROVENDER_DATA) holds the folders
completejourney and retailrocket_mb, without which these are left out. A study that was stopped goes
on, as its pieces are kept in its home.

Figures are of one evaluation of a world; the seeds are those of the rankers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
#: World -> the folder of its data; None makes its own.
WORLDS = {
    "simulator": None,
    "retailrocket": "retailrocket_mb",
    "completejourney": "completejourney",
}
PROVENDER = str(Path(sys.executable).with_name("provender"))


def study(home: Path, world: str, data: Path | None, seeds: int, variants: list[str]) -> None:
    """Lay a home out, if there is none, and study it."""
    where = [] if data is None else ["--data", str(data)]
    if not (home / "reports" / "request.json").exists():
        demo = ["demo", "--home", str(home), "--world", world, *where, "--seeds", "1"]
        subprocess.run([PROVENDER, *demo], check=True)
    chosen = [part for variant in variants for part in ("--variant", variant)]
    told = ["study", "--home", str(home), *where, "--seeds", str(seeds), "--backfills", *chosen]
    subprocess.run([PROVENDER, *told], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    given = os.environ.get("PROVENDER_DATA")
    parser.add_argument("--data", type=Path, default=given and Path(given))
    parser.add_argument("--work", type=Path, default=Path("study_homes"))
    parser.add_argument("--world", action="append", choices=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variant", action="append", default=[])
    options = parser.parse_args()
    tables, figures = [], {}
    for world in options.world or WORLDS:
        folder = WORLDS[world]
        if folder is not None and (options.data is None or not (options.data / folder).is_dir()):
            print(f"{world}: skipped, no data", file=sys.stderr)
            continue
        home = options.work / world
        data = None if folder is None else options.data / folder
        study(home, world, data, options.seeds, options.variant)
        reports = home / "reports" / "study"
        tables.append((reports / "study.md").read_text())
        figures[world] = json.loads((reports / "study.json").read_text())
    (RESULTS / "study.md").write_text("\n".join(tables))
    (RESULTS / "study.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
