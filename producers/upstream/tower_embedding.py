"""Who gets a vector at a refresh, and the vectors: blocks of users or pins through their tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from provender.plugin.instants import instant
from provender.producers.mapped_rows import gathered
from provender.producers.upstream.config import EmbeddingConfig
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_set import Entity, TowerSet
from provender.producers.upstream.upstream_model import UpstreamModel
from provender.producers.vectors import Vectors

Ints = NDArray[np.int64]
#: Rows that go through a tower at once.
BLOCK = 4096


def active_users(rows: TowerSet, active_days: float) -> Ints:
    """Numbers of the users with an event in so many days before the cut, ascending."""
    return _since(rows.entities("user")["last"], rows.as_of, active_days)


def live_pins(rows: TowerSet, live_days: float | None) -> Ints:
    """Numbers of the pins that there are at the cut, ascending.

    Where a table of pins is declared those in it that have not been taken down; else those with an
    event in so many days, or all.
    """
    pins = rows.entities("pin")
    listed = pins["listed"].combine_chunks()
    if pc.any(listed).as_py():
        now = microseconds(rows.as_of)
        up = pc.fill_null(pc.greater(pins["until"], now), True)
        return _numbers(pc.and_(listed, up.combine_chunks()))
    if live_days is None:
        return np.arange(len(pins), dtype=np.int64)
    return _since(pins["last"], rows.as_of, live_days)


def embed(
    model: UpstreamModel,
    features: TowerFeatures,
    config: EmbeddingConfig,
    entity: Entity,
    on_progress: Callable[[int, int], None],
    scratch: Path | None = None,
) -> Vectors:
    """The vectors of all users or pins that get one, as of the tower set's cut, by key.

    Args:
        model: on its device.
        scratch: a folder that they are mapped from; else they are in memory.
    """
    rows = features.reader.tower_set
    if entity == "user":
        ids = active_users(rows, config.active_days)
    else:
        ids = live_pins(rows, config.live_days)
    blocks = tower_vectors(model, features, entity, ids, rows.as_of, on_progress)
    dim = model.config.model.dim
    return Vectors(rows.keys(entity).take(pa.array(ids)), gathered(blocks, len(ids), dim, scratch))


def tower_vectors(
    model: UpstreamModel,
    features: TowerFeatures,
    entity: Entity,
    ids: Ints,
    as_of: datetime,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[NDArray[np.float32]]:
    """The vectors of users or pins by number, as of one time, in blocks (b, dim)."""
    model.towers.eval()
    inputs = features.users if entity == "user" else features.pins
    tower = model.users if entity == "user" else model.pins
    time = microseconds(as_of)
    with torch.inference_mode():
        for start in range(0, len(ids), BLOCK):
            part = ids[start : start + BLOCK]
            given = inputs(part, np.full(len(part), time)).to(model.device)
            yield tower(given).vector.cpu().numpy()
            on_progress(start + len(part), len(ids))


def microseconds(time: datetime) -> int:
    """A time as tower sets have them."""
    return instant(time) // 1000


def _since(last: pa.ChunkedArray, as_of: datetime, days: float) -> Ints:
    since = microseconds(as_of - timedelta(days=days))
    return _numbers(pc.fill_null(pc.greater_equal(last, since), False).combine_chunks())


def _numbers(chosen: pa.Array) -> Ints:
    return np.flatnonzero(chosen.to_numpy(zero_copy_only=False)).astype(np.int64)
