"""Who has left the events is kept aside for as long as the rule says, and returns where it was."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError
from provender.plugin.home import Home
from provender.producers.parent_quality import load_run
from provender.producers.refresh import refresh
from provender.producers.vanished import VANISHED, carried, load_vanished, save_vanished
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent, align
from tests.producers.refresh_world import RefreshWorld, day, make_world, quiet
from tests.producers.test_optimizer_state import _graph

START = datetime(2026, 3, 1, tzinfo=UTC)


def _vectors(keys: set[int]) -> Vectors:
    """A vector that tells its key."""
    return Vectors(
        pa.array(sorted(keys), pa.int64()), np.array(sorted(keys), np.float32).reshape(-1, 1)
    )


def _keys(keys: set[int]) -> dict[str, pa.Array]:
    return {"user": pa.array(sorted(keys), pa.int64())}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sets(st.integers(0, 9)), min_size=2, max_size=6),
    st.sampled_from([None, 0.0, 1.0, 2.0]),
)
def test_days_of_coming_and_going_equal_a_dictionary(
    days: list[set[int]], keep: float | None
) -> None:
    last_seen: dict[int, int] = {}
    aside: dict[str, Any] = {}
    for number, (before, now) in enumerate(pairwise(days)):
        time = START + timedelta(days=number)
        aside = carried(
            {"user": _vectors(before)}, aside, time, _keys(now), time + timedelta(days=1), keep
        )
        last_seen |= dict.fromkeys(before, number)
        last_seen = {
            key: seen
            for key, seen in last_seen.items()
            if key in now or keep is None or number + 1 - seen <= keep
        }
        expected = {key: seen for key, seen in sorted(last_seen.items()) if key not in now}
        found = aside.get("user")
        if not expected:
            assert found is None
            continue
        assert found is not None
        assert found.vectors.keys.to_pylist() == list(expected)
        assert found.vectors.vectors[:, 0].tolist() == list(expected)
        assert [(t - START).days for t in found.last_seen.to_pylist()] == list(expected.values())
        for key in now:
            last_seen.pop(key, None)


def test_who_returns_is_known_where_it_was() -> None:
    graph = _graph(3)
    aside = carried({"user": _vectors({1, 2})}, {}, START, _keys({1}), START, None)
    reference = align(graph, 1, Parent({"user": _vectors({0})}, vanished=aside))
    assert reference.known.tolist() == [True, False, True, *[False] * 6]
    assert reference.vectors[:3, 0].tolist() == [0, 0, 2]
    assert (
        Parent({"user": _vectors({0})}).fingerprint
        != Parent({"user": _vectors({0})}, vanished=aside).fingerprint
    )


def test_they_survive_the_file(tmp_path: Path) -> None:
    assert load_vanished(tmp_path) == {}
    aside = carried({"user": _vectors({1, 2})}, {}, START, _keys(set()), START, None)
    save_vanished(tmp_path, aside)
    loaded = load_vanished(tmp_path)["user"]
    assert loaded.vectors.keys.equals(aside["user"].vectors.keys)
    assert loaded.last_seen.equals(aside["user"].last_seen)
    (tmp_path / VANISHED / "user.parquet").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="who returns is then new"):
        load_vanished(tmp_path)


def _without(world: RefreshWorld, pins: list[int]) -> None:
    """Take all events of some pins out of the log, as a log that is cut off loses them."""
    path = world.home.data / "log.parquet"
    log = pq.read_table(path)
    pq.write_table(log.filter(pc.invert(pc.is_in(log["pin_id"], pa.array(pins)))), path)


def test_a_pin_that_leaves_the_log_and_comes_back(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home")
    world.settings(anchor_entities="frozen", keep_vanished_days=2)
    first = refresh(world.job(), day(2), quiet)
    whole = world.home.data / "whole.parquet"
    shutil.copy(world.home.data / "log.parquet", whole)
    _without(world, [7, 11])
    second = refresh(world.job(), day(3), quiet)
    published = next(s for s in second.snapshots if s.manifest.entity == "pin")
    assert not {7, 11} & set(published.read()[0].to_pylist())
    was = load_run(world.job(), first.run_id).vectors["pin"]
    kept = load_run(world.job(), second.run_id).vanished["pin"]
    assert kept.vectors.keys.to_pylist() == [7, 11]
    assert kept.last_seen.to_pylist() == [day(2), day(2)]
    rows = pc.index_in(kept.vectors.keys, value_set=was.keys).to_numpy()
    assert np.array_equal(kept.vectors.vectors, was.vectors[rows])

    shutil.copytree(world.root, tmp_path / "forgetful")
    shutil.move(whole, world.home.data / "log.parquet")
    third = refresh(world.job(), day(4), quiet)
    now = load_run(world.job(), third.run_id)
    assert "pin" not in now.vanished
    rows = pc.index_in(kept.vectors.keys, value_set=now.vectors["pin"].keys).to_numpy()
    assert np.array_equal(now.vectors["pin"].vectors[rows], kept.vectors.vectors)

    forgetful = RefreshWorld(Home(tmp_path / "forgetful"))  # Still without them, days later.
    for number, gone in ((4, True), (5, False)):
        run_id = refresh(forgetful.job(), day(number), quiet).run_id
        assert ("pin" in load_run(forgetful.job(), run_id).vanished) is gone
