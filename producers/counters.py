"""Counters: how often an entity was in events of each role, the ordinary features of a ranker.

They are counted from the same events as the embeddings, cut at the same as-of time, so a ranker's
baseline knows neither more nor less than its rival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import MappingError
from provender.plugin.files import stamp, whole_file
from provender.plugin.tables import literal
from provender.producers.events import EventSet

#: The roles an event can have for a ranker; each is counted over all time and over RECENT.
ROLES = ("impressions", "clicks", "conversions")
RECENT = timedelta(days=7)


def write_counters(
    events: EventSet,
    roles: Mapping[str, Sequence[str]],
    entity: str,
    join_key: str,
    out: Path,
) -> Path:
    """Count the events of every entity and write ``<out>/<entity>_counters/<as-of>.parquet``.

    The columns are the join key, event_timestamp (the as-of time), created_timestamp and, for each
    role, ``<role>`` and ``<role>_7d`` (int64): events with the entity at either end, before the
    as-of time. The file is whole or not there.

    Raises:
        MappingError: a role or an event that is not declared.
    """
    _check(events, roles)
    path = counters_path(out, entity, events.as_of)
    table = _counted(events, roles, entity, join_key)
    with whole_file(path) as staged:
        pq.write_table(table, staged)
    return path


def counters_path(out: Path, entity: str, as_of: datetime) -> Path:
    """Return where an entity's counters as of a time lie or will lie."""
    return out / f"{entity}_counters" / f"{stamp(as_of)}.parquet"


def _check(events: EventSet, roles: Mapping[str, Sequence[str]]) -> None:
    known = {relation.name for relation in events.relations}
    for role, names in roles.items():
        unknown = sorted(set(names) - known)
        if role not in ROLES or unknown:
            raise MappingError(
                f"section counters, {role}",
                found=", ".join(unknown) or f"a role {role!r}",
                expected=f"events of the world ({', '.join(sorted(known))})"
                if unknown
                else f"one of {', '.join(ROLES)}",
                remedy="Correct the counters section of the world file.",
            )


def _counted(
    events: EventSet, roles: Mapping[str, Sequence[str]], entity: str, join_key: str
) -> pa.Table:
    """Return the counters in the order of the entity's keys; who was in no event has zeros."""
    keys = events.keys(entity)
    counted = _count(events, roles, entity)
    time = pa.timestamp("us", tz="UTC")
    columns = {
        join_key: keys,
        "event_timestamp": pa.repeat(pa.scalar(events.as_of, time), len(keys)),
        "created_timestamp": pa.repeat(pa.scalar(datetime.now(UTC), time), len(keys)),
    }
    return pa.table(columns | {name: counted[name] for name in counted.column_names})


def _count(events: EventSet, roles: Mapping[str, Sequence[str]], entity: str) -> pa.Table:
    """Count by role for ids 0..n-1: int64 columns, in the order of the ids."""
    recent = int((events.as_of - RECENT).timestamp() * 1_000_000)
    triples = literal(str(events.folder / "events.parquet"))
    ends = [
        f"select {end} as id, relation, time from {triples} "
        f"where relation in ({_ids(events, entity, end)})"
        for end in ("head", "tail")
    ]
    sums = []
    for role in ROLES:
        of_role = f"relation in ({_numbers(events, roles.get(role, ()))})"
        sums.append(f'count(*) filter (where {of_role}) as "{role}"')
        sums.append(
            f'count(*) filter (where {of_role} and epoch_us(time) >= {recent}) as "{role}_7d"'
        )
    names = ", ".join(
        f'coalesce("{role}{span}", 0)::bigint as "{role}{span}"'
        for role in ROLES
        for span in ("", "_7d")
    )
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        counts = f"select id, {', '.join(sums)} from ({' union all '.join(ends)}) group by id"
        everyone = f"range({len(events.keys(entity))}) as everyone(id)"
        query = f"select {names} from {everyone} left join ({counts}) using (id) order by id"
        return connection.sql(query).to_arrow_table()


def _ids(events: EventSet, entity: str, end: str) -> str:
    """List the relations with the entity at that end; -1 stands for none."""
    return _joined([i for i, one in enumerate(events.relations) if getattr(one, end) == entity])


def _numbers(events: EventSet, names: Sequence[str]) -> str:
    return _joined([i for i, one in enumerate(events.relations) if one.name in names])


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "-1"
