"""The rows of a source before the cut, in an order that later rows don't change, with context."""

from __future__ import annotations

from provender.plugin.tables import columns_of
from provender.producers.upstream.column_sql import category, no_number, number
from provender.producers.upstream.declarations import SourceDeclaration
from provender.producers.upstream.tower_rows import Key, Reading, Report, check_columns, judged


def read_source(reading: Reading, name: str, source: SourceDeclaration) -> tuple[str, Report]:
    """Read a source's rows before the cut.

    Returns SQL of the good ones, `row` (from 0, by time, user, pin and id), `user`, `pin`, `time`,
    `id` (text, null where there is none) and its context, `number_<name>` and `category_<name>`;
    and how many of them there are and were dropped, and what of their context is no number.

    Raises MappingError, SourceError or BadRowsError.
    """
    place = f"upstream.sources.{name}"
    types = columns_of(reading.connection, source.table)
    context, misfits = {}, {}
    for each, one in source.context.numbers.items():
        thing = f"{place}.context.numbers.{each}"
        check_columns(thing, source.table, {"column": one.column}, types)
        context[f"number_{each}"] = number(thing, one.column, types[one.column])
        misfits[f"misfit_{each}"] = (no_number(one.column, types[one.column]), one.column)
    for each, label in source.context.categories.items():
        thing = f"{place}.context.categories.{each}"
        check_columns(thing, source.table, {"column": label.column}, types)
        context[f"category_{each}"] = category(thing, label.column, types[label.column])
    keys = [Key(end, getattr(source, end), reading.world.entities[end]) for end in ("user", "pin")]
    keys += [Key("id", source.id, "string", needed=False)] if source.id else []
    further = context | {each: sql for each, (sql, _) in misfits.items()}
    good, dropped = judged(reading, place, source, keys, further)
    found = "".join(f", {each}" for each in context)
    columns = f"user, pin, time, {'id' if source.id else 'NULL::VARCHAR AS id'}{found}"
    rows = reading.numbered_copy(
        f"SELECT {columns} FROM {good} ORDER BY time, user, pin, id{found}",
        f"source_{name}",
        number="row",
    )
    wrong = {column: reading.count(f"{good} WHERE {each}") for each, (_, column) in misfits.items()}
    told = {f"{column} is no number": number for column, number in wrong.items() if number}
    return rows, {"rows": reading.count(rows), "dropped": dropped, "context": told}
