"""What towers are trained on and look at, as files of one folder: what the reader writes.

Entities are numbered by their sorted keys: user u is row u of keys/user.parquet. Times are int64
microseconds since 1970 in UTC. Nothing at or after the cut is in any of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Report = dict[str, Any]
Entity = Literal["user", "pin"]
#: What there are towers of.
ENTITIES: tuple[Entity, ...] = ("user", "pin")
#: Of what is known always: earlier than any time.
ALWAYS = -(2**63)
#: Rows of a row group of examples: what is read, and shuffled, as one.
GROUP = 16_384


@dataclass(frozen=True)
class TowerSet:
    """Canonical tables in a folder.

    Attributes:
        folder: of the files.
            keys/user.parquet, keys/pin.parquet: `key` (int64 or string, ascending, unique), all
            users and pins of events, sources and the table of pins; `first`, `last` (int64, of
            their events and source rows; null for none). Of pins `since`, `until` (int64 or null,
            of the table of pins) and `listed` (bool: in the table of pins).
            events.parquet, by user, time, event and pin: `user` (int32), `pin` (int32, -1 where
            the event's tail is no pin), `event` (int16, index in `events`), `time` (int64).
            Only events whose head is a user.
            examples.parquet, by time, source, user and row (a drawn negative after its positive),
            in row groups of GROUP: `source` (int16, index in `sources`), `user`, `pin` (int32),
            `time` (int64), `weight` (float32), `label_<task>` (int8 0 or 1; null: not known, or
            no task of this source, or learned by a former refresh), and, of each number and
            category of any source's context, `number_<name>` (float32 or null) and
            `category_<name>` (list<string> or null).
            columns/<entity>_number_<name>.parquet: `id` (int32), `time` (int64, ALWAYS without
            one), `value` (float32), by id and time, one row an id and time.
            columns/<entity>_category_<name>.parquet: likewise, `value` (list<string>).
        as_of: the cut.
        since: the last refresh's cut: labels that were known by then are null; None for none.
        events, sources, tasks: names, in the order of their indices.
        report: rows kept, dropped by reason, positives and unknown labels, by source.
    """

    folder: Path
    as_of: datetime
    since: datetime | None
    events: tuple[str, ...]
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    report: Report

    def keys(self, entity: str) -> pa.Array:
        """Keys of `user` or `pin` by number."""
        return self.entities(entity)["key"].combine_chunks()

    def entities(self, entity: str) -> pa.Table:
        """The table of `user` or `pin`."""
        return pq.read_table(self.folder / "keys" / f"{entity}.parquet")

    @property
    def examples(self) -> Path:
        """The file of examples."""
        return self.folder / "examples.parquet"

    def column(self, entity: str, kind: str, name: str) -> Path:
        """The file of a `number` or `category` of an entity."""
        return self.folder / "columns" / f"{entity}_{kind}_{name}.parquet"

    def write_about(self, folder: Path) -> None:
        """Write about.json beside the files."""
        told: Mapping[str, Any] = {
            "as_of": self.as_of.isoformat(),
            "since": self.since.isoformat() if self.since else None,
            "events": self.events,
            "sources": self.sources,
            "tasks": self.tasks,
            "report": self.report,
        }
        (folder / "about.json").write_text(json.dumps(told, indent=1), "utf-8")

    @classmethod
    def open(cls, folder: Path) -> TowerSet:
        """What a reader has written to the folder; raises OSError, ValueError or KeyError."""
        told = json.loads((folder / "about.json").read_text("utf-8"))
        since = told["since"]
        return cls(
            folder,
            datetime.fromisoformat(told["as_of"]),
            datetime.fromisoformat(since) if since else None,
            tuple(told["events"]),
            tuple(told["sources"]),
            tuple(told["tasks"]),
            told["report"],
        )
