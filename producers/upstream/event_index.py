"""The events of a tower set by user, by pin and by pair, for each set of event types asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.errors import MappingError
from provender.plugin.tables import literal
from provender.producers.upstream.spool import Spool
from provender.producers.upstream.timed_rows import NEVER, PairRows, TimedRows
from provender.producers.upstream.tower_set import TowerSet

#: Event types that are looked at together.
Kinds = tuple[str, ...]
_BATCH = 2**17
_Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class EventLog:
    """Users' events with what they are: entries by user, time, event and pin.

    Attributes:
        kinds: how many event types were asked for.
        rows: by user.
        event: int16 (e + 1,), index in them.
        pin: int32 (e + 1,), -1 for none.
    """

    kinds: int
    rows: TimedRows
    event: NDArray[np.int16]
    pin: NDArray[np.int32]


def user_rows(tower_set: TowerSet, kinds: Iterable[Kinds], count: int) -> dict[Kinds, TimedRows]:
    """The times of `count` users' events, for each set of types.

    Raises MappingError for an event type that the tower set does not have.
    """
    return _by_row(tower_set, kinds, "user", count)


def pin_rows(tower_set: TowerSet, kinds: Iterable[Kinds], count: int) -> dict[Kinds, TimedRows]:
    """The same by pin."""
    return _by_row(tower_set, kinds, "pin", count)


def pair_rows(tower_set: TowerSet, kinds: Iterable[Kinds], pins: int) -> dict[Kinds, PairRows]:
    """The same by pair of user and pin."""
    found = _spooled(tower_set, kinds, "user, pin", lambda part: part["user"] * pins + part["pin"])
    return {kind: PairRows.of_sorted(rows, times, pins) for kind, (rows, times) in found.items()}


def event_log(tower_set: TowerSet, kinds: Kinds, count: int) -> EventLog:
    """The events of some types of `count` users."""
    places = _places(tower_set, kinds)
    users, times, events, pins = (
        Spool(dtype, tower_set.folder) for dtype in ("i4", "i8", "i2", "i4")
    )
    for part in _in_order(tower_set, "user"):
        event = places[part["event"]]
        kept = event >= 0
        for spool, values in zip(
            (users, times, events, pins),
            (part["user"], part["time"], event, part["pin"]),
            strict=True,
        ):
            spool.append(values[kept])
    for spool, end in ((times, NEVER), (events, -1), (pins, -1)):
        spool.append(np.array([end]))
    rows = TimedRows.of_sorted(users.mapped(), times.mapped(), count)
    return EventLog(len(kinds), rows, events.mapped(), pins.mapped())


def _by_row(
    tower_set: TowerSet, kinds: Iterable[Kinds], entity: str, count: int
) -> dict[Kinds, TimedRows]:
    found = _spooled(tower_set, kinds, entity, lambda part: part[entity])
    return {kind: TimedRows.of_sorted(rows, times, count) for kind, (rows, times) in found.items()}


def _spooled(
    tower_set: TowerSet, kinds: Iterable[Kinds], order: str, row_of: Any
) -> dict[Kinds, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and times of the events of each set of types, sorted by both, in one pass."""
    places = {kind: _places(tower_set, kind) for kind in dict.fromkeys(kinds)}
    if not places:
        return {}
    spools = {
        kind: (Spool("i8", tower_set.folder), Spool("i8", tower_set.folder)) for kind in places
    }
    for part in _in_order(tower_set, order):
        rows = row_of(part)
        for kind, (row_spool, time_spool) in spools.items():
            kept = places[kind][part["event"]] >= 0
            row_spool.append(rows[kept])
            time_spool.append(part["time"][kept])
    for _, times in spools.values():
        times.append(np.array([NEVER]))
    return {kind: (rows.mapped(), times.mapped()) for kind, (rows, times) in spools.items()}


def _places(tower_set: TowerSet, kinds: Kinds) -> NDArray[np.int16]:
    """The place of each of the set's event types among some of them, -1 for none."""
    unknown = [kind for kind in kinds if kind not in tower_set.events]
    if unknown:
        raise MappingError(
            "upstream.features",
            found=f"the event {unknown[0]}",
            expected=f"one of {', '.join(tower_set.events)}, whose head is a user",
            remedy="Correct the name, or declare the event.",
        )
    return np.array(
        [kinds.index(name) if name in kinds else -1 for name in tower_set.events], np.int16
    )


def _in_order(tower_set: TowerSet, order: str) -> Iterator[_Columns]:
    """All events with a row of the order, by it and time, in parts; user and pin as int64."""
    path = tower_set.folder / "events.parquet"
    if order == "user":
        with pq.ParquetFile(path) as file:
            yield from map(_columns, file.iter_batches(_BATCH))
        return
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = {literal(str(tower_set.folder / '.sorting'))}")
        events = f"read_parquet({literal(str(path))})"
        rows = connection.sql(f"SELECT * FROM {events} WHERE pin >= 0 ORDER BY {order}, time")
        yield from map(_columns, rows.to_arrow_reader(_BATCH))


def _columns(batch: Any) -> _Columns:
    found = {name: batch[name].to_numpy() for name in ("user", "pin", "event", "time")}
    return found | {name: found[name].astype(np.int64) for name in ("user", "pin")}
