"""Examples: rows of sources with what became of them, as far as it is known and not yet learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from provender.plugin.tables import literal
from provender.producers.upstream.declarations import (
    ALWAYS,
    LabelDeclaration,
    SourceDeclaration,
    TowerSources,
)
from provender.producers.upstream.drawn_negatives import drawn, salt, uniform
from provender.producers.upstream.entity_keys import numbered
from provender.producers.upstream.label_rows import known, learned, positives
from provender.producers.upstream.tower_rows import Reading, Report, in_microseconds
from provender.producers.upstream.tower_set import GROUP


@dataclass(frozen=True)
class Drawing:
    """What negatives are drawn with: pools by name, and when pins were there, if that is told."""

    pools: Mapping[str, str]
    listings: str | None


def write_examples(reading: Reading, declared: TowerSources, parts: Mapping[str, str]) -> int:
    """Write examples.parquet (tower_set.TowerSet).

    Args:
        parts: by source, SQL of its examples (source_examples), in the order of their indices.

    Returns how many there are.
    """
    schema = _schema(declared)
    columns = ", ".join(schema.names[4:])
    every = " UNION ALL BY NAME ".join(
        f"SELECT CAST({index} AS SMALLINT) AS source, * FROM {part}"
        for index, part in enumerate(parts.values())
    )
    select = (
        f"SELECT source, u.number AS user, p.number AS pin, time, {columns} FROM ({every}) e "
        f"JOIN {numbered(reading, 'user')} u ON u.key = e.user "
        f"JOIN {numbered(reading, 'pin')} p ON p.key = e.pin "
        "ORDER BY time, source, u.number, row, draw"
    )
    return reading.write(select, schema, reading.staged / "examples.parquet", GROUP)


def source_examples(
    reading: Reading, name: str, source: SourceDeclaration, rows: str, drawing: Drawing
) -> tuple[str, Report]:
    """The examples of a source, drawn negatives among them.

    Args:
        rows: SQL of its rows (source_rows.read_source).

    Returns SQL of row, draw (0 for the row itself), user, pin (keys), time, weight, labels and
    context; and the rows `used`, those `left_out` by reason, the `drawn` and the `tasks`: of the
    label's table `rows` and `dropped`, of examples `known` and `positives`, of rows `unknown`.
    """
    found, report = _positives(reading, name, source, rows)
    labelled = reading.copy(_labelled(reading, name, source, rows, found), f"labelled_{name}")
    used = f"(SELECT * EXCLUDE (left_out, positive) FROM {labelled} WHERE left_out IS NULL)"
    told: Report = {"used": reading.count(used), "left_out": _left_out(reading, labelled)}
    parts = [f"SELECT * EXCLUDE (salt), 0 AS draw FROM {used}"]
    always = [task for task, label in source.labels.items() if label == ALWAYS]
    told["drawn"] = 0
    if source.negatives:
        asking = f"(SELECT * FROM {used} WHERE label_{always[0]} IS NOT NULL)"
        negatives = _drawn(reading, name, source, asking, rows, drawing)
        labels = [
            f"{'0::TINYINT' if task in always else 'NULL::TINYINT'} AS label_{task}"
            for task in source.labels
        ]
        parts.append(
            f"SELECT r.* EXCLUDE (salt) REPLACE (d.pin AS pin, {', '.join(labels)}), d.draw "
            f"FROM {asking} r JOIN {negatives} d ON d.row = r.row"
        )
        told["drawn"] = reading.count(negatives)
    told["tasks"] = {
        task: report.get(task, {}) | _counts(reading, source, task, used, labelled)
        for task in source.labels
    }
    return f"({' UNION ALL BY NAME '.join(parts)})", told


def _positives(
    reading: Reading, name: str, source: SourceDeclaration, rows: str
) -> tuple[dict[str, str], Report]:
    found, report = {}, {}
    for task, label in source.labels.items():
        if isinstance(label, LabelDeclaration):
            found[task], report[task] = positives(reading, name, source, task, label, rows)
    return found, report


def _labelled(
    reading: Reading, name: str, source: SourceDeclaration, rows: str, found: Mapping[str, str]
) -> str:
    """The SELECT of all rows with labels, weight, salt and why one is `left_out`."""
    hits = {task: f"{task}_rows.row IS NOT NULL" for task in found}
    joins = " ".join(
        f"LEFT JOIN {sql} {task}_rows ON {task}_rows.row = r.row" for task, sql in found.items()
    )
    labels, positive, unknown = [], [], []
    for task, label in source.labels.items():
        hit, is_known = hits.get(task, "true"), known(reading, label)
        fresh = f"{is_known} AND NOT {learned(reading, label)}"
        labels.append(f"CASE WHEN {fresh} THEN CAST({hit} AS TINYINT) END AS label_{task}")
        positive.append(f"({is_known} AND {hit})")
        unknown.append(f"NOT ({is_known})")
    names = ", ".join(f"label_{task}" for task in source.labels)
    # Not the id: it may be a number that SQL gave it, and another one once there are more rows.
    parts = (str(reading.seed), literal(name), "r.user", "r.pin", "r.time")
    start = in_microseconds(reading.start) if reading.start else None
    return (
        f"WITH labels AS (SELECT r.*, {', '.join(labels)}, ({' OR '.join(positive)}) AS positive, "
        f"({' OR '.join(unknown)}) AS waits, {salt(*parts)} AS salt FROM {rows} r {joins})\n"
        "SELECT * EXCLUDE (id, waits), CAST(CASE WHEN positive THEN "
        f"{source.weight} ELSE {source.weight / source.negative_rate} END AS FLOAT) AS weight, "
        f"CASE WHEN {f'time < {start}' if start is not None else 'false'} THEN 'before the start' "
        f"WHEN coalesce({names}) IS NULL THEN "
        "CASE WHEN waits THEN 'not known yet' ELSE 'learned before' END "
        f"WHEN {_beyond('rate', source.rate)} THEN 'rate' "
        f"WHEN NOT positive AND {_beyond('negative_rate', source.negative_rate)} "
        "THEN 'negative_rate' END AS left_out FROM labels"
    )


def _beyond(name: str, rate: float) -> str:
    """SQL: whether a row is none of the share `rate`."""
    return "false" if rate == 1 else f"{uniform('salt', literal(name))} >= {rate}"


def _drawn(
    reading: Reading,
    name: str,
    source: SourceDeclaration,
    asking: str,
    rows: str,
    drawing: Drawing,
) -> str:
    return drawn(
        reading,
        name,
        asking,
        rows,
        drawing.pools[source.negatives_by],
        source.negatives,
        including=source.negatives_by == "uniform",
        listings=drawing.listings,
    )


def _left_out(reading: Reading, labelled: str) -> dict[str, int]:
    found = reading.connection.execute(
        f"SELECT left_out, count(*) AS n FROM {labelled} WHERE left_out IS NOT NULL "
        "GROUP BY left_out ORDER BY n DESC, left_out"
    ).fetchall()
    return dict(found)


def _counts(
    reading: Reading, source: SourceDeclaration, task: str, used: str, labelled: str
) -> dict[str, int]:
    column = f"label_{task}"
    waiting = f"NOT ({known(reading, source.labels[task])}) AND left_out IS DISTINCT FROM "
    return {
        "known": reading.count(f"{used} WHERE {column} IS NOT NULL"),
        "positives": reading.count(f"{used} WHERE {column} = 1"),
        "unknown": reading.count(f"{labelled} WHERE {waiting} 'before the start'"),
    }


def _schema(declared: TowerSources) -> pa.Schema:
    """The columns of examples: those of all sources."""
    contexts = [source.context for source in declared.sources.values()]
    numbers = dict.fromkeys(f"number_{name}" for one in contexts for name in one.numbers)
    categories = dict.fromkeys(f"category_{name}" for one in contexts for name in one.categories)
    return pa.schema(
        [
            ("source", pa.int16()),
            ("user", pa.int32()),
            ("pin", pa.int32()),
            ("time", pa.int64()),
            ("weight", pa.float32()),
            *((f"label_{task}", pa.int8()) for task in declared.tasks),
            *((name, pa.float32()) for name in numbers),
            *((name, pa.list_(pa.string())) for name in categories),
        ]
    )
