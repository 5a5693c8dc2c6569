"""Towers: examples trained a second, plainly written and provender's; a million users embedded.

    OMP_NUM_THREADS=1 python benchmarks/upstream_speed.py

Training: 50k users and 50k pins with learned rows of 32, counts and recencies of three events, a
category and a view of 64 each, the last 50 deeds with their pins' view; half of the examples are
visits of eight impressions, half purchases with four drawn negatives each; the default
configuration, 1,024 examples a step. Plain is what one would write first (upstream_plain.py): the
same parameters and loss, features row by row, each row through its towers, padded sequences,
nn.Embedding and torch.optim.Adam over everything. `as_of` says what users' features are taken as
of. All take turns in one process with one thread, from Parquet (plain: from memory) to the updated
parameters; figures are medians of examples by processor time, least to most of the turns.

Embedding: the users of a saved model, one thread, from the files to the vectors. The roofline is
the time that the tower's floating-point operations take at the rate of torch.mm on the same core.
Writes benchmarks/results/upstream_speed.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from upstream_plain import Collate, PlainExamples, PlainTraining
from upstream_world import Sizes, open_features, write_world

from provender.producers import onednn
from provender.producers.checkpoint import Position
from provender.producers.memory import keep_freed_memory
from provender.producers.upstream.batch_shares import Place
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.tower_embedding import BLOCK, microseconds, tower_vectors
from provender.producers.upstream.tower_steps import TowerSteps
from provender.producers.upstream.tower_training_state import TowerTrainingState
from provender.producers.upstream.upstream_model import UpstreamModel

RESULTS = Path(__file__).parent / "results"
CONFIG = UpstreamConfig()
SIZE = CONFIG.training.batch_size
AsOf = Literal["instant", "hour"]
AS_OF: tuple[AsOf, ...] = ("instant", "hour")
#: Saves and clicks of a user in the month: as the simulator has them, and of busier users.
DEEDS = (28, 100)
#: One step: the examples that it was of, and the distinct users and pins among them.
Step = Callable[[], Batch]
#: Batches of a turn.
PLAIN, OURS = 4, 12


def ours(reader: FeatureReader, fitted: Fitted) -> Step:
    """provender's steps over its stream."""
    stream = ExampleStream(reader.tower_set, reader, fitted, SIZE, 0)
    model = untrained(reader, fitted)
    steps = TowerSteps(CONFIG, None, torch.device("cpu"), Place())
    state, numbers = TowerTrainingState.start(model), count()
    batches = (batch for epoch in count() for batch in stream.batches(epoch))

    def step() -> Batch:
        number, batch = next(numbers), next(batches)
        steps.step(state, batch, Position(0, number, number), 10_000)
        return batch

    return step


def plain(reader: FeatureReader, fitted: Fitted) -> Step:
    """The plain steps over the plain examples, whose logits are looked at first."""
    examples = PlainExamples(reader, fitted)
    training = PlainTraining(untrained(reader, fitted), examples, fitted)
    _check_same(training, examples, reader, fitted)
    batches = (batch for _ in count() for batch in training.loader)

    def step() -> Batch:
        batch: Batch = next(batches)
        training.step(batch)
        return batch

    return step


def untrained(reader: FeatureReader, fitted: Fitted) -> UpstreamModel:
    """A model with id tables of its own."""
    _, tables = open_tables[id(reader)]
    copies = {name: table.grown(table.keys, None, 0) for name, table in tables.items()}
    return UpstreamModel.new(CONFIG, reader.using(fitted).layout, copies, 1)


#: The id tables that were opened with a reader.
open_tables: dict[int, tuple[FeatureReader, Any]] = {}


def _check_same(
    training: PlainTraining, examples: PlainExamples, reader: FeatureReader, fitted: Fitted
) -> None:
    stream = ExampleStream(reader.tower_set, reader, fitted, SIZE, 0)
    collated = Collate(examples, fitted)([examples[row] for row in range(SIZE)])
    shared = next(stream.batches(0, in_order=True))
    logits = []
    for model, batch in ((untrained(reader, fitted), shared), (training.model, collated)):
        with torch.no_grad():
            users, pins = model.users(batch.users), model.pins(batch.pins)
            logits.append(model.scores(users, pins, batch.cross, batch.user, batch.pin))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def trained(folder: Path, deeds: int, as_of: AsOf, turns: int) -> list[dict[str, Any]]:
    """Rates of the contestants, which take turns; the first turn does not count."""
    users = Sizes().users
    rows = write_world(folder, Sizes(deeds=deeds * users))
    reader, tables = open_features(rows, as_of=as_of)
    open_tables[id(reader)] = reader, tables
    fitted = reader.fit(0)
    field = {
        "plain: rows, padded, dense Adam": (plain(reader, fitted), PLAIN),
        "provender": (ours(reader, fitted), OURS),
    }
    rates: dict[str, list[float]] = {label: [] for label in field}
    towered: dict[str, tuple[float, float]] = {}
    for turn in range(turns + 1):
        for label, (step, batches) in field.items():
            began = time.process_time()
            seen = [step() for _ in range(batches)]
            rate = sum(map(len, seen)) / (time.process_time() - began)
            rates[label] += [rate] if turn else []
            users, pins = (
                statistics.mean(len(getattr(batch, name)) for batch in seen)
                for name in ("users", "pins")
            )
            towered[label] = users, pins
    first = statistics.median(next(iter(rates.values())))
    return [
        {
            "label": label,
            "as_of": as_of,
            "deeds_a_user": deeds,
            "examples_a_second": statistics.median(found),
            "least": min(found),
            "most": max(found),
            "times": statistics.median(found) / first,
            "users_a_batch": towered[label][0],
            "pins_a_batch": towered[label][1],
        }
        for label, found in rates.items()
    ]


