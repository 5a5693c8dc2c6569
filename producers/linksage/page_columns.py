"""Columns of pages and pins as SQL: keys, times, texts, vectors and lists of images.

CSV columns are text: a list is read from `[0.1, 0.2]` as from a Parquet list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from provender.plugin.errors import MappingError
from provender.plugin.tables import quoted
from provender.plugin.time_sql import FLOATS, INTEGERS, NOTHING

_LIST = re.compile(r"\[\d*\]$")


def check_columns(
    thing: str, table: str, named: Mapping[str, str | None], columns: Mapping[str, str]
) -> None:
    """Raise MappingError for the first field that names a column the table does not have."""
    for field, column in named.items():
        if column is not None and column not in columns:
            raise MappingError(
                f"{thing}.{field}",
                found=f"no column {column} in table {table}",
                expected=f"one of its columns {', '.join(columns)}",
                remedy="Correct the declaration, or the file if it has lost the column.",
            )


def key_type_of(found: str) -> str:
    """What keys of a column of that type are, where nothing is declared: int64 or string."""
    return "int64" if is_number(found) else "string"


def is_number(found: str) -> bool:
    """Whether a DuckDB type is one of numbers."""
    return found in INTEGERS | FLOATS or found.startswith("DECIMAL")


def texts(columns: Sequence[str]) -> str:
    """The columns' texts, one a line; '' where there is none."""
    each = ", ".join(f"nullif(trim(CAST({quoted(column)} AS VARCHAR)), '')" for column in columns)
    return f"concat_ws(chr(10), {each})" if columns else "''"


def vector(thing: str, column: str | None, types: Mapping[str, str]) -> str:
    """A list of floats; null where there is none or a number of it is none."""
    found = _numbers(thing, column, types, depth=1)
    return f"CASE WHEN {_finite(found)} THEN {found} END"


def vectors(thing: str, column: str | None, types: Mapping[str, str]) -> str:
    """A list of vectors, from a column of one or of a list; null as a whole if one is not whole."""
    lists = _numbers(thing, column, types, depth=2)
    return (
        f"CASE WHEN len({lists}) > 0 AND len(list_filter({lists}, lambda v: "
        f"NOT coalesce({_finite('v')}, false))) = 0 THEN {lists} END"
    )


def sizes(thing: str, column: str | None, types: Mapping[str, str]) -> str:
    """A list of numbers above zero; null as a whole if one is none."""
    found = _numbers(thing, column, types, depth=1, plain=True)
    return (
        f"CASE WHEN len({found}) > 0 AND len(list_filter({found}, lambda x: "
        f"x IS NULL OR NOT isfinite(x) OR x <= 0)) = 0 THEN {found} END"
    )


def files(thing: str, column: str | None, types: Mapping[str, str]) -> str:
    """A list of file names, empty ones left in, so that sizes stay beside them; never null."""
    if column is None or types[column] == NOTHING:
        return "CAST([] AS VARCHAR[])"
    name, found = quoted(column), types[column]
    if _LIST.sub("", found) != "VARCHAR":
        raise _misfit(thing, column, found, "text or lists of text")
    if found != "VARCHAR":
        listed = f"CAST({name} AS VARCHAR[])"
    else:
        listed = (
            f"CASE WHEN starts_with(trim({name}), '[') THEN TRY_CAST({name} AS VARCHAR[]) "
            f"WHEN trim({name}) != '' THEN [{name}] END"
        )
    return f"coalesce(list_transform({listed}, lambda f: trim(f)), [])"


def _finite(name: str) -> str:
    return (
        f"(len({name}) > 0 AND "
        f"len(list_filter({name}, lambda x: x IS NULL OR NOT isfinite(x))) = 0)"
    )


def _numbers(
    thing: str, column: str | None, types: Mapping[str, str], *, depth: int, plain: bool = False
) -> str:
    """The column as FLOAT[] or FLOAT[][]; a list less is put into one (`plain`: a number too)."""
    wanted = "FLOAT" + "[]" * depth
    if column is None or types[column] == NOTHING:
        return f"CAST(NULL AS {wanted})"
    name, found = quoted(column), types[column]
    if found == "VARCHAR":
        if depth == 1:
            listed = f"starts_with(trim({name}), '[')"
        else:
            listed = f"starts_with(replace({name}, ' ', ''), '[[')"
        wrapped = f"CASE WHEN {listed} THEN {name} ELSE '[' || {name} || ']' END"
        return f"TRY_CAST({wrapped} AS {wanted})"
    inner, levels = found, 0
    while _LIST.search(inner):
        inner, levels = _LIST.sub("", inner), levels + 1
    least = 0 if plain else 1
    if not is_number(inner) or not least <= levels <= depth:
        numbers = "a number or a list of them" if plain else f"lists of numbers ({wanted})"
        raise _misfit(thing, column, found, numbers)
    for _ in range(depth - levels):
        name = f"CASE WHEN {name} IS NOT NULL THEN [{name}] END"
    return f"CAST({name} AS {wanted})"


def _misfit(thing: str, column: str, found: str, expected: str) -> MappingError:
    return MappingError(
        thing,
        found=f"{column} of type {found}",
        expected=expected,
        remedy="Name another column, or cast it in a table of `sql`.",
    )
