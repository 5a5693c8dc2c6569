"""Entities that today's events know no longer: kept aside for their return, or expired by rule.

They come into no snapshot: its rows are as of its time, and a vector that is carried from one into
the next would pass for a day old for ever. What was published of them stays in the stores, as old
as it is, until the view's ttl is over. What lies here is for the refreshes to come: who returns
starts from, and is held to, the place where it was, and not the mean of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import CheckpointError
from provender.producers.vectors import Vectors, from_table, to_table

#: Their folder beside a run's vectors; runs from before there was one lack it.
VANISHED = "vanished"
_SEEN = "last_seen"
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, eq=False)
class Vanished:
    """Of one entity type: vectors by key, and as of when each was last in the events (UTC)."""

    vectors: Vectors
    last_seen: pa.Array[Any]

    @classmethod
    def between(cls, former: Vectors, keys: pa.Array[Any], as_of: datetime) -> Vanished:
        """The former vectors, those as of a time, of whom is not among the keys."""
        seen = pa.repeat(pa.scalar(as_of, _TIME), len(former.keys))
        return cls(former, seen).without(keys)

    def without(self, keys: pa.Array[Any]) -> Vanished:
        """Those who are not among the keys."""
        return self._where(pc.invert(pc.is_in(self.vectors.keys, value_set=keys)))

    def since(self, time: datetime) -> Vanished:
        """Those last seen at a time or later."""
        return self._where(pc.greater_equal(self.last_seen, pa.scalar(time, _TIME)))

    def and_(self, other: Vanished) -> Vanished:
        """Both, which have no key in common, by key."""
        table = pa.concat_tables([self._table(), other._table()]).sort_by("key")
        return _of(table)

    def _where(self, chosen: pa.Array[Any]) -> Vanished:
        return _of(self._table().filter(chosen))

    def _table(self) -> pa.Table:
        return to_table(self.vectors).append_column(_SEEN, self.last_seen)


def carried(
    former: Mapping[str, Vectors],
    vanished: Mapping[str, Vanished],
    former_as_of: datetime,
    keys: Mapping[str, pa.Array[Any]],
    as_of: datetime,
    keep_days: float | None,
) -> dict[str, Vanished]:
    """Who is to be kept aside as of a time, by entity type.

    Args:
        former: the last refresh's vectors, as of `former_as_of`.
        vanished: who was kept aside then.
        keys: today's entities.
        keep_days: for how long after they were last seen; None for ever, 0 not at all.
    """
    found = {}
    for entity, vectors in former.items():
        now = keys.get(entity, vectors.keys.slice(0, 0))
        if now.type != vectors.keys.type:
            continue  # The warm start will refuse it.
        gone = Vanished.between(vectors, now, former_as_of)
        if entity in vanished:
            gone = gone.and_(vanished[entity].without(now))
        if keep_days is not None:
            gone = gone.since(as_of - timedelta(days=keep_days))
        if len(gone.last_seen):
            found[entity] = gone
    return found


def save_vanished(folder: Path, vanished: Mapping[str, Vanished]) -> None:
    """Write them into the folder VANISHED of an existing folder."""
    (folder / VANISHED).mkdir()
    for entity, gone in vanished.items():
        pq.write_table(gone._table(), folder / VANISHED / f"{entity}.parquet")


def load_vanished(folder: Path) -> dict[str, Vanished]:
    """Read back what `save_vanished` wrote; raises CheckpointError."""
    try:
        paths = sorted((folder / VANISHED).glob("*.parquet"))
        return {path.stem: _of(pq.read_table(path)) for path in paths}
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise CheckpointError(
            f"vanished entities in {folder / VANISHED}",
            found=str(error),
            expected="the Parquet files that the run wrote",
            remedy="Remove that folder; who returns is then new.",
        ) from None


def _of(table: pa.Table) -> Vanished:
    return Vanished(from_table(table), table[_SEEN].combine_chunks())
