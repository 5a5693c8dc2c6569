"""The reader of upstream towers: declared tables in, the files of a TowerSet before the cut out.

DuckDB reads, judges, joins and sorts out of core; no row becomes a Python object. What lies at or
after the cut changes no byte of any file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from provender.plugin.errors import ConfigError, SourceError
from provender.plugin.files import whole_folder
from provender.plugin.tables import explained, open_tables
from provender.plugin.world import World
from provender.producers.event_mapping import EventDeclaration, EventMapping
from provender.producers.upstream.declarations import (
    FeatureDeclarations,
    LabelDeclaration,
    TowerSources,
    check_declared,
    default_features,
)
from provender.producers.upstream.drawn_negatives import pools
from provender.producers.upstream.entity_columns import write_columns
from provender.producers.upstream.entity_keys import read_listings, write_pins, write_users
from provender.producers.upstream.event_rows import (
    is_of_pins,
    needed_events,
    read_event,
    write_events,
)
from provender.producers.upstream.example_rows import Drawing, source_examples, write_examples
from provender.producers.upstream.source_rows import read_source
from provender.producers.upstream.tower_rows import Reading, Report
from provender.producers.upstream.tower_set import TowerSet


def read_tower_set(
    declared: TowerSources,
    world: World,
    data: Path,
    folder: Path,
    as_of: datetime,
    *,
    since: datetime | None = None,
    start: datetime | None = None,
    seed: int = 0,
    memory_limit: str = "2GB",
) -> TowerSet:
    """Read what is known before `as_of` into `folder`, which is there whole or not at all.

    Over refreshes that follow one another each label of each row is in one of their sets: a label
    is known when its window has passed, and is null where it was known by `since` already.

    Args:
        declared: sources and features; without features `default_features` counts.
        world: its tables, events and entities.
        data: the folder that tables' paths are relative to.
        folder: where the files will be; it must not be there yet.
        as_of: the cut, timezone-aware; a row at this very moment is not read.
        since: that of the last refresh; None for none.
        start: rows of sources before it are no examples; None takes all.
        seed: of what is left out by `rate` and `negative_rate`, and of drawn negatives.
        memory_limit: what DuckDB may hold in memory.

    Raises:
        MappingError: a declaration that does not fit the world or its tables.
        SourceError: a table that can't be read, or no example at all (with `since` there may be
            none: nothing has become known).
        BadRowsError: more bad rows of a table than the world allows.
        ConfigError: a time without a zone.
        FileExistsError: the folder is there already.
    """
    for name, time in (("as_of", as_of), ("since", since), ("start", start)):
        _check_zone(name, time)
    check_declared(declared, world)
    events = EventMapping.from_world(world).events
    features = declared.features or default_features(
        {n: (e.head_entity, e.tail_entity) for n, e in events.items() if e.time is not None}
    )
    needed = {name: events[name] for name in needed_events(features, events)}
    with whole_folder(folder.parent, folder) as staged:
        with _opened(declared, features, needed, world, data, staged, memory_limit) as connection:
            reading = Reading(connection, world, staged, as_of, since, start, seed)
            report = _write(reading, declared, features, needed)
        names = tuple(needed), tuple(declared.sources), declared.tasks
        tower_set = TowerSet(folder, as_of, since, *names, report)
        tower_set.write_about(staged)
    return tower_set


@contextmanager
def _opened(
    declared: TowerSources,
    features: FeatureDeclarations,
    events: Mapping[str, EventDeclaration],
    world: World,
    data: Path,
    staged: Path,
    memory_limit: str,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables that are needed, and a folder for temporary files, which goes in the end."""
    labels = [one for source in declared.sources.values() for one in source.labels.values()]
    named: list[Any] = [
        *declared.sources.values(),
        *(label for label in labels if isinstance(label, LabelDeclaration)),
        *events.values(),
        *(one for each in (features.user, features.pin) for one in each.numbers.values()),
        *(one for each in (features.user, features.pin) for one in each.categories.values()),
        *([declared.pins] if declared.pins else []),
    ]
    work = staged / "work"
    only = {one.table for one in named}
    connection = open_tables(world.tables, data, work, memory_limit=memory_limit, only=only)
    try:
        with explained("upstream"):  # out of memory, disk full
            yield connection
    finally:
        connection.close()
        shutil.rmtree(work)


def _write(
    reading: Reading,
    declared: TowerSources,
    features: FeatureDeclarations,
    events: Mapping[str, EventDeclaration],
) -> Report:
    report: Report = {"events": {}, "sources": {}, "columns": {}}
    event_rows, source_rows, listings = {}, {}, None
    for name, event in events.items():
        event_rows[name], report["events"][name] = read_event(reading, name, event)
    for name, source in declared.sources.items():
        source_rows[name], report["sources"][name] = read_source(reading, name, source)
    if declared.pins is not None:
        listings, report["pins"] = read_listings(reading, declared.pins)
    met = [rows for name, rows in event_rows.items() if is_of_pins(events[name])]
    deeds = [*met, *source_rows.values()]
    report["entities"] = {
        "user": write_users(reading, [*event_rows.values(), *source_rows.values()]),
        "pin": write_pins(reading, deeds, listings),
    }
    write_events(reading, event_rows)
    report["columns"] = {
        "user": write_columns(reading, "user", features.user),
        "pin": write_columns(reading, "pin", features.pin),
    }
    ways = {source.negatives_by for source in declared.sources.values() if source.negatives}
    drawing = Drawing(pools(reading, deeds, sorted(ways)), listings)
    parts = {}
    for name, source in declared.sources.items():
        parts[name], told = source_examples(reading, name, source, source_rows[name], drawing)
        report["sources"][name] |= told
    if not write_examples(reading, declared, parts) and reading.since is None:
        _refuse_nothing(reading, report)
    return report


def _refuse_nothing(reading: Reading, report: Report) -> None:
    told = [
        f"{name}: {source['rows']} rows, "
        + (
            ", ".join(f"{n} left out ({why})" for why, n in source["left_out"].items())
            or "none used"
        )
        for name, source in report["sources"].items()
    ]
    raise SourceError(
        "upstream.sources",
        found=f"no example before {reading.as_of:%Y-%m-%d %H:%M} UTC ({'; '.join(told)})",
        expected="rows whose labels are known by then",
        remedy="Choose a later as-of time, or correct `time`, `time_unit`, `where` and `within`.",
    )


def _check_zone(name: str, time: datetime | None) -> None:
    if time is not None and time.tzinfo is None:
        raise ConfigError(
            name,
            found=f"{time} without a time zone",
            expected="a time with its zone",
            remedy="Add tzinfo=UTC.",
        )