def embedded(folder: Path, users: int) -> dict[str, Any]:
    """A saved model's user vectors: how long it takes, and what of that the products need."""
    sizes = Sizes(users=users, visits=2_000, purchases=3_000, deeds=10 * users, impressions=users)
    rows = write_world(folder / "large", sizes)
    reader, tables = open_features(rows)
    fitted = reader.fit(0)
    features = reader.using(fitted)
    UpstreamModel.new(CONFIG, features.layout, tables, 1).save(folder / "model")
    model = UpstreamModel.load(folder / "model")
    began = time.process_time()
    total = sum(
        len(b) for b in tower_vectors(model, features, "user", np.arange(users), rows.as_of)
    )
    seconds = time.process_time() - began
    part = np.arange(BLOCK) * (users // BLOCK)
    times = np.full(BLOCK, microseconds(rows.as_of))
    decode, tower, rate = [], [], []
    with torch.inference_mode():
        for _ in range(8):
            decode.append(_seconds(lambda: features.users(part, times)))
            given = features.users(part, times)
            tower.append(_seconds(lambda given=given: model.users(given)))
            rate.append(_product_rate())
        with mock.patch.object(onednn, "LINEAR", None), FlopCounterMode(display=False) as counter:
            model.users(features.users(part, times))
    products = counter.get_total_flops() / BLOCK / statistics.median(rate)
    shares = {"decode": statistics.median(decode), "tower": statistics.median(tower)}
    return {
        "users": total,
        "actions": 10 * users,
        "users_a_second": total / seconds,
        "flops_a_user": counter.get_total_flops() / BLOCK,
        "mm_gflops_a_second": statistics.median(rate) / 1e9,
        "roofline_fraction": products * total / seconds,
        "roofline_fraction_of_tower": products * BLOCK / shares["tower"],
        "decode_share": shares["decode"] / sum(shares.values()),
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _product_rate() -> float:
    """Operations a second of torch.mm on matrices of the tower's sizes."""
    left, right = torch.randn(BLOCK, 512), torch.randn(512, 128)
    torch.mm(left, right)
    return 20 * 2 * BLOCK * 512 * 128 / _seconds(lambda: [torch.mm(left, right) for _ in range(20)])


def table(found: list[dict[str, Any]], embedding: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        "| deeds a user | features as of | training | examples/s of one core | least to most "
        "| against plain | rows of users and pins a batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        rate, times = f"{one['examples_a_second']:,.0f}", f"{one['times']:.1f}x"
        span = f"{one['least']:,.0f} to {one['most']:,.0f}"
        towered = f"{one['users_a_batch']:,.0f} and {one['pins_a_batch']:,.0f}"
        world = f"{one['deeds_a_user']} | {one['as_of']}"
        lines.append(f"| {world} | {one['label']} | {rate} | {span} | {times} | {towered} |")
    told = embedding
    lines += [
        "",
        "| embedding | |",
        "|---|---|",
        f"| users | {told['users']:,} |",
        f"| users/s of one core | {told['users_a_second']:,.0f} |",
        f"| of the time, decoding features | {told['decode_share']:.0%} |",
        f"| MFLOP a user | {told['flops_a_user'] / 1e6:.2f} |",
        f"| torch.mm, GFLOP/s | {told['mm_gflops_a_second']:.0f} |",
        f"| of the whole, what products need at that rate | {told['roofline_fraction']:.0%} |",
        f"| of the tower alone | {told['roofline_fraction_of_tower']:.0%} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--users", type=int, default=1_000_000, help="to embed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        folders = (Path(scratch) / str(number) for number in count())
        found = [
            one
            for deeds in DEEDS
            for as_of in AS_OF
            for one in trained(next(folders), deeds, as_of, given.turns)
        ]
        embedding = embedded(Path(scratch), given.users)
    about = {
        "turns": given.turns,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "sizes": asdict(Sizes()),
        "training": found,
        "embedding": embedding,
    }
    (RESULTS / "upstream_speed.json").write_text(json.dumps(about, indent=2) + "\n")
    (RESULTS / "upstream_speed.md").write_text(table(found, embedding))
    print(table(found, embedding))


if __name__ == "__main__":
    main()
