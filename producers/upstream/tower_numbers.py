"""Numbers of users, pins and pairs as of a time: counts, recencies, ages, columns.

Each source of numbers reads several at once, as float32 (m,) each, NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.producers.upstream.declarations import (
    CountDeclaration,
    NumberDeclaration,
    PairFeatures,
    RecencyDeclaration,
)
from provender.producers.upstream.event_index import Kinds
from provender.producers.upstream.scales import Kind, Numbers
from provender.producers.upstream.timed_rows import NEVER, Ints, TimedRows
from provender.producers.upstream.tower_set import ALWAYS, TowerSet

DAY = 86_400_000_000
#: What recencies and ages are told in: their logarithm tells minutes as well as months apart.
MINUTE = 60_000_000


class Number(NamedTuple):
    """A column of numbers: how it is scaled, and whether a flag says that it is missing."""

    name: str
    scale: Kind
    flagged: bool = True


def number_names(numbers: Sequence[Number]) -> list[str]:
    """The columns of `Inputs.numbers`: the numbers, then the flags of those that may be missing."""
    flags = [f"{number.name}_missing" for number in numbers if number.flagged]
    return [*(number.name for number in numbers), *flags]


class NumberSource(Protocol):
    """Numbers that are read together."""

    @property
    def numbers(self) -> Sequence[Number]:
        """What is read, in order."""

    def read(self, rows: Ints, times: Ints) -> Sequence[Numbers]:
        """Each number as of each row's time (microseconds): float32 (m,)."""


@dataclass(frozen=True, eq=False)
class EventNumbers:
    """Counts in windows, and how long ago the newest was, of events of some types."""

    rows: TimedRows
    counts: Mapping[str, float | None]
    recencies: Sequence[str]

    @property
    def numbers(self) -> list[Number]:
        """As :class:`NumberSource`."""
        return [
            *(Number(f"count_{name}", "log", flagged=False) for name in self.counts),
            *(Number(f"recency_{name}", "log") for name in self.recencies),
        ]

    def read(self, rows: Ints, times: Ints) -> list[Numbers]:
        """As :class:`NumberSource`: of a window of d days those at or after d days before."""
        start = self.rows.offsets[rows]
        end = self.rows.before_within(start, self.rows.offsets[rows + 1], times)
        windows: dict[float | None, Ints] = {None: start}
        since = end
        for days in sorted({days for days in self.counts.values() if days is not None}):
            # A longer window begins before all shorter ones.
            since = self.rows.before_within(start, since, times - round(days * DAY))
            windows[days] = since
        read = [(end - windows[days]).astype(np.float32) for days in self.counts.values()]
        if self.recencies:
            age = (times - self.rows.times[end - 1]) / MINUTE
            recency = np.where(end > start, age, np.nan).astype(np.float32)
            read += [recency] * len(self.recencies)
        return read


def event_numbers(rows: Mapping[Kinds, TimedRows], declared: PairFeatures) -> list[EventNumbers]:
    """The declared counts and recencies, by the types of events that they look at."""
    return [
        EventNumbers(
            of_kinds,
            {name: each.days for name, each in declared.counts.items() if each.events == kinds},
            [name for name, each in declared.recency.items() if each.events == kinds],
        )
        for kinds, of_kinds in rows.items()
    ]


def kinds_of(declared: PairFeatures) -> list[Kinds]:
    """The sets of event types that counts and recencies look at, each once."""
    each: Iterable[CountDeclaration | RecencyDeclaration] = [
        *declared.counts.values(),
        *declared.recency.values(),
    ]
    return list(dict.fromkeys(one.events for one in each))


@dataclass(frozen=True, eq=False)
class Ages:
    """How long ago an entity first appeared, where that was known by then: `first` int64 (n,)."""

    first: Ints

    @classmethod
    def of(cls, entities: pa.Table) -> Ages:
        """Of pins from the time that their table tells, else from their first event on."""
        first = pc.fill_null(entities["first"], NEVER)
        if "since" in entities.column_names:
            first = pc.coalesce(entities["since"], first)
        return cls(first.to_numpy())

    @property
    def numbers(self) -> list[Number]:
        """As :class:`NumberSource`."""
        return [Number("age", "log")]

    def read(self, rows: Ints, times: Ints) -> list[Numbers]:
        """As :class:`NumberSource`."""
        first = self.first[rows]
        known = (first < times) & (first > ALWAYS)
        age = (times - np.where(known, first, times)) / MINUTE
        return [np.where(known, age, np.nan).astype(np.float32)]


@dataclass(frozen=True, eq=False)
class NumberColumn:
    """A column of an entity: its newest value before; `values` float32 (e + 1,)."""

    name: str
    scale: Kind
    rows: TimedRows
    values: Numbers

    @classmethod
    def open(
        cls, tower_set: TowerSet, entity: str, name: str, declared: NumberDeclaration, count: int
    ) -> NumberColumn:
        """The column of `count` users or pins."""
        rows, values = timed_column(tower_set, entity, "number", name, count)
        numbers = pc.fill_null(values.cast(pa.float32()), float("nan"))
        return cls(name, declared.scale, rows, np.append(numbers.to_numpy(), np.float32(np.nan)))

    @property
    def numbers(self) -> list[Number]:
        """As :class:`NumberSource`."""
        return [Number(f"number_{self.name}", self.scale)]

    def read(self, rows: Ints, times: Ints) -> list[Numbers]:
        """As :class:`NumberSource`."""
        newest, known = self.rows.newest(rows, times)
        return [np.where(known, self.values[newest], np.float32(np.nan))]


def timed_column(
    tower_set: TowerSet, entity: str, kind: str, name: str, count: int
) -> tuple[TimedRows, pa.ChunkedArray]:
    """When the values of a column became known, by entity, and the values in that order."""
    table = pq.read_table(tower_set.column(entity, kind, name))
    times = np.append(table["time"].to_numpy(), NEVER)
    return TimedRows.of_sorted(table["id"].to_numpy(), times, count), table["value"]
