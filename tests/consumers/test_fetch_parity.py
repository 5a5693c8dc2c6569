"""For the same instant the online fetch and the training join give the same tensors.

Vectors, presence, dense numbers and histories to the last bit; ages to a microsecond, as far as
their 32 bits can say it: the join counts them in nanoseconds, the online store in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from feast import FeatureStore

from provender.consumers.action_log import ActionLog
from provender.consumers.features import RankerBatch
from provender.consumers.log_columns import micros
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.training_join import training_join
from provender.consumers.user_history import Action, History
from provender.plugin.releases import Releases, ReleaseWatch
from tests.consumers.kitchen import TIME, Kitchen, Version, hours, some_ranker
from tests.consumers.moves import move
from tests.consumers.test_action_log import KINDS, Row, loaded
from tests.plugin.online_world import open_world

USERS, PINS = (1, 2, 3), tuple(range(10, 22))
SPAN = 60  # hours


def refreshes(kitchen: Kitchen, version: Version, seed: int) -> None:
    """Three refreshes in the span, each with some of the users and pins; some pins have none."""
    generator = np.random.default_rng(seed)
    for hour in (0, 20, 40):
        held: dict[str, dict[int, list[float]]] = {}
        for entity, keys in (("user", USERS[:-1]), ("pin", PINS[:-2])):
            some = [key for key in keys if generator.random() < 0.7] or [keys[0]]
            held[entity] = {key: generator.normal(size=version.dim).tolist() for key in some}
        kitchen.snapshot(version, hours(hour), held)


@pytest.fixture(params=["sqlite", "postgres", "hot"])
def parted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kitchen]:
    """Two versions over the span, the second in the space of the first; not yet loaded."""
    kind = "postgres" if request.param == "postgres" else "sqlite"
    opened = open_world(kind, tmp_path)
    made = Kitchen(tmp_path / "kitchen", project=opened.project, snapshots=True)
    made.url = opened.url if kind == "postgres" else ""
    if request.param == "hot":
        made.stores = made.stores.replace('url: "{url}"', 'url: "{url}"\n  hot: hot')
    made.folder.mkdir()
    made.versions = [Version(1), Version(2, anchored_to=1)]
    generator = np.random.default_rng(9)
    for entity, keys in (("user", USERS), ("pin", PINS)):
        rows = [
            (key, hours(hour), hours(hour), (int(generator.integers(50)), generator.random()))
            for key in keys
            for hour in (0, 30)
            if generator.random() < 0.8
        ]
        made.write(entity, rows, vectors=False)
    for version in made.versions:
        refreshes(made, version, version.number)
    try:
        yield made
    finally:
        if kind == "postgres":
            opened.tear_down()


def acted(seed: int) -> list[Row]:
    generator = np.random.default_rng(seed)
    return [
        (
            int(generator.choice(USERS)),
            int(generator.choice([*PINS, 99])),
            hours(float(generator.integers(0, SPAN * 60)) / 60),
            str(generator.choice(KINDS)),
        )
        for _ in range(40)
    ]


def offline(
    store: FeatureStore, service: str, log: ActionLog, user: int, pins: Sequence[int], at: datetime
) -> RankerBatch:
    table = pa.table(
        {
            "impression_id": range(len(pins)),
            "user_id": [user] * len(pins),
            "pin_id": list(pins),
            "event_timestamp": pa.array([at] * len(pins), TIME),
            "place": ["home"] * len(pins),
        }
    )
    return training_join(store, table, service, backfills=True, actions=log).rows


def same(trained: RankerBatch, served: RankerBatch) -> None:
    assert list(trained.vectors) == list(served.vectors)
    for view, vectors in trained.vectors.items():
        assert torch.equal(vectors, served.vectors[view])
        assert torch.equal(trained.present[view], served.present[view])
        ages = trained.age_seconds[view].double(), served.age_seconds[view].double()
        torch.testing.assert_close(*ages, rtol=2**-23, atol=1e-6, equal_nan=True)
    assert torch.equal(trained.dense, served.dense)
    assert torch.equal(trained.dense_present, served.dense_present)
    assert {name: column.to_pylist() for name, column in trained.context.items()} == {
        name: column.to_pylist() for name, column in served.context.items()
    }
    assert trained.history is not None
    assert served.history is not None
    same_past(trained.history, served.history)


def same_past(trained: History, served: History) -> None:
    for name in ("items", "kinds", "age_seconds"):
        assert torch.equal(getattr(trained, name), getattr(served, name))
    assert trained.keys.equals(served.keys)
    assert list(trained.vectors) == list(served.vectors)
    for view, vectors in trained.vectors.items():
        assert torch.equal(vectors, served.vectors[view])
        assert torch.equal(trained.present[view], served.present[view])


def instants(seed: int, number: int) -> list[datetime]:
    """Random ones in order, for an online store only goes forward; among them an edge."""
    generator = np.random.default_rng(seed)
    steps = sorted(generator.integers(0, SPAN * 3_600_000_000, number).tolist())
    return [hours(0) + timedelta(microseconds=step) for step in steps] + [hours(SPAN)]


def compare(
    store: FeatureStore, fetcher: OnlineFetcher, log: ActionLog, rows: Sequence[Row], at: datetime
) -> tuple[int, int]:
    """Compare requests as of the fetcher's time; returns how many vectors and actions there were.

    The versions that the fetcher reads are those that `log` looks up.
    """
    found, past = 0, 0
    service = fetcher.layout.service
    generator = np.random.default_rng(micros(at) % 1000)
    for user in (*USERS, 9):
        pins = [int(pin) for pin in generator.choice([*PINS, 99], size=7)]
        history = [Action(pin, kind, time) for who, pin, time, kind in rows if who == user and time]
        served = fetcher.fetch(user, pins, {"place": "home"}, history)
        trained = offline(store, service, log, user, pins, at)
        same(trained, served)
        for name in ("user_id", "pin_id"):
            assert trained.keys[name].equals(served.keys[name])
        assert served.history is not None
        found += int(
            served.present["pin_test_v1"].sum() + served.history.present["pin_test_v1"].sum()
        )
        past += int((served.history.items[0] >= 0).sum())
    return found, past


def test_a_store_materialized_at_an_instant_gives_what_the_join_gives(
    parted: Kitchen, tmp_path: Path
) -> None:
    store, rows = parted.store(), acted(3)
    log = loaded(tmp_path, rows).with_vectors(store, "rich", backfills=True)
    begun, found, past = hours(-1), 0, 0
    for at in instants(4, 3):
        store.materialize(begun, at)
        copied = parted.folder.glob("hot/*_test_v?/current")
        assert len(list(copied)) == (4 if "hot:" in parted.stores else 0)
        fetcher = OnlineFetcher(store, "rich", now=at, history=log.spec)
        vectors, actions = compare(store, fetcher, log, rows, at)
        found, past = found + vectors, past + actions
    assert found > 20
    assert past > 10


def test_a_released_second_version_is_read_for_candidates_and_the_past_alike(
    parted: Kitchen, tmp_path: Path
) -> None:
    store, rows, at = parted.store(), acted(5), hours(50)
    store.materialize(hours(-1), at)
    learned = some_ranker(store, "rich", accepts_anchored=True)
    watch = ReleaseWatch(Releases.of(store), seconds=0)
    log = loaded(tmp_path, rows)
    fetcher = OnlineFetcher(store, "rich", ranker=learned, now=at, watch=watch, history=log.spec)
    pins = list(PINS)
    history = [Action(pin, kind, time) for who, pin, time, kind in rows if who == 1 and time]
    for live in (1, 2):
        move(store, live=live)
        served = fetcher.fetch(1, pins, {"place": "home"}, history)
        assert served.versions == {"tests": live}
        service = "rich" if live == 1 else "rich_v2"
        seen = log.with_vectors(store, service, backfills=True)
        trained = offline(store, service, seen, 1, pins, at)
        assert served.history is not None
        assert trained.history is not None
        for entity in ("user", "pin"):
            theirs = trained.vectors[f"{entity}_test_v{live}"]
            assert torch.equal(served.vectors[f"{entity}_test_v1"], theirs)
        theirs = trained.history.vectors[f"pin_test_v{live}"]
        assert torch.equal(served.history.vectors["pin_test_v1"], theirs)
        assert torch.equal(served.history.items, trained.history.items)
        assert theirs.any()
