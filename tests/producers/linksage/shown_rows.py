"""Canonical rows of pages and pins, as page_tables writes them: what tests start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provender.producers.linksage.page_tables import PageSet

_NODE = [
    ("key", pa.int64()),
    ("text", pa.string()),
    ("text_vector", pa.list_(pa.float32())),
    ("image_files", pa.list_(pa.string())),
    ("image_vectors", pa.list_(pa.list_(pa.float32()))),
    ("image_sizes", pa.list_(pa.float32())),
    ("content_hash", pa.string()),
]
PAGES = pa.schema([*_NODE, ("url", pa.string())])
PINS = pa.schema([*_NODE, ("target", pa.list_(pa.float32()))])

Row = Mapping[str, Any]


def table(rows: Sequence[Row], schema: pa.Schema = PAGES) -> pa.Table:
    whole = [{"text": "", "image_files": [], **row} for row in rows]
    return pa.Table.from_pylist(whole, schema=schema)


def page_set(folder: Path, pages: Sequence[Row], pins: Sequence[Row]) -> PageSet:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(pages), folder / "pages.parquet")
    pq.write_table(table(pins, PINS), folder / "pins.parquet")
    return PageSet(folder, folder, {})
