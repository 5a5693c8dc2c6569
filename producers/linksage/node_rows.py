"""Rows of pages or of pins: the newest of each key, with what it shows made canonical."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import MappingError
from provender.plugin.files import sha256_of
from provender.plugin.tables import columns_of, explained, quoted
from provender.producers.event_sql import key_of
from provender.producers.linksage import page_columns
from provender.producers.linksage.declarations import (
    NodeDeclaration,
    PageDeclaration,
    PinDeclaration,
)
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
from provender.producers.linksage.page_urls import parse_url

Connection = duckdb.DuckDBPyConnection
#: Columns that are left out where they can't be read, and what is then counted.
CHECKED = {
    "text_vector": "text_vector is no vector",
    "image_vectors": "image_vectors are no vectors",
    "image_sizes": "image_sizes are no sizes of the images",
    "target": "target is no vector",
}


def write_nodes(
    connection: Connection,
    name: str,
    declared: NodeDeclaration,
    data: Path,
    place: Path,
    key_type: str | None,
    as_of: datetime | None,
) -> dict[str, Any]:
    """Write the canonical rows of pages or pins (page_tables.PageSet) to `place`.

    Args:
        name: `page` or `pin`.
        data: the folder of image files.
        key_type: `int64` or `string`; None takes it from the column.

    Returns the rows `kept`, those `dropped` by reason, and what was `left_out` of kept ones.
    """
    thing, work = f"linksage.{name}s", place.parent / "work"
    with explained(f"{thing} (table {declared.table})"):
        select = _judged(connection, thing, declared, key_type, as_of)
        judged = copy(connection, select, work / f"{name}_judged.parquet")
        newest = copy(connection, _newest(judged), work / f"{name}_newest.parquet")
        digests = _derive(
            connection,
            _distinct(newest, "unnest(raw_files)"),
            ("file", "digest"),
            partial(_digest, data),
            work / f"{name}_files.parquet",
        )
        urls = _derive(
            connection,
            _distinct(newest, "url"),
            ("url", "canonical_url", "domain"),
            _address,
            work / f"{name}_urls.parquet",
        )
        copy(connection, _canonical_rows(declared, newest, digests, urls), place)
        vectors = ["text_vector", "image_vectors"] + ["target"] * (name == "pin")
        _check_lengths(connection, thing, place, vectors)
        kept = count(connection, rows_of(place))
        good = count(connection, f"{rows_of(judged)} WHERE reason IS NULL")
        dropped = counts_by_reason(connection, rows_of(judged))
        left_out = _left_out(connection, newest, digests, declared)
    if good > kept:
        dropped["an older row of its key"] = good - kept
    return {"kept": kept, "dropped": dropped, "left_out": left_out}


def _judged(
    connection: Connection,
    thing: str,
    declared: NodeDeclaration,
    key_type: str | None,
    as_of: datetime | None,
) -> str:
    """The SELECT of all rows before the cut, typed, with the reason why one is not taken."""
    types = columns_of(connection, declared.table)
    url = declared.url if isinstance(declared, PageDeclaration) else None
    target = declared.target if isinstance(declared, PinDeclaration) else None
    lists = {name: getattr(declared, name, None) for name in CHECKED}
    named = {"key": declared.key, "time": declared.time, "images": declared.images, "url": url}
    texts = {f"text.{index}": column for index, column in enumerate(declared.text)}
    page_columns.check_columns(thing, declared.table, named | lists | texts, types)
    key_type = key_type or page_columns.key_type_of(types[declared.key])
    key = key_of(f"{thing}.key", "raw_key", types[declared.key], key_type)
    time = time_sql(thing, declared, "raw_time", types.get(declared.time or "", ""))
    content = {
        "raw_key": quoted(declared.key),
        "raw_time": quoted(declared.time) if declared.time else "NULL",
        "text": page_columns.texts(declared.text),
        "text_vector": page_columns.vector(f"{thing}.text_vector", declared.text_vector, types),
        "raw_files": page_columns.files(f"{thing}.images", declared.images, types),
        "image_vectors": page_columns.vectors(
            f"{thing}.image_vectors", declared.image_vectors, types
        ),
        "image_sizes": page_columns.sizes(f"{thing}.image_sizes", declared.image_sizes, types),
        "url": f"nullif(trim(CAST({quoted(url)} AS VARCHAR)), '')" if url else "NULL::VARCHAR",
        "target": page_columns.vector(f"{thing}.target", target, types),
    }
    given = {f"given_{n}": f"{quoted(c)} IS NOT NULL" if c else "false" for n, c in lists.items()}
    selected = ", ".join(f"{sql} AS {name}" for name, sql in (content | given).items())
    reasons = [
        *key_reasons(declared.key, "key", "raw_key", types[declared.key], key_type),
        *time_reasons(declared),
    ]
    return (
        f"WITH raw AS (SELECT {selected} FROM {quoted(declared.table)} "
        + (f"WHERE ({declared.where}\n)" if declared.where else "")
        + f"),\ntyped AS (SELECT *, {key} AS key, {time} AS time FROM raw)\n"
        f"SELECT * EXCLUDE (raw_key, raw_time), {case(reasons)} AS reason FROM typed "
        f"WHERE {within(declared, as_of)}"
    )


def _newest(judged: Path) -> str:
    """The newest row of each key; of equally new ones always the same."""
    return (
        f"SELECT * FROM {rows_of(judged)} WHERE reason IS NULL QUALIFY row_number() OVER "
        "(PARTITION BY key ORDER BY time DESC NULLS LAST, text, url, raw_files, text_vector, "
        "image_vectors, image_sizes, target) = 1"
    )


def _canonical_rows(declared: NodeDeclaration, newest: Path, digests: Path, urls: Path) -> str:
    """The SELECT of the finished rows: files that are there, a size an image, addresses, hash."""
    ones = "list_transform({0}, lambda i: 1::FLOAT)"
    if declared.image_vectors is None:
        sizes = "coalesce(f.sizes, [])"
    else:
        sizes = (
            "CASE WHEN len(image_sizes) = len(image_vectors) THEN image_sizes "
            f"ELSE coalesce({ones.format('image_vectors')}, []) END"
        )
    shown = ("text", "n.url", "text_vector", "f.digests", "image_vectors", sizes)
    parts = " || ".join(f"sha256(coalesce(CAST({sql} AS VARCHAR), ''))" for sql in shown)
    of_pages = "n.url, u.canonical_url, u.domain"
    return (
        "WITH listed AS (SELECT key, unnest(raw_files) AS file, image_sizes AS sizes, "
        "generate_subscripts(raw_files, 1) AS place, len(raw_files) AS n "
        f"FROM {rows_of(newest)}),\n"
        "found AS (SELECT key, list(file ORDER BY place) AS files, "
        "list(digest ORDER BY place) AS digests, "
        "list(CASE WHEN len(sizes) = n THEN sizes[place] ELSE 1::FLOAT END ORDER BY place) "
        f"AS sizes FROM listed JOIN {rows_of(digests)} USING (file) WHERE digest IS NOT NULL "
        "GROUP BY key)\n"
        "SELECT key, text, text_vector, coalesce(f.files, []) AS image_files, "
        f"coalesce(image_vectors, []) AS image_vectors, {sizes} AS image_sizes, "
        f"{of_pages if isinstance(declared, PageDeclaration) else 'target'}, time AS since, "
        f"sha256({parts}) AS content_hash\n"
        f"FROM {rows_of(newest)} n LEFT JOIN found f USING (key) "
        f"LEFT JOIN {rows_of(urls)} u ON n.url = u.url ORDER BY key"
    )


def _distinct(newest: Path, column: str) -> str:
    return f"SELECT DISTINCT {column} AS value FROM {rows_of(newest)}"


def _derive(
    connection: Connection,
    select: str,
    columns: Sequence[str],
    function: Callable[[str], tuple[str | None, ...]],
    place: Path,
) -> Path:
    """Write what a function makes of each distinct text, a block at a time."""
    schema = pa.schema([(name, pa.string()) for name in columns])
    relation = connection.sql(f"SELECT value FROM ({select}) WHERE value IS NOT NULL")
    with pq.ParquetWriter(place, schema) as writer:
        for batch in relation.to_arrow_reader(10_000):
            values = batch.column(0).to_pylist()
            rows = [(value, *function(value)) for value in values]
            arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            if rows:
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    return place


def _digest(data: Path, file: str) -> tuple[str | None]:
    """The hash of a file's bytes; None where there is no such file."""
    try:
        return (sha256_of(data / file),)
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return (None,)


