"""Rows of pairs, by kind, and of boards: those whose ends are there, each once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.tables import columns_of, explained, literal, quoted
from provender.producers.event_sql import key_of
from provender.producers.linksage.declarations import BoardDeclaration, PairDeclaration
from provender.producers.linksage.judged_rows import (
    case,
    copy,
    count,
    counts_by_reason,
    key_reasons,
    rows_of,
    time_reasons,
    time_sql,
    within,
)
from provender.producers.linksage.page_columns import check_columns, key_type_of

Connection = duckdb.DuckDBPyConnection
#: The files of the pages and pins that there are, by `page` and `pin`.
Known = Mapping[str, Path]


def write_pairs(
    connection: Connection,
    kinds: Mapping[str, PairDeclaration],
    known: Known,
    place: Path,
    as_of: datetime | None,
) -> dict[str, Any]:
    """Write all pairs (page_tables.PageSet) of pins and pages that there are.

    Returns by kind the rows `kept` and those `dropped` by reason.
    """
    report, parts = {}, []
    for kind, declared in kinds.items():
        thing, part = f"linksage.pairs.{kind}", place.parent / "work" / f"pairs_{kind}.parquet"
        with explained(f"{thing} (table {declared.table})"):
            copy(connection, _judged_pairs(connection, thing, declared, known, as_of), part)
            report[kind] = _told(connection, part)
        parts.append(
            f"SELECT pin, page, {literal(kind)} AS kind, {declared.weight}::FLOAT AS weight, "
            f"cohesion, {declared.edges} AS edges, {declared.positives} AS positives "
            f"FROM {rows_of(part)} WHERE reason IS NULL"
        )
    copy(connection, f"{' UNION ALL '.join(parts)} ORDER BY pin, page, kind", place)
    return report


def write_boards(
    connection: Connection,
    declared: BoardDeclaration | None,
    known: Known,
    place: Path,
    key_type: str | None,
    as_of: datetime | None,
) -> dict[str, Any]:
    """Write the boards' pins; a file without rows where no boards are declared."""
    if declared is None:
        none = f"SELECT '' AS board, key AS pin FROM {rows_of(known['pin'])} WHERE false"
        copy(connection, none, place)
        return {"kept": 0, "dropped": {}}
    part = place.parent / "work" / "boards.parquet"
    with explained(f"linksage.boards (table {declared.table})"):
        copy(connection, _judged_boards(connection, declared, known, key_type, as_of), part)
        good = f"SELECT board, pin FROM {rows_of(part)} WHERE reason IS NULL ORDER BY board, pin"
        copy(connection, good, place)
        return _told(connection, part)


def _judged_pairs(
    connection: Connection,
    thing: str,
    declared: PairDeclaration,
    known: Known,
    as_of: datetime | None,
) -> str:
    named = {"cohesion": declared.cohesion}
    cohesion = f"TRY_CAST({quoted(declared.cohesion)} AS FLOAT)" if declared.cohesion else "NULL"
    ends = {
        "pin": (declared.pin, _known_type(known["pin"])),
        "page": (declared.page, _known_type(known["page"])),
    }
    return _judged(connection, thing, declared, ends, named, {"cohesion": cohesion}, known, as_of)


def _judged_boards(
    connection: Connection,
    declared: BoardDeclaration,
    known: Known,
    key_type: str | None,
    as_of: datetime | None,
) -> str:
    types = columns_of(connection, declared.table)
    key_type = key_type or key_type_of(types.get(declared.key, ""))
    ends = {
        "board": (declared.key, key_type),
        "pin": (declared.pin, _known_type(known["pin"])),
    }
    return _judged(connection, "linksage.boards", declared, ends, {}, {}, known, as_of)


def _judged(
    connection: Connection,
    thing: str,
    declared: PairDeclaration | BoardDeclaration,
    ends: Mapping[str, tuple[str, str]],
    named: Mapping[str, str | None],
    further: Mapping[str, str],
    known: Known,
    as_of: datetime | None,
) -> str:
    """The SELECT of all rows before the cut, with the reason why one is not taken.

    Args:
        ends: each end's column and type of key; those of `known` must be in its file.
        named: further fields with their columns, to be checked.
        further: SQL of further columns.
    """
    types = columns_of(connection, declared.table)
    fields = {end: column for end, (column, _) in ends.items()}
    check_columns(thing, declared.table, {**fields, **named, "time": declared.time}, types)
    keys, raws, joins = [], [], []
    reasons: list[tuple[str, str]] = []
    for end, (column, key_type) in ends.items():
        raws.append(f"{quoted(column)} AS raw_{end}")
        keys.append(f"{key_of(f'{thing}.{end}', f'raw_{end}', types[column], key_type)} AS {end}")
        reasons += key_reasons(column, end, f"raw_{end}", types[column], key_type)
        if end in known:
            joins.append(f"LEFT JOIN {rows_of(known[end])} of_{end} ON of_{end}.key = typed.{end}")
    reasons += time_reasons(declared)
    reasons += [(f"of_{end}.key IS NULL", f"no such {end}") for end in ends if end in known]
    time = time_sql(thing, declared, "raw_time", types.get(declared.time or "", ""))
    raw_time = quoted(declared.time) if declared.time else "NULL"
    extra = "".join(f", {sql} AS {name}" for name, sql in further.items())
    finite = "".join(f", CASE WHEN isfinite({name}) THEN {name} END AS {name}" for name in further)
    both = ", ".join(ends)
    order = "".join(f", {name} DESC NULLS LAST" for name in further)
    where = f"WHERE ({declared.where}\n)" if declared.where else ""
    return (
        f"WITH raw AS (SELECT {', '.join(raws)}, {raw_time} AS raw_time{extra} "
        f"FROM {quoted(declared.table)} {where}),\n"
        f"typed AS (SELECT *, {', '.join(keys)}, {time} AS time FROM raw),\n"
        f"judged AS (SELECT {both}, time{finite}, {case(reasons)} AS reason FROM typed "
        f"{' '.join(joins)} WHERE {within(declared, as_of)})\n"
        f"SELECT * REPLACE (CASE WHEN reason IS NULL AND row_number() OVER (PARTITION BY {both}, "
        f"reason ORDER BY time DESC NULLS LAST{order}) > 1 THEN 'told before' ELSE reason END "
        "AS reason) FROM judged"
    )


def _known_type(place: Path) -> str:
    return "int64" if pa.types.is_integer(pq.read_schema(place).field("key").type) else "string"


def _told(connection: Connection, part: Path) -> dict[str, Any]:
    return {
        "kept": count(connection, f"{rows_of(part)} WHERE reason IS NULL"),
        "dropped": counts_by_reason(connection, rows_of(part)),
    }
