"""Small tower sets made by hand, and the strategies that make them at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from provender.plugin.history import History
from provender.plugin.spec import EmbeddingSpec
from provender.producers.upstream.tower_set import ALWAYS, TowerSet
from provender.producers.upstream.view_vectors import ViewVectors

HOUR = 3_600_000_000
DAY = 24 * HOUR
T0 = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
#: No set has anything at or after it.
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
EVENTS = ("impression", "click", "save")
SOURCES = ("shown", "bought")
TASKS = ("click", "buy")


class Event(NamedTuple):
    user: int
    time: int
    event: int
    pin: int


class Example(NamedTuple):
    time: int
    source: int
    user: int
    pin: int
    labels: tuple[int | None, ...] = (0, None)
    weight: float = 1.0
    position: float | None = None
    surface: list[str] | None = None


@dataclass(frozen=True)
class World:
    """What goes into a tower set; columns are rows of (id, time or ALWAYS, value)."""

    users: int = 3
    pins: int = 4
    events: Sequence[Event] = ()
    examples: Sequence[Example] = ()
    since: Sequence[int | None] | None = None
    columns: Mapping[tuple[str, str, str], Sequence[tuple[int, int, Any]]] = field(
        default_factory=dict
    )
    group: int = 16_384

    def but(self, **changes: Any) -> World:
        return replace(self, **changes)

    def spans(self, entity: str) -> list[tuple[int | None, int | None]]:
        """The first and the last time of each user or pin, of events and examples."""
        rows: list[Any] = [*self.events, *self.examples]
        times = [
            [row.time for row in rows if getattr(row, entity) == number]
            for number in range(self.users if entity == "user" else self.pins)
        ]
        return [(min(each, default=None), max(each, default=None)) for each in times]


def write_set(folder: Path, world: World) -> TowerSet:
    """Write a tower set as the contract has it; keys are 10, 20, ... and p00, p01, ..."""
    (folder / "keys").mkdir(parents=True)
    (folder / "columns").mkdir()
    for entity, keys in (
        ("user", pa.array([10 * (n + 1) for n in range(world.users)], pa.int64())),
        ("pin", pa.array([f"p{n:02d}" for n in range(world.pins)], pa.string())),
    ):
        first, last = zip(*world.spans(entity), strict=True) if len(keys) else ((), ())
        table = {"key": keys, "first": pa.array(first, pa.int64()), "last": _int64(last)}
        if entity == "pin":
            since = world.since or [None] * world.pins
            table |= {"since": _int64(since), "until": _int64([None] * world.pins)}
            table["listed"] = pa.array([each is not None for each in since])
        pq.write_table(pa.table(table), folder / "keys" / f"{entity}.parquet")
    events = sorted(world.events)
    pq.write_table(
        pa.table(
            {
                "user": pa.array([each.user for each in events], pa.int32()),
                "pin": pa.array([each.pin for each in events], pa.int32()),
                "event": pa.array([each.event for each in events], pa.int16()),
                "time": _int64([each.time for each in events]),
            }
        ),
        folder / "events.parquet",
        row_group_size=5,
    )
    write_examples(folder, world)
    for (entity, kind, name), rows in world.columns.items():
        values = pa.float32() if kind == "number" else pa.list_(pa.string())
        rows = sorted(rows, key=lambda row: row[:2])
        table = {
            "id": pa.array([row[0] for row in rows], pa.int32()),
            "time": _int64([row[1] for row in rows]),
            "value": pa.array([row[2] for row in rows], values),
        }
        pq.write_table(pa.table(table), folder / "columns" / f"{entity}_{kind}_{name}.parquet")
    tower_set = TowerSet(folder, AS_OF, None, EVENTS, SOURCES, TASKS, {})
    tower_set.write_about(folder)
    return TowerSet.open(folder)


def write_examples(folder: Path, world: World) -> None:
    rows = sorted(world.examples, key=lambda row: row[:3])
    columns = {
        "source": pa.array([row.source for row in rows], pa.int16()),
        "user": pa.array([row.user for row in rows], pa.int32()),
        "pin": pa.array([row.pin for row in rows], pa.int32()),
        "time": _int64([row.time for row in rows]),
        "weight": pa.array([row.weight for row in rows], pa.float32()),
        **{
            f"label_{task}": pa.array([row.labels[place] for row in rows], pa.int8())
            for place, task in enumerate(TASKS)
        },
        "number_position": pa.array([row.position for row in rows], pa.float32()),
        "category_surface": pa.array([row.surface for row in rows], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), folder / "examples.parquet", row_group_size=world.group)


def view_vectors(
    name: str,
    entity: str,
    rows: Sequence[tuple[int, int, list[float]]],
    ttl: timedelta = timedelta(days=1000),
) -> ViewVectors:
    """Vectors of rows of (number, event time in microseconds, vector), as if they were pulled."""
    spec = EmbeddingSpec.declare(
        name=name,
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=len(rows[0][2]),
        space="s",
        producer="p",
        ttl=ttl,
    )
    ids, times = (np.array([row[place] for row in rows], np.int64) for place in (0, 1))
    vectors = np.array([row[2] for row in rows], np.float32)
    history = History(ids, times * 1000, None)
    return ViewVectors(
        spec, history, np.arange(len(rows)), vectors, ttl // timedelta(microseconds=1) * 1000
    )


def _int64(values: Sequence[int | None]) -> pa.Array:
    return pa.array(values, pa.int64())


#: Few times, on and about the edges of hours and days, so that ties abound.
TIMES = st.builds(
    lambda hours, step: T0 + hours * HOUR + step,
    st.integers(0, 24 * 4).map(lambda hours: hours // 6 * 6 + (hours % 6 == 5)),
    st.integers(-1, 1),
)


def events(users: int = 3, pins: int = 4) -> st.SearchStrategy[Event]:
    """Events of a few users with a few pins, or with none."""
    return st.builds(
        Event,
        user=st.integers(0, users - 1),
        time=TIMES,
        event=st.integers(0, len(EVENTS) - 1),
        pin=st.integers(-1, pins - 1),
    )


def examples(users: int = 3, pins: int = 4) -> st.SearchStrategy[Example]:
    """Examples of the same users and pins."""
    label = st.sampled_from([0, 1, None])
    return st.builds(
        Example,
        time=TIMES,
        source=st.integers(0, len(SOURCES) - 1),
        user=st.integers(0, users - 1),
        pin=st.integers(0, pins - 1),
        labels=st.tuples(label, label),
        position=st.sampled_from([None, 0.0, 1.0, 5.0, float("nan"), float("inf")]),
        surface=st.sampled_from([None, [], ["home"], ["search"], ["home", "search"]]),
    )


ALWAYS_OR_TIME = st.one_of(st.just(ALWAYS), TIMES)
assert ALWAYS < T0
