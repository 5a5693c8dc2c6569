"""What the event reader gives: triples, keys and a report, together in one folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import CheckpointError
from provender.plugin.files import stamp

EVENTS, IDS, REJECTED, REPORT = "events.parquet", "ids", "rejected", "report.json"
TIME = pa.timestamp("us", tz="UTC")
TRIPLES = pa.schema(
    [
        ("relation", pa.int16()),
        ("head", pa.int64()),
        ("tail", pa.int64()),
        ("time", TIME),
        ("weight", pa.float32()),
    ]
)
ROW_GROUP = 1 << 20


@dataclass(frozen=True)
class Relation:
    """One event type as a relation: its name and the entity types at its ends."""

    name: str
    head: str
    tail: str


@dataclass(frozen=True)
class EventCount:
    """Of one event: the rows kept, and the bad ones by reason."""

    kept: int
    bad: dict[str, int]

    @property
    def bad_share(self) -> float:
        """Bad rows as a share of all rows before the as-of time."""
        bad = sum(self.bad.values())
        return bad / (bad + self.kept) if bad else 0.0


@dataclass(frozen=True)
class ReadReport:
    """What was read of each event."""

    events: dict[str, EventCount]

    @property
    def kept(self) -> int:
        """The good rows of all events."""
        return sum(count.kept for count in self.events.values())

    @property
    def bad(self) -> int:
        """The rows set aside, of all events."""
        return sum(sum(count.bad.values()) for count in self.events.values())


@dataclass(frozen=True)
class EventSet:
    """All events before an as-of time as typed triples of ids.

    `folder` holds events.parquet (the triples), ids/<entity>.parquet (id, key),
    rejected/<event>.parquet (bad rows, where there are any) and report.json.
    """

    folder: Path
    as_of: datetime
    window: tuple[datetime, datetime]
    relations: tuple[Relation, ...]
    counts: dict[str, int]
    report: ReadReport

    @classmethod
    def open(cls, folder: Path) -> EventSet:
        """Open what `write_report` and its reader wrote; raises CheckpointError."""
        try:
            content = json.loads((folder / REPORT).read_bytes())
            start, end = (datetime.fromisoformat(time) for time in content["window"])
            return cls(
                folder=folder,
                as_of=datetime.fromisoformat(content["as_of"]),
                window=(start, end),
                relations=tuple(Relation(**relation) for relation in content["relations"]),
                counts=content["counts"],
                report=ReadReport(
                    {name: EventCount(**count) for name, count in content["events"].items()}
                ),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"events {folder}",
                found=f"{type(error).__name__}: {error}",
                expected=f"the events of a run, with their {REPORT}",
                remedy="Run the producer again for this as-of date.",
            ) from None

    def since(self, former: EventSet) -> pa.Table:
        """The events from the former set's as-of time on between entities that it knows.

        The same as reading that window of the log anew (`events.read_window`), as far as this set
        was read from the same log.

        Returns:
            relation int16, head and tail int64: the former set's numbers.
        """
        known = {entity: self._numbers_in(former, entity) for entity in self.counts}
        names = [relation.name for relation in former.relations]
        later = pq.read_table(
            self.folder / EVENTS,
            columns=["relation", "head", "tail"],
            filters=pc.field("time") >= pa.scalar(former.as_of, TIME),
        )
        parts = [later.slice(0, 0)]
        for index, one in enumerate(self.relations):
            if one not in former.relations:
                continue
            here = later.filter(pc.field("relation") == index)
            head, tail = (
                known[entity][here[end].to_numpy()]
                for end, entity in (("head", one.head), ("tail", one.tail))
            )
            both = (head >= 0) & (tail >= 0)
            number = np.full(both.sum(), names.index(one.name), np.int16)
            columns = {"relation": number, "head": head[both], "tail": tail[both]}
            parts.append(pa.table(columns, schema=later.schema))
        return pa.concat_tables(parts)

    def _numbers_in(
        self, former: EventSet, entity: str
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The number that the former set gives each entity, -1 for those that it does not know."""
        if entity not in former.counts:
            return np.full(self.counts[entity], -1, np.int64)
        found = pc.index_in(self.keys(entity), value_set=former.keys(entity))
        return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)

    def keys(self, entity: str) -> pa.Array:
        """The keys of ids 0..n-1, sorted: int64, or string in the order of its UTF-8 bytes."""
        table = pq.read_table(self.folder / IDS / f"{entity}.parquet", columns=["key"])
        return table["key"].combine_chunks()

    def triples(self) -> pa.Table:
        """The triples (see TRIPLES), ordered by relation, time, head, tail and weight."""
        return pq.read_table(self.folder / EVENTS)

    def write_report(self, folder: Path) -> None:
        """Write report.json: what was read, kept and set aside, for people and programs."""
        content = {
            "as_of": self.as_of.isoformat(),
            "window": [time.isoformat() for time in self.window],
            "relations": [asdict(relation) for relation in self.relations],
            "counts": self.counts,
            "events": {name: asdict(count) for name, count in self.report.events.items()},
        }
        (folder / REPORT).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def events_folder(work: Path, as_of: datetime) -> Path:
    """Return where in a reader's folder the events before a time lie or will lie."""
    return work / f"events-{stamp(as_of)}"


def write_batches(reader: pa.RecordBatchReader, writer: pq.ParquetWriter) -> int:
    """Append the rows in row groups of a fixed size, so that equal rows give equal bytes."""
    pending: list[pa.RecordBatch] = []
    rows = written = 0
    for batch in reader:
        pending.append(batch)
        rows += len(batch)
        while rows >= ROW_GROUP:
            table = pa.Table.from_batches(pending)
            writer.write_table(_plain(table.slice(0, ROW_GROUP), writer.schema))
            pending = table.slice(ROW_GROUP).to_batches()
            rows, written = rows - ROW_GROUP, written + ROW_GROUP
    if rows:
        writer.write_table(_plain(pa.Table.from_batches(pending), writer.schema))
    return written + rows


def _plain(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.cast(schema).combine_chunks()
