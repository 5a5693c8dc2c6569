"""Columns of numbers and categories as SQL: what is written, and what is none."""

from __future__ import annotations

import re

from provender.plugin.errors import MappingError
from provender.plugin.tables import quoted
from provender.plugin.time_sql import FLOATS, INTEGERS, NOTHING

_LIST = re.compile(r"\[\d*\]$")


def number(thing: str, column: str, found: str) -> str:
    """SQL of a column of numbers, booleans or text with numbers as FLOAT; null where it is none.

    Raises MappingError for a column of another type.
    """
    if not _is_number(found) and found not in {"BOOLEAN", "VARCHAR", NOTHING}:
        raise _misfit(thing, column, found, "numbers")
    name = quoted(column)
    cast = f"TRY_CAST({f'trim({name})' if found == 'VARCHAR' else name} AS FLOAT)"
    return f"CASE WHEN isfinite({cast}) THEN {cast} END"


def no_number(column: str, found: str) -> str:
    """SQL: something is there that is no number. NaN is how pandas writes a missing one."""
    name = quoted(column)
    there = f"{name} IS NOT NULL"
    if found == "VARCHAR":
        there = f"coalesce(lower(trim({name})), '') NOT IN ('', 'nan')"
    elif found in FLOATS:
        there = f"{name} IS NOT NULL AND NOT isnan({name})"
    cast = f"TRY_CAST({f'trim({name})' if found == 'VARCHAR' else name} AS FLOAT)"
    return f"({there} AND NOT coalesce(isfinite({cast}), false))"


def category(thing: str, column: str, found: str) -> str:
    """SQL of a column of texts, numbers, or lists of them, as VARCHAR[]; null where it is missing.

    A number is its shortest text, so that 3 of one file is 3.0 of another; a list is as it is, but
    for what is missing in it. Raises MappingError for lists of lists and for structures.
    """
    name, inner = quoted(column), _LIST.sub("", found)
    if inner.startswith(("STRUCT", "MAP", "UNION")) or _LIST.search(inner):
        raise _misfit(thing, column, found, "text, numbers, or lists of them")
    if inner == found:
        return f"CASE WHEN {_text(name, found)} IS NOT NULL THEN [{_text(name, found)}] END"
    texts = f"list_transform({name}, lambda x: {_text('x', inner)})"
    return f"CAST(list_filter({texts}, lambda x: x IS NOT NULL) AS VARCHAR[])"


def _text(name: str, found: str) -> str:
    if found in FLOATS:
        whole = f"{name} = floor({name}) AND abs({name}) <= 9007199254740992"
        return (
            f"CASE WHEN NOT isfinite({name}) THEN NULL WHEN {whole} "
            f"THEN CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR) ELSE CAST({name} AS VARCHAR) END"
        )
    if found.startswith("DECIMAL"):
        text = f"CAST({name} AS VARCHAR)"
        short = f"rtrim(rtrim({text}, '0'), '.')"
        return f"CASE WHEN contains({text}, '.') THEN {short} ELSE {text} END"
    return f"nullif(trim(CAST({name} AS VARCHAR)), '')"


def _is_number(found: str) -> bool:
    return found in INTEGERS | FLOATS or found.startswith("DECIMAL")


def _misfit(thing: str, column: str, found: str, expected: str) -> MappingError:
    return MappingError(
        thing,
        found=f"{column} of type {found}",
        expected=expected,
        remedy="Name another column, or cast it in a table of `sql`.",
    )
