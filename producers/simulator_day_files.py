"""Where the rows of a simulated world go: files by day, with what lands later carried over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from provender.producers.simulator_config import SimulatorConfig
from provender.producers.simulator_days import BlockDay, Columns
from provender.producers.simulator_files import (
    CONVERSIONS,
    DAILY_EVENTS,
    DAILY_TRUTH,
    DAY_US,
    ENGAGEMENTS,
    ENTITY_TABLES,
    ID_RANGE,
    SCHEMAS,
    RowGroupFile,
    table,
    vectors,
)
from provender.producers.simulator_topics import Ints


class EntityFiles:
    """The tables of what exists, open for the whole simulation: each cohort adds its rows."""

    def __init__(self, folder: Path, config: SimulatorConfig) -> None:
        paths = {name: folder / "events" / f"{name}.parquet" for name in ENTITY_TABLES}
        if config.truth:
            paths["pin_topics"] = folder / "truth" / "pin_topics.parquet"
        self._open = {
            name: RowGroupFile(path, SCHEMAS[name], config.chunk_rows)
            for name, path in paths.items()
        }

    def add(self, cohort: Iterable[tuple[str, pa.Table]]) -> None:
        """Append the rows of a cohort, each to its table."""
        for name, rows in cohort:
            self._open[name].add(rows)

    def close(self) -> list[RowGroupFile]:
        """Finish the files and return them."""
        for file in self._open.values():
            file.close()
        return list(self._open.values())


class DayFiles:
    """The files of one day after the other.

    An event may land on a later day than what caused it (a conversion after days, a click after
    midnight): it waits in memory for its day, and what would land after the last day never
    happened. What waits is bounded by the attribution window, not by the number of days.
    """

    def __init__(self, folder: Path, config: SimulatorConfig, start: int) -> None:
        self._folder, self._config, self._start = folder, config, start
        self._later: dict[tuple[str, int], list[dict[str, Ints]]] = defaultdict(list)
        self._open: dict[str, RowGroupFile] = {}
        self._day = -1
        self._given: Counter[str] = Counter()
        self.finished: list[RowGroupFile] = []
        kinds = (*ENGAGEMENTS, *CONVERSIONS, "organic save", *(f"organic {k}" for k in CONVERSIONS))
        self.counts: Counter[str] = Counter(dict.fromkeys((*DAILY_EVENTS, *kinds), 0))

    def open(self, day: int) -> None:
        """Begin a day: its files, with what has been waiting for it."""
        self._day, self._given = day, Counter()
        date = (self._config.start + timedelta(days=day)).isoformat()
        places = dict.fromkeys(DAILY_EVENTS, "events")
        if self._config.truth:
            places |= dict.fromkeys(DAILY_TRUTH, "truth")
        for name, place in places.items():
            path = self._folder / place / name / f"{name}-{date}.parquet"
            self._open[name] = RowGroupFile(path, SCHEMAS[name], self._config.chunk_rows)
        for name in ("engagements", "conversions"):
            for columns in self._later.pop((name, day), []):
                self._write(name, columns)

    def add(self, events: BlockDay, users: slice) -> None:
        """The day of the users at these positions."""
        count = len(events.impressions["user_id"])
        ids = self._give_ids("impressions", count)
        self._write("impressions", {**events.impressions, "impression_id": ids})
        if self._config.truth:
            truth = {**events.click_probability, "impression_id": ids}
            self._open["click_probability"].add(table("click_probability", truth))
            interests = {
                "user_id": np.arange(users.start, users.stop),
                "interests": vectors(events.interests),
            }
            self._open["interests"].add(table("interests", interests))
        self._land("engagements", events.engagements, ids)
        self._land("conversions", events.conversions, ids)

    def _give_ids(self, name: str, count: int) -> Ints:
        first = (self._day + 1) * ID_RANGE + self._given[name]
        self._given[name] += count
        return np.arange(first, first + count)

    def _land(self, name: str, columns: Columns, ids: Ints) -> None:
        """Write what lands today; keep what lands on another day that is simulated."""
        local = columns["impression_id"]
        caused = local >= 0
        known = np.full(len(local), -1)
        known[caused] = ids[local[caused]]
        columns = {**columns, "impression_id": known}
        landing = (columns["event_timestamp"] - self._start) // DAY_US
        for day in np.unique(landing[landing < self._config.days]).tolist():
            rows = landing == day
            part = {column: values[rows] for column, values in columns.items()}
            if day == self._day:
                self._write(name, part)
            else:
                self._later[name, day].append(part)

    def _write(self, name: str, columns: Columns) -> None:
        if name == "conversions":
            ids = self._give_ids(name, len(columns["event_timestamp"]))
            columns = {**columns, "conversion_id": ids}
        rows = table(name, columns)
        self._count(name, rows)
        self._open[name].add(rows)

    def _count(self, name: str, rows: pa.Table) -> None:
        self.counts[name] += len(rows)
        if name == "impressions":
            return
        kinds = rows.select(["type"]).append_column("organic", pc.is_null(rows["impression_id"]))
        for row in kinds.group_by(["type", "organic"]).aggregate([([], "count_all")]).to_pylist():
            prefix = "organic " if row["organic"] else ""
            self.counts[prefix + row["type"]] += row["count_all"]

    def close(self) -> None:
        """End the day."""
        for file in self._open.values():
            file.close()
        self.finished += self._open.values()
