"""Training from disk against training in memory: memory, time a triple, bytes moved, by size.

    python benchmarks/disk_training.py --entities 1000000 2000000 5000000 --triples 2000000

Every size trains one epoch over the same number of power-law triples (user -> pin, user -> user)
with the same number of rows a partition, so that memory should stay as it is while the table grows.
Each contestant is a process of its own. Disk training runs under a limit of the kernel
(RLIMIT_DATA): what it had before it began, what the formula of producers/disk_training.py gives,
and `--slack`; it dies if it takes more. Time is processor time of the process, all its threads, for
other work shares the machine. The last table is arithmetic: what 100M entities need by the formula,
and how many partitions an epoch moves by the order itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from provender.producers.bucket_order import loads, visits
from provender.producers.disk_training import train_on_disk
from provender.producers.edge_streams import BLOCK, EdgeBlock
from provender.producers.finished_table import FinishedTable
from provender.producers.graph import TripleGraph
from provender.producers.trainer import train
from provender.producers.transra_config import TransRAConfig

RESULTS = Path(__file__).with_name("results")
HELD = 3
MIB = 2**20
BYTES_AN_EDGE, BYTES_A_SAMPLED_ROW = 60, 50


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (Relation("click", "user", "pin"), Relation("follows", "user", "user"))


@dataclass(frozen=True)
class PowerLawEdges:
    """Heads uniform, tails by a power law scattered over the ids; a block a seed."""

    entities: int
    triples: int
    relations: tuple[Relation, ...] = RELATIONS

    @property
    def counts(self) -> dict[str, int]:
        return {"user": self.entities // 2, "pin": self.entities - self.entities // 2}

    @property
    def fingerprint(self) -> str:
        return f"power law {self.entities} {self.triples}"

    def blocks(self) -> Iterator[EdgeBlock]:
        users, pins = self.counts.values()
        for start in range(0, self.triples, BLOCK):
            rng = np.random.default_rng(start)
            size = min(BLOCK, self.triples - start)
            relation = rng.integers(0, 2, size)
            ends = np.where(relation == 0, pins, users)
            tail = (ends * rng.random(size) ** 3).astype(np.int64) * 7_919 % ends
            weight = np.ones(size, dtype=np.float32)
            yield EdgeBlock(relation, rng.integers(0, users, size), tail, weight)

    def graph(self) -> TripleGraph:
        block = next(self.blocks())
        order = np.argsort(block.relation, kind="stable")
        offset = np.where(block.relation == 0, self.counts["user"], 0)
        columns = (block.head, block.tail + offset, block.relation, block.weight)
        keys = {entity: pa.nulls(count) for entity, count in self.counts.items()}
        return TripleGraph(RELATIONS, keys, *(torch.from_numpy(one[order]) for one in columns))


def settings(partitions: int, dim: int) -> TransRAConfig:
    return TransRAConfig(
        dim=dim,
        epochs=1,
        chunk_size=1_024,
        negatives=256,
        partitions=partitions,
        partitions_held=HELD,
        principal_axes=False,
        checkpoint_minutes=1_000,
    )


def needed(entities: int, triples: int, partitions: int, dim: int) -> int:
    """Bytes by the formula in producers/disk_training.py."""
    slots = min(partitions, HELD + 1)
    table = slots * -(-entities // partitions) * 4 * (dim + 1)
    edges = max((2 * HELD - 1) / partitions**2, 1 / partitions**2) * triples
    samplers = BYTES_A_SAMPLED_ROW * slots * entities / partitions
    return int(table + min(edges, triples) * BYTES_AN_EDGE + samplers)


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Peak(threading.Thread):
    """The most anonymous memory (no page cache) that this process had since it began to look."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = status("RssAnon")

    def run(self) -> None:
        while True:
            self.most = max(self.most, status("RssAnon"))
            time.sleep(0.02)


