"""The track that every peer runs on: the same graph, the same clock, the same judge.

A peer is a script of this folder, run in an environment of its own as `python PEER.py JOB.json`. It
builds its model, calls `begin` and then `step` after every batch; the track ends the run and
prints one line of JSON. A job has `graph` (a folder of planted_graph.py), the peer's settings, and

- for speed: `warm_up` and `triples`, the numbers trained before and under the clock;
- for a race: `stops`, the CPU seconds at which the clock stands still for the judge, who takes the
  filtered MRR of `asked` triples of `split`; and `patience`, after how many stops without a
  better MRR the run ends.

The clock is the processor time of the process, of all its threads: what waits costs nothing.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filtered_mrr import Ints, Sides, filtered_mrr


class Finished(BaseException):
    """Ends a run from within a library's loop; no `except Exception` of its catches this."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Triples int64 (E, 3) of head, relation, tail; heads are 0 to `heads`, tails what follows."""

    heads: int
    tails: int
    relations: int
    train: Ints
    valid: Ints
    test: Ints

    @classmethod
    def read(cls, folder: Path) -> Graph:
        sizes = json.loads((folder / "graph.json").read_text())
        parts = {name: np.load(folder / f"{name}.npy") for name in ("train", "valid", "test")}
        return cls(**sizes, **parts)

    @property
    def entities(self) -> int:
        return self.heads + self.tails


class Clock:
    """Processor seconds; it can stand still."""

    def __init__(self) -> None:
        self._begun = time.process_time()
        self._wall = time.perf_counter()
        self._still = 0.0

    def seconds(self) -> float:
        return time.process_time() - self._begun - self._still

    def wall(self) -> float:
        return time.perf_counter() - self._wall

    def without(self, work: Callable[[], Any]) -> Any:
        """Do something that isn't counted."""
        begun = time.process_time()
        result = work()
        self._still += time.process_time() - begun
        return result


class Track:
    """One run of one peer, from the job named on the command line."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
        self.graph = Graph.read(Path(self.job["graph"]))
        self.told: dict[str, Any] = {"points": []}
        self.stops: list[float] = list(self.job.get("stops", []))
        self.done = self.counted_from = 0
        self.clock: Clock | None = None
        torch.set_num_threads(1)
        torch.manual_seed(self.job.get("seed", 0))

    def begin(self) -> None:
        """The model is about to be trained; only what comes now is measured."""
        # What preparing freed and malloc kept would else serve the training, unseen.
        ctypes.CDLL(None).malloc_trim(0)
        self.told["base_mib"] = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
        if self.stops:
            self.clock = Clock()

    def step(self, triples: int, sides: Callable[[], Sides] | None = None) -> None:
        """So many triples more were trained; raises Finished where the job is done.

        A race is judged only where `sides` are given, which may be seldom.
        """
        self.done += triples
        if self.stops:
            self._race(sides)
        elif self.clock is None:
            if self.done >= self.job["warm_up"]:
                self.clock, self.counted_from = Clock(), self.done
        elif self.done - self.counted_from >= self.job["triples"]:
            self.finish()

    def finish(self) -> None:
        """Print what was measured and end the run."""
        assert self.clock is not None
        cpu, counted = self.clock.seconds(), self.done - self.counted_from
        self.told |= {"triples": counted, "cpu_s": cpu, "wall_s": self.clock.wall()}
        self.told |= {"per_cpu_s": counted / cpu, "peak_mib": _memory("VmHWM")}
        raise Finished

    def _race(self, sides: Callable[[], Sides] | None) -> None:
        assert self.clock is not None
        if sides is None or self.clock.seconds() < self.stops[0]:
            return
        point = {"cpu_s": self.clock.seconds(), "triples": self.done}
        self.told["points"].append(point)
        point["mrr"] = self.clock.without(lambda: self.judge(sides()))
        while self.stops and self.stops[0] <= point["cpu_s"]:
            del self.stops[0]
        if not self.stops or self._stale():
            self.finish()

    def _stale(self) -> bool:
        found = [point["mrr"] for point in self.told["points"]]
        return len(found) - 1 - int(np.argmax(found)) >= self.job.get("patience", len(found))

    def judge(self, sides: Sides) -> float:
        """The filtered MRR of the first triples of the job's split."""
        graph, asked = self.graph, self.job.get("asked", 2_000)
        triples = getattr(graph, self.job.get("split", "valid"))[:asked]
        known = [graph.train, graph.valid, graph.test]
        return filtered_mrr(sides, triples, known, graph.heads, graph.tails)

    def run(self, peer: Callable[[Track], None]) -> None:
        """Run the peer to its end, and print the line."""
        try:
            peer(self)
            self.finish()
        except Finished:
            print(json.dumps(self.told), flush=True)


def _memory(name: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
