"""Examples scored: by all three towers, by the vectors alone, and by vectors of a refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from provender.producers.devices import pick_device
from provender.producers.upstream.example_files import ExampleFile
from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.task_figures import (
    TaskFigures,
    probability_figures,
    ranking_figures,
)
from provender.producers.upstream.tower_embedding import microseconds
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_set import TowerSet
from provender.producers.upstream.tower_steps import known_ids
from provender.producers.upstream.upstream_model import UpstreamModel
from provender.producers.vectors import Vectors

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
#: Examples that are scored at once.
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Scored:
    """Examples with their scores, in order of time.

    Attributes:
        tasks: names of the T columns.
        labels, known: float32 and bool (n, T); weight float32 (n,).
        user, pin: int64 (n,), numbers in the tower set; time int64 (n,), microseconds.
        logits: float32 (n, T), of all three towers.
        products: float32 (n,), of the two vectors, with what is known at each row's time.
    """

    tasks: tuple[str, ...]
    labels: Floats
    known: NDArray[np.bool_]
    weight: Floats
    user: Ints
    pin: Ints
    time: Ints
    logits: Floats
    products: Floats

    def since(self, time: int) -> Scored:
        """Those at a time, in microseconds, or later."""
        kept = self.time >= time
        each = {f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name != "tasks"}
        return replace(self, **each)

    def figures(self, task: str) -> TaskFigures:
        """Of the towers' probabilities."""
        column = self.tasks.index(task)
        rows = self.known[:, column]
        predicted = 1 / (1 + np.exp(-self.logits[rows, column].astype(np.float64)))
        return probability_figures(self.labels[rows, column], predicted, self.weight[rows])

    def ranked(self, task: str, scores: Floats, sign: float = 1.0) -> TaskFigures:
        """Of any scores (n,), the higher the likelier; the lower with a sign of -1."""
        column = self.tasks.index(task)
        rows = self.known[:, column]
        labels, weight = self.labels[rows, column], self.weight[rows]
        return ranking_figures(labels, sign * scores[rows], weight)


def score(
    rows: TowerSet,
    features: TowerFeatures,
    model: UpstreamModel,
    device: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    context: bool = True,
) -> Scored:
    """Score all examples of a tower set, each with what is known at its time.

    Args:
        context: whether that of where a pin was shown is seen.
    """
    where = pick_device(device)
    model = model.to(where)
    model.towers.eval()
    hidden = 0.0 if context else 1.0
    stream = ExampleStream(
        rows, features.reader, features.fitted, _BATCH, 0, context_dropout=hidden
    )
    total, parts = stream.count(0), []
    with torch.inference_mode():
        for batch in stream.batches(0, in_order=True):
            parts.append(_scored(model, batch, where))
            on_progress(len(parts), total)
    model.to(torch.device("cpu"))
    columns = zip(*parts, strict=True)
    labels, known, weight, user, pin, logits, products = map(np.concatenate, columns)
    file = ExampleFile(rows)
    time = file.read(range(len(file.rows)), ["time"])["time"].to_numpy()
    tasks = model.layout.tasks
    return Scored(tasks, labels, known, weight, user, pin, time, logits, products)


def refreshed_products(
    rows: TowerSet, scored: Scored, vectors: Mapping[str, Vectors]
) -> tuple[Floats, NDArray[np.bool_]]:
    """The inner products of a refresh's vectors for scored examples, and which have both: (n,).

    One that lacks a vector has the mean product of the others.
    """
    places = {}
    for entity, numbers in (("user", scored.user), ("pin", scored.pin)):
        found = pc.index_in(rows.keys(entity), value_set=vectors[entity].keys)
        places[entity] = np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)[numbers]
    both = (places["user"] >= 0) & (places["pin"] >= 0)
    products = np.zeros(len(both), np.float32)
    users, pins = (vectors[each].vectors[places[each][both]] for each in ("user", "pin"))
    products[both] = np.einsum("ij,ij->i", users, pins)
    products[~both] = products[both].mean() if both.any() else 0
    return products, both


def former_figures(
    rows: TowerSet,
    features: TowerFeatures,
    model: UpstreamModel,
    vectors: Mapping[str, Vectors],
    device: str,
) -> dict[str, float | None]:
    """What the last refresh was worth, by labels that have become known since, for a manifest.

    `auc/<task>`, `log_loss/<task>` and `calibration/<task>` are of the towers; `quality` is the
    mean AUC over liked tasks of the refresh's vectors, which is what downstream rankers have, and
    `quality_popularity` that of how often a pin had been met. Both are of rows from that refresh
    on: of those before, whose labels took longer, its vectors may have seen what became.
    """
    scored = score(rows, features, model, device)
    found: dict[str, float | None] = {}
    for task in scored.tasks:
        figures = scored.figures(task)
        found |= {
            f"auc/{task}": figures.auc,
            f"log_loss/{task}": figures.log_loss,
            f"calibration/{task}": figures.calibration,
        }
    since = microseconds(rows.since or rows.as_of)
    fresh = scored.since(since)
    products, _ = refreshed_products(rows, fresh, vectors)
    liked = model.layout.liked
    found["quality"] = _mean([fresh.ranked(task, products).auc for task in liked])
    met = popularity(rows, since)[fresh.pin]
    found["quality_popularity"] = _mean([fresh.ranked(task, met).auc for task in liked])
    return found


def popularity(rows: TowerSet, before: int) -> Floats:
    """How many events with each pin there were before a time: float32 (pins,)."""
    events = pq.read_table(rows.folder / "events.parquet", columns=["pin", "time"])
    pins = events["pin"].to_numpy()[events["time"].to_numpy() < before]
    count = rows.entities("pin").num_rows
    return np.bincount(pins[pins >= 0], minlength=count).astype(np.float32)


def _scored(model: UpstreamModel, batch: Batch, where: torch.device) -> tuple[Any, ...]:
    users = model.users(known_ids(batch.users, "user", model).to(where))
    pins = model.pins(known_ids(batch.pins, "pin", model).to(where))
    user, pin = batch.user.to(where), batch.pin.to(where)
    logits = model.scores(users, pins, batch.cross.to(where), user, pin)
    products = (users.vector.index_select(0, user) * pins.vector.index_select(0, pin)).sum(1)
    numbers = batch.user_id[batch.user], batch.pin_id[batch.pin]
    tensors = (batch.labels, batch.known, batch.weight, *numbers, logits, products)
    return tuple(each.cpu().numpy() for each in tensors)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
