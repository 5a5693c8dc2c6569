"""The world's events as rows of users and pins: those that features look at, and all between both.

What an event is, which of its rows are bad and what stops a reading are TransRA's own rules.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from provender.plugin.tables import columns_of, explained
from provender.producers.event_checks import refuse_repeated, refuse_time_zone_mix
from provender.producers.event_mapping import EventDeclaration
from provender.producers.event_sql import Cut, normalised
from provender.producers.linksage.judged_rows import counts_by_reason
from provender.producers.upstream.declarations import FeatureDeclarations
from provender.producers.upstream.entity_keys import numbered
from provender.producers.upstream.tower_rows import Reading, Report, check_share

SCHEMA = pa.schema(
    [("user", pa.int32()), ("pin", pa.int32()), ("event", pa.int16()), ("time", pa.int64())]
)


def needed_events(
    features: FeatureDeclarations, events: Mapping[str, EventDeclaration]
) -> tuple[str, ...]:
    """Those that features name and those between user and pin, in the order of the world."""
    towers = (features.user, features.pin, features.pair)
    named = {name for each in towers for one in each.counts.values() for name in one.events}
    named |= {name for each in towers for one in each.recency.values() for name in one.events}
    if features.user.sequence is not None:
        named |= set(features.user.sequence.events)
    return tuple(name for name, one in events.items() if name in named or _is_deed(one))


def is_of_pins(event: EventDeclaration) -> bool:
    """Whether its tails are pins."""
    return event.tail_entity == "pin"


def read_event(reading: Reading, name: str, event: EventDeclaration) -> tuple[str, Report]:
    """Read an event's rows before the cut.

    Returns SQL of the good ones, `user`, `pin` (null where the tail is none) and `time`, and how
    many of them there are and were dropped.

    Raises MappingError, SourceError or BadRowsError as producers/events.py does.
    """
    columns = columns_of(reading.connection, event.table)
    cut = Cut(reading.as_of, now=reading.as_of)
    select = normalised(name, event, columns, reading.world.entities, cut)
    with explained(f"events.{name} (table {event.table})"):
        rows = reading.copy(select, f"event_{name}")
        refuse_time_zone_mix(reading.connection, name, event, rows)
        refuse_repeated(
            reading.connection, name, event, f"(SELECT * FROM {rows} WHERE reason IS NULL)"
        )
    pin = "tail" if is_of_pins(event) else reading.no_key("pin")
    good = (
        f"(SELECT head AS user, {pin} AS pin, epoch_us(time) AS time "
        f"FROM {rows} WHERE reason IS NULL)"
    )
    dropped, kept = counts_by_reason(reading.connection, rows), reading.count(good)
    check_share(reading, f"events.{name}", dropped, kept)
    return good, {"rows": kept, "dropped": dropped}


def write_events(reading: Reading, events: Mapping[str, str]) -> None:
    """Write events.parquet (tower_set.TowerSet).

    Args:
        events: name -> SQL of its rows, in the order of their indices.
    """
    every = " UNION ALL ".join(
        f"SELECT user, pin, {index} AS event, time FROM {rows}"
        for index, rows in enumerate(events.values())
    )
    reading.write(
        "SELECT u.number AS user, coalesce(p.number, -1) AS pin, event, time "
        f"FROM ({every}) e JOIN {numbered(reading, 'user')} u ON u.key = e.user "
        f"LEFT JOIN {numbered(reading, 'pin')} p ON p.key = e.pin "
        "ORDER BY u.number, time, event, p.number",
        SCHEMA,
        reading.staged / "events.parquet",
    )


def _is_deed(event: EventDeclaration) -> bool:
    return event.head_entity == "user" and is_of_pins(event) and event.time is not None
