from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import FeatureStore

from tests.consumers.kitchen import FEASTS, OURS, TIME, Kitchen, Version, hours, stocked
from tests.plugin.online_world import open_world


@pytest.fixture(params=[OURS, FEASTS], ids=["provender", "feast"])
def kitchen(tmp_path: Path, request: pytest.FixtureRequest) -> Kitchen:
    return stocked(tmp_path / "kitchen", request.param)


@pytest.fixture
def store(kitchen: Kitchen) -> FeatureStore:
    return kitchen.store()


@pytest.fixture
def impressions() -> Callable[..., pa.Table]:
    """Make a table of impressions from (user, pin, hour) rows."""

    def made(rows: Sequence[tuple[int, int, float]], **context: Sequence[Any]) -> pa.Table:
        columns = {
            "impression_id": pa.array(range(len(rows)), pa.int64()),
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "pin_id": pa.array([row[1] for row in rows], pa.int64()),
            "event_timestamp": pa.array([hours(row[2]) for row in rows], TIME),
            **{name: pa.array(values) for name, values in context.items()},
        }
        return pa.table(columns)

    return made


@pytest.fixture(params=["sqlite", "postgres"])
def served_kitchen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kitchen]:
    """Version 1 and two more: 2 stays in its space, 3 has another dim and a space of its own.

    Every vector says its version: all of its floats are the number. Each version was refreshed
    two days in, and nothing is applied, loaded or released yet.
    """
    world = open_world(request.param, tmp_path)
    versions = [Version(1), Version(2, anchored_to=1), Version(3, dim=6)]
    made = Kitchen(tmp_path / "kitchen", url=world.url, project=world.project, snapshots=True)
    if request.param == "sqlite":
        made.url = ""
    made.folder.mkdir()
    made.versions = versions
    for entity, keys in (("user", (1, 2)), ("pin", (10, 11, 12))):
        rows = [(key, hours(24), hours(24), (key, key / 100)) for key in keys]
        made.write(entity, rows, vectors=False)
    for version in versions:
        vector = [float(version.number)] * version.dim
        keyed = {"user": dict.fromkeys((1, 2), vector), "pin": dict.fromkeys((10, 11), vector)}
        made.snapshot(version, hours(48), keyed)
    try:
        yield made
    finally:
        if request.param == "postgres":
            world.tear_down()


@pytest.fixture
def released(served_kitchen: Kitchen) -> FeatureStore:
    """The three versions applied and loaded; none released."""
    store = served_kitchen.store()
    store.materialize(hours(-1), hours(49))
    return store