def measure(
    answer: Connection,
    kind: str,
    entities: int,
    triples: int,
    partitions: int,
    dim: int,
    slack: int,
) -> None:
    """In a process of its own: train, and send what it took."""
    torch.set_num_threads(1)
    config, edges = settings(partitions, dim), PowerLawEdges(entities, triples)
    tiny = PowerLawEdges(4_000, 4_000)
    train(tiny.graph(), settings(1, dim))  # Libraries allocate once.
    limit = needed(entities, triples, partitions, dim) + slack * MIB
    graph = edges.graph() if kind == "memory" else None
    peak = Peak()
    peak.start()
    began: list[tuple[float, float]] = []

    def note(_: object) -> None:
        if not began:
            began.append((time.process_time(), time.monotonic()))

    if graph is not None:
        train(graph, config, on_progress=note)
    else:
        total = status("VmData") + limit
        resource.setrlimit(resource.RLIMIT_DATA, (total, total))
        # The result is mapped from its file. That takes no memory, but the limit would count it.
        FinishedTable.read = lambda self: None  # type: ignore[method-assign,return-value]
        with tempfile.TemporaryDirectory() as folder:
            train_on_disk(edges, config, Path(folder), whole_below=1_000, on_progress=note)
    used, wall = time.process_time() - began[0][0], time.monotonic() - began[0][1]
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    answer.send(
        {
            "entities": entities,
            "triples": triples,
            "kind": kind,
            "partitions": partitions,
            "table_mib": entities * 4 * (dim + 1) / MIB,
            "limit_mib": limit / MIB if kind == "disk" else None,
            "peak_mib": (peak.most - peak.before) / MIB,
            "cpu_us_a_triple": 1e6 * used / triples,
            "wall_s": wall,
            "loads": loads(visits(partitions, HELD)) if kind == "disk" else 0,
            "read_gib": int(io["rchar"]) / 2**30,
            "written_gib": int(io["wchar"]) / 2**30,
        }
    )


def apart(*what: Any) -> dict[str, Any]:
    """Measure in a forked process: this one has imported all, and computed nothing."""
    ours, theirs = mp.Pipe(duplex=False)
    process = mp.get_context("fork").Process(target=measure, args=(theirs, *what))
    process.start()
    theirs.close()
    try:
        return dict(ours.recv())
    except EOFError:
        raise SystemExit(f"{what} died: was it over its limit?") from None
    finally:
        process.join()


def extrapolated(entities: int, triples: int, partitions: int, dim: int) -> dict[str, Any]:
    moved = loads(visits(partitions, HELD)) * entities / partitions * 4 * (dim + 1)
    return {
        "entities": entities,
        "triples": triples,
        "partitions": partitions,
        "memory_gb": needed(entities, triples, partitions, dim) / 1e9,
        "table_gb": entities * 4 * (dim + 1) / 1e9,
        "disk_gb": (entities * (8 * dim + 4) + 16 * triples) / 1e9,
        "moved_each_way_gb": moved / 1e9,
    }


def report(found: list[dict[str, Any]], large: list[dict[str, Any]]) -> str:
    lines = [
        "| entities | trained | partitions | table MiB | peak MiB (limit) | CPU us a triple "
        "| partitions read | read, written GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        limit = f" ({one['limit_mib']:.0f})" if one["limit_mib"] else ""
        lines.append(
            f"| {one['entities']:,} | {'in memory' if one['kind'] == 'memory' else 'from disk'} "
            f"| {one['partitions']} | {one['table_mib']:.0f} | {one['peak_mib']:.0f}{limit} "
            f"| {one['cpu_us_a_triple']:.1f} | {one['loads']} "
            f"| {one['read_gib']:.2f}, {one['written_gib']:.2f} |"
        )
    lines += [
        "",
        "By the formula, not measured:",
        "",
        "| entities | triples | partitions | memory GB | table GB | disk GB "
        "| read and written an epoch, GB each |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['entities']:,} | {one['triples']:,} | {one['partitions']} "
        f"| {one['memory_gb']:.1f} | {one['table_gb']:.1f} | {one['disk_gb']:.0f} "
        f"| {one['moved_each_way_gb']:.0f} |"
        for one in large
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--entities", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000]
    )
    parser.add_argument("--triples", type=int, default=2_000_000)
    parser.add_argument("--rows", type=int, default=312_500, help="of a partition")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--slack", type=int, default=384, help="MiB beside the formula")
    parser.add_argument("--in-memory-up-to", type=int, default=2_000_000)
    given = parser.parse_args()
    found = []
    for entities in given.entities:
        for kind in ("memory", "disk"):
            if kind == "memory" and entities > given.in_memory_up_to:
                continue
            partitions = -(-entities // given.rows) if kind == "disk" else 1
            what = [kind, entities, given.triples, partitions, given.dim, given.slack]
            found.append(apart(*what))
            print(found[-1], flush=True)
    large = [extrapolated(100_000_000, 1_000_000_000, p, given.dim) for p in (12, 16, 32)]
    RESULTS.joinpath("disk_training.json").write_text(
        json.dumps({"found": found, "by_formula": large}, indent=1) + "\n"
    )
    RESULTS.joinpath("disk_training.md").write_text(report(found, large))
    print(report(found, large))


if __name__ == "__main__":
    main()
