"""Vectors of what entities show, a pin's image or a page's text, as a world declares them.

    content:
      pin: {table: pins, key: pin_id, vector: [image_vector], time: created_timestamp}

They tell where an entity belongs before anybody has met it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from provender.plugin.checked_yaml import check
from provender.plugin.errors import MappingError
from provender.plugin.files import STAGING
from provender.plugin.tables import columns_of, explained, open_tables, quoted
from provender.plugin.time_sql import FLOATS, INTEGERS, TimeUnit, instant, stamp
from provender.plugin.world import World
from provender.producers.event_sql import key_of

#: Of structure, which is known at all times: earlier than any time.
ALWAYS = np.iinfo(np.int64).min


class ContentDeclaration(BaseModel):
    """Where one entity's content is. Of several rows of a key the newest counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    key: str = Field(description="column of the entity's key")
    vector: tuple[str, ...] = Field(
        min_length=1, description="columns of numbers or of lists of numbers, put one after another"
    )
    time: str | None = Field(
        default=None, description="column of the time from which on it is known; null for always"
    )
    time_unit: TimeUnit | None = Field(
        default=None, description="of a time written as a number since 1970"
    )


@dataclass(frozen=True, eq=False)
class Content:
    """`keys` (n,) ascending, `vectors` float32 (n, c), `since` (n,) microseconds or ALWAYS."""

    keys: pa.Array[Any]
    vectors: NDArray[np.float32]
    since: NDArray[np.int64]


def declared_content(world: World) -> dict[str, ContentDeclaration]:
    """The checked section `content`, by entity; raises MappingError."""
    found = {}
    for entity, content in world.content.items():
        where = f"{world.path or 'world'}: content.{entity}"
        found[entity] = check(ContentDeclaration, content, where)
        for name, known in (("entities", world.entities), ("tables", world.tables)):
            value = entity if name == "entities" else found[entity].table
            if value not in known:
                raise MappingError(
                    where,
                    found=repr(value),
                    expected=f"one of {', '.join(sorted(known))}",
                    remedy=f"Correct it or declare it under `{name}`.",
                )
    return found


def read_content(world: World, data: Path, as_of: datetime, work: Path) -> dict[str, Content]:
    """Read the content that was known before `as_of`, by entity; none where none is declared.

    What lies at or after `as_of` changes nothing of it. Rows without a key, a time or a whole,
    finite vector are passed over.

    Args:
        work: a folder for temporary files.

    Raises MappingError for a declaration that does not fit the table, SourceError for a table that
    can't be read.
    """
    declared = declared_content(world)
    if not declared:
        return {}
    folder = work / STAGING / f"content.{os.getpid()}"
    try:
        tables = {one.table for one in declared.values()}
        connection = open_tables(world.tables, data, folder, only=tables)
        try:
            return {
                entity: _read(connection, entity, one, world.entities[entity], as_of)
                for entity, one in declared.items()
            }
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(
    connection: duckdb.DuckDBPyConnection,
    entity: str,
    declared: ContentDeclaration,
    key_type: str,
    as_of: datetime,
) -> Content:
    thing = f"content.{entity}"
    types = _types(thing, declared, columns_of(connection, declared.table))
    key = key_of(f"{thing}.key", quoted(declared.key), types[declared.key], key_type)
    time = "NULL::TIMESTAMPTZ"
    if declared.time is not None:
        found = types[declared.time]
        time = instant(f"{thing}.time", quoted(declared.time), found, unit=declared.time_unit)
    vector = " || ".join(_floats(f"{thing}.vector", each, types[each]) for each in declared.vector)
    within = f"time < {stamp(as_of)}" if declared.time else "true"
    with explained(f"{thing} (table {declared.table})"):
        table = connection.sql(
            f"SELECT key, epoch_us(time) AS since, vector FROM (SELECT {key} AS key, "
            f"{time} AS time, {vector} AS vector FROM {quoted(declared.table)}) "
            f"WHERE key IS NOT NULL AND {within} AND vector IS NOT NULL "
            "AND len(list_filter(vector, lambda x: x IS NULL OR NOT isfinite(x))) = 0 "
            "QUALIFY row_number() OVER (PARTITION BY key ORDER BY time DESC, vector) = 1 "
            "ORDER BY key"
        ).to_arrow_table()
    return _content(thing, table.combine_chunks(), pa.int64() if key_type == "int64" else None)


def _content(thing: str, table: pa.Table, key_type: pa.DataType | None) -> Content:
    column = table["vector"].combine_chunks()
    lengths = np.unique(column.value_lengths().to_numpy())
    if len(lengths) > 1:
        raise MappingError(
            f"{thing}.vector",
            found=f"vectors of {', '.join(map(str, lengths[:5]))} numbers",
            expected="all of one length",
            remedy="Name columns of one meaning, or leave rows out with a table of `sql`.",
        )
    width = int(lengths[0]) if len(lengths) else 0
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    since = table["since"].combine_chunks().fill_null(ALWAYS).to_numpy()
    keys = table["key"].combine_chunks().cast(key_type or pa.string())
    return Content(keys, flat.reshape(len(keys), width), since.astype(np.int64))


def _types(
    thing: str, declared: ContentDeclaration, columns: Mapping[str, str]
) -> Mapping[str, str]:
    named = (declared.key, *declared.vector, *([declared.time] if declared.time else []))
    for column in named:
        if column not in columns:
            raise MappingError(
                thing,
                found=f"no column {column} in table {declared.table}",
                expected=f"one of its columns {', '.join(columns)}",
                remedy="Correct the declaration, or the file if it has lost the column.",
            )
    return columns


def _floats(thing: str, column: str, found: str) -> str:
    """The column as SQL of a list of floats."""
    plain = found.removesuffix("[]")
    if plain not in FLOATS | INTEGERS and not plain.startswith("DECIMAL"):
        raise MappingError(
            thing,
            found=f"{column} of type {found}",
            expected="numbers or lists of numbers",
            remedy="Name another column, or cast it in a table of `sql`.",
        )
    listed = quoted(column) if found.endswith("[]") else f"[{quoted(column)}]"
    return f"CAST({listed} AS FLOAT[])"
