"""Small logs on disk as worlds, and tower sets as lists of plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.world import World
from provender.producers.upstream.tower_set import TowerSet

Row = dict[str, Any]
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = 3_600_000_000
FIRST = int(START.timestamp()) * 1_000_000


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def seconds(hour: float) -> int:
    return int(at(hour).timestamp())


def micro(hour: float) -> int:
    return FIRST + int(hour * HOUR)


def write_table(folder: Path, name: str, schema: pa.Schema, rows: Sequence[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), folder / f"{name}.parquet")


def world_of(
    tables: Sequence[str] | Mapping[str, str],
    events: Mapping[str, Any],
    *,
    user: str = "int64",
    pin: str = "int64",
    max_bad_share: float = 0.01,
) -> World:
    return World.model_validate(
        {
            "tables": {
                name: {"path": tables[name] if isinstance(tables, Mapping) else f"{name}.parquet"}
                for name in tables
            },
            "entities": {"user": user, "pin": pin, "item": "string"},
            "events": events,
            "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
            "max_bad_share": max_bad_share,
        }
    )


def rows_of(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def examples_of(tower_set: TowerSet) -> list[Row]:
    """The rows of examples with names and keys instead of numbers."""
    users, pins = (tower_set.keys(entity).to_pylist() for entity in ("user", "pin"))
    return [
        row
        | {
            "source": tower_set.sources[row["source"]],
            "user": users[row["user"]],
            "pin": pins[row["pin"]],
        }
        for row in rows_of(tower_set.examples)
    ]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
