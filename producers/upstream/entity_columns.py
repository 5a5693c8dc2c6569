"""Declared numbers and categories of users and pins, and from when on each is so."""

from __future__ import annotations

import pyarrow as pa

from provender.plugin.tables import columns_of
from provender.producers.upstream.column_sql import category, no_number, number
from provender.producers.upstream.declarations import (
    CategoryDeclaration,
    EntityFeatures,
    NumberDeclaration,
)
from provender.producers.upstream.entity_keys import ALWAYS_SQL, numbered
from provender.producers.upstream.tower_rows import Key, Reading, Report, check_columns, judged

_TYPES = {"number": pa.float32(), "category": pa.list_(pa.string())}


def write_columns(reading: Reading, entity: str, features: EntityFeatures) -> Report:
    """Write columns/<entity>_*.parquet (tower_set.TowerSet).

    A row without a value says nothing, and of several of one time the greatest value counts.
    Returns by column the rows that were kept and those dropped by reason.

    Raises MappingError, SourceError or BadRowsError.
    """
    report: Report = {}
    for name, one in features.numbers.items():
        report[f"number_{name}"] = _write(reading, entity, "number", name, one)
    for name, each in features.categories.items():
        report[f"category_{name}"] = _write(reading, entity, "category", name, each)
    return report


def _write(
    reading: Reading,
    entity: str,
    kind: str,
    name: str,
    declared: NumberDeclaration | CategoryDeclaration,
) -> Report:
    section = {"number": "numbers", "category": "categories"}[kind]
    thing, column = f"upstream.features.{entity}.{section}.{name}", declared.column
    types = columns_of(reading.connection, declared.table)
    check_columns(thing, declared.table, {"column": column}, types)
    found = types[column]
    if kind == "number":
        further = {"value": number(thing, column, found), "misfit": no_number(column, found)}
        reasons = [("misfit", f"{column} is no number")]
    else:
        further, reasons = {"value": category(thing, column, found)}, []
    key = Key("key", declared.key, reading.world.entities[entity])
    good, dropped = judged(reading, thing, declared, [key], further, reasons)
    schema = pa.schema([("id", pa.int32()), ("time", pa.int64()), ("value", _TYPES[kind])])
    kept = reading.write(
        f"SELECT n.number AS id, coalesce(g.time, {ALWAYS_SQL}) AS time, max(g.value) AS value "
        f"FROM {good} g JOIN {numbered(reading, entity)} n ON n.key = g.key "
        "WHERE g.value IS NOT NULL GROUP BY ALL ORDER BY id, time",
        schema,
        reading.staged / "columns" / f"{entity}_{kind}_{name}.parquet",
    )
    return {"rows": kept, "dropped": dropped}
