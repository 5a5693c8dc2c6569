"""Impressions of the kitchen's users and pins, each of which can be told from the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.consumers.features import RankerBatch
from provender.consumers.user_history import History, HistorySpec
from tests.consumers.kitchen import TIME, hours


def shown(rows: int, seed: int = 0) -> pa.Table:
    """`rows` impressions in no order; their number is their id and their `place`."""
    random = np.random.default_rng(seed)
    times = [hours(float(hour)) for hour in random.integers(-2, 120, rows)]
    labels = random.integers(0, 3, (2, rows))
    return pa.table(
        {
            "impression_id": pa.array(random.permutation(rows)),
            "user_id": pa.array(random.integers(1, 4, rows)),
            "pin_id": pa.array(random.integers(10, 14, rows)),
            "event_timestamp": pa.array(times, TIME),
            "click": pa.array(labels[0] % 2, pa.int8(), mask=labels[0] == 2),
            "conversion": pa.array(labels[1] % 2, pa.int8(), mask=labels[1] == 2),
            "click_weight": pa.array(random.random(rows).astype(np.float32)),
        }
    ).append_column("number", pa.array(range(rows)))


def numbers(batches: Iterable[RankerBatch]) -> list[list[int]]:
    """The rows of each batch."""
    return [batch.context["number"].to_pylist() for batch in batches]


def tensors_of(batch: RankerBatch) -> dict[str, Tensor]:
    """All tensors of a batch by name."""
    found: dict[str, Tensor] = {"dense": batch.dense, "dense_present": batch.dense_present}
    for name in ("vectors", "present", "age_seconds", "labels", "weights"):
        found |= {f"{name} {key}": tensor for key, tensor in getattr(batch, name).items()}
    if batch.history is not None:
        found["items"], found["ages"] = batch.history.items, batch.history.age_seconds
    return found


def same(left: RankerBatch, right: RankerBatch) -> bool:
    """Whether two batches are equal to the last bit."""
    ours, theirs = tensors_of(left), tensors_of(right)
    return (
        ours.keys() == theirs.keys()
        and all(torch.equal(ours[n].nan_to_num(-1), theirs[n].nan_to_num(-1)) for n in ours)
        and left.context == right.context
        and left.keys == right.keys
    )


class Clock:
    """A past that tells user and time of the row that it was asked for."""

    spec = HistorySpec(length=1, kinds=("seen",))

    def histories(self, users: pa.Array, times: Any) -> History:
        items = torch.from_numpy(users.to_numpy().astype(np.int64))[:, None]
        ages = torch.from_numpy((times // 3_600_000_000 % 1000).astype(np.float32))[:, None]
        return History(items, torch.zeros_like(items), ages, pa.array(range(5)))