def _address(url: str) -> tuple[str | None, str | None]:
    found = parse_url(url)
    return (found.canonical, found.domain) if found else (None, None)


def _left_out(
    connection: Connection, newest: Path, digests: Path, declared: NodeDeclaration
) -> dict[str, int]:
    """What kept rows declared and could not be read, by what it is."""
    images = "raw_files" if declared.image_vectors is None else "image_vectors"
    checks = {told: f"given_{name} AND {name} IS NULL" for name, told in CHECKED.items()}
    checks["image_sizes of another number than images"] = (
        f"image_sizes IS NOT NULL AND len(image_sizes) != coalesce(len({images}), 0)"
    )
    sums = ", ".join(f"count(*) FILTER ({sql})" for sql in checks.values())
    found = connection.execute(f"SELECT {sums} FROM {rows_of(newest)}").fetchall()[0]
    missing = count(
        connection,
        f"(SELECT unnest(raw_files) AS file FROM {rows_of(newest)}) JOIN {rows_of(digests)} "
        "USING (file) WHERE digest IS NULL",
    )
    told = dict(zip(checks, found, strict=True)) | {"image file is missing": missing}
    return {name: number for name, number in told.items() if number}


def _check_lengths(connection: Connection, thing: str, place: Path, names: Sequence[str]) -> None:
    """Raise MappingError where vectors of one column are of several lengths."""
    for name in names:
        one = "unnest(image_vectors)" if name == "image_vectors" else name
        lengths = connection.execute(
            f"SELECT DISTINCT len(v) AS n FROM (SELECT {one} AS v FROM {rows_of(place)}) "
            "WHERE v IS NOT NULL ORDER BY n"
        ).fetchall()
        if len(lengths) > 1:
            raise MappingError(
                f"{thing}.{name}",
                found=f"vectors of {', '.join(str(row[0]) for row in lengths[:5])} numbers",
                expected="all of one length",
                remedy="Name a column of one meaning, or leave rows out with a table of `sql`.",
            )
