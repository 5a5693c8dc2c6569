"""A table over two processes: what a step costs, beside DDP with sparse gradients and TorchRec.

    python benchmarks/row_shards.py --peer-python path/to/torchrec/venv/bin/python

The table has 200,000 rows of 128 floats. Each rank looks up 2,560 rows a step (heads, tails and the
negatives of a chunk of 1,024 triples, by a power law, repeats included), takes the gradient of
their squares, and updates the table by Adagrad: row-wise, but torch's own element-wise with DDP.
Gloo over loopback, one thread a rank, the same allocator settings for all. The contestants take
turns of `--steps` steps; the figures are medians over turns and ranks of the processor time of one
rank and step, gloo's threads included. TorchRec lives in an environment of its own (torch 2.13.0,
torchrec 1.8.0 and fbgemm-gpu-cpu 1.8.0 without dependencies, and what their imports ask for);
without one it is left out. Writes benchmarks/results/row_shards.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RANK = Path(__file__).parent / "peers" / "row_shards_rank.py"
RANKS = 2
LABELS = {
    "provender": "provender, row shards",
    "ddp": "torch DDP, sparse gradients",
    "torchrec": "TorchRec 1.8, row-wise",
    "torchrec, unique ids": "the same, given unique rows",
}
SETTINGS = {
    "MASTER_ADDR": "127.0.0.1",
    "WORLD_SIZE": str(RANKS),
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Contestant:
    """The ranks of one contestant, started and waiting."""

    def __init__(self, python: str, name: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            settings = {**os.environ, **SETTINGS, "MASTER_PORT": str(free.getsockname()[1])}
        self._ranks = [
            subprocess.Popen(
                [python, "-W", "ignore", str(RANK), name],
                env={**settings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(RANKS)
        ]
        for rank in self._ranks:
            _told(rank)

    def turn(self, steps: int) -> list[dict[str, float]]:
        """Milliseconds a step, of each rank."""
        for rank in self._ranks:
            print(steps, file=rank.stdin, flush=True)
        return [_told(rank) for rank in self._ranks]

    def stop(self) -> None:
        for rank in self._ranks:
            rank.communicate()


def _told(rank: subprocess.Popen[str]) -> dict[str, Any]:
    assert rank.stdout is not None
    for line in rank.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"{' '.join(map(str, rank.args))} ended with {rank.wait()}")


def measured(peer_python: str | None, turns: int, steps: int) -> dict[str, dict[str, float]]:
    """Medians by contestant; after a first turn that does not count."""
    running = {
        name: Contestant(peer_python or "" if name.startswith("torchrec") else sys.executable, name)
        for name in LABELS
        if peer_python or not name.startswith("torchrec")
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in running}
    for turn in range(turns + 1):
        for name, contestant in running.items():
            found = contestant.turn(steps)
            figures[name] += found if turn else []
    for contestant in running.values():
        contestant.stop()
    return {
        name: {
            "cpu_ms": statistics.median(each["cpu"] for each in found),
            "cpu_ms_least": min(each["cpu"] for each in found),
            "cpu_ms_most": max(each["cpu"] for each in found),
            "wall_ms": statistics.median(each["wall"] for each in found),
        }
        for name, found in figures.items()
    }


def table(found: dict[str, dict[str, float]]) -> str:
    lines = [
        "| two gloo processes, 200k x 128 | CPU ms a rank and step | least to most | wall ms |",
        "|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        if name not in found:
            lines.append(f"| {label} | skipped: no --peer-python | | |")
            continue
        of = found[name]
        span = f"{of['cpu_ms_least']:.1f} to {of['cpu_ms_most']:.1f}"
        lines.append(f"| {label} | {of['cpu_ms']:.1f} | {span} | {of['wall_ms']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="Python of an environment with TorchRec")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    found = measured(given.peer_python, given.turns, given.steps)
    RESULTS.mkdir(exist_ok=True)
    about = {"turns": given.turns, "steps": given.steps, "contestants": found}
    (RESULTS / "row_shards.json").write_text(json.dumps(about, indent=2) + "\n")
    (RESULTS / "row_shards.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
