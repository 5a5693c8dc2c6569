"""Run a peer of benchmarks/peers in its own environment, and read the line that it prints."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
#: The same for every peer: one thread that never spins, and memory that is kept once it is had,
#: as fresh pages for each large tensor cost more than what is done in them.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "CUDA_VISIBLE_DEVICES": "",
}
Told = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A script of benchmarks/peers under a label, which environment runs it, and its settings."""

    label: str
    environment: str
    script: str
    job: Told = field(default_factory=dict)

    def run(self, options: argparse.Namespace, job: Told) -> Told:
        """Return what the script printed, or an `error`, or why it was `skipped`."""
        python = dict(options.peer_python).get(self.environment)
        if self.environment == "provender":
            python = sys.executable
        if python is None:
            return {"skipped": f"no --peer-python {self.environment}=PATH"}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(self.job | job, file)
            file.flush()
            command = [python, "-W", "ignore", str(PEERS / f"{self.script}.py"), file.name]
            if options.core is not None:
                command = ["taskset", "-c", str(options.core), *command]
            done = subprocess.run(
                command, env={**os.environ, **SETTINGS}, capture_output=True, text=True
            )
        if done.returncode or not done.stdout.strip():
            return {"error": (done.stderr.strip() or "nothing printed").splitlines()[-1]}
        told: Told = json.loads(done.stdout.strip().splitlines()[-1])
        return told


def peer_options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark of peers has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the python of a peer's environment: pykeen, torchkge or biggraph",
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "kg_peers")
    parser.add_argument("--core", type=int, help="run each peer on this core")
    parser.add_argument("--only", nargs="+", default=[], help="labels that contain one of these")
    parser.add_argument("--quick", action="store_true", help="small, to see that all of it runs")
    return parser


def chosen(peers: list[Peer], options: argparse.Namespace) -> list[Peer]:
    """The peers that `--only` names, or all."""
    only = options.only
    return [peer for peer in peers if not only or any(word in peer.label for word in only)]


def _named(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and Path(path).exists()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH of a python that is there")
    return name, path
