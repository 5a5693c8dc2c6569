"""The first pins of some pages as cards with their text and image: what one looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import numpy as np

from provender.plugin.tables import literal
from provender.producers.pin_ranking import (
    Floats,
    Ints,
    Pairs,
    as_matrix,
    cosines,
    first,
)

if TYPE_CHECKING:
    from provender.producers.linksage.page_tables import PageSet


class Card(NamedTuple):
    """What is shown of a page or pin; `images` are names of files under the data folder."""

    key: str
    text: str
    url: str | None
    images: tuple[str, ...]


class Found(NamedTuple):
    """A pin, its cosine, and whether it is one of the page's held-out ones."""

    card: Card
    cosine: float
    own: bool


@dataclass(frozen=True)
class TopPins:
    """A page, the held-out pins that it should find, and the pins that it found, best first."""

    page: Card
    own: tuple[Card, ...]
    found: tuple[Found, ...]


def top_pins(
    page_set: PageSet,
    pages: Floats,
    pins: Floats,
    test: tuple[Ints, Ints],
    known: tuple[Ints, Ints],
    *,
    count: int = 12,
    k: int = 12,
    seed: int = 0,
) -> list[TopPins]:
    """The first `k` pins of `count` pages, drawn from those of the test pairs.

    Pins that are known to go with a page are left out, as for recall.

    Args:
        page_set: whose rows are the rows of the vectors.
        pages: (n, d) float32.
        pins: (q, d) float32.
        test: rows of pages and of pins of the held-out pairs.
        known: the same of those that were learned from.
    """
    asked = np.unique(test[0])
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(asked, min(count, len(asked)), replace=False)).astype(np.int64)
    left_out = as_matrix(Pairs(*known), len(pages), len(pins))
    ranked = list(first(cosines(pages, pins), chosen, k, left_out))
    own = [np.unique(test[1][test[0] == page]) for page in chosen]
    wanted = np.unique(np.concatenate([*own, *(rows for rows, _ in ranked)])).astype(np.int64)
    of_pages, of_pins = cards(page_set.pages, chosen), cards(page_set.pins, wanted)
    shown = []
    for page, mine, (rows, scores) in zip(chosen, own, ranked, strict=True):
        found = (
            Found(of_pins[int(row)], float(score), bool(row in mine))
            for row, score in zip(rows, scores, strict=True)
        )
        held = tuple(of_pins[int(row)] for row in mine)
        shown.append(TopPins(of_pages[int(page)], held, tuple(found)))
    return shown


def cards(file: Path, rows: Sequence[int] | Ints) -> dict[int, Card]:
    """Cards of the given rows of a canonical Parquet file, by row; the file is not read whole."""
    if not len(rows):
        return {}
    scan = f"read_parquet({literal(str(file))}, file_row_number = true)"
    numbers = ", ".join(str(int(row)) for row in rows)
    with duckdb.connect() as connection:
        has_url = "url" in [
            row[0] for row in connection.execute(f"DESCRIBE FROM {scan}").fetchall()
        ]
        found = connection.execute(
            f"SELECT file_row_number, CAST(key AS VARCHAR), coalesce(text, ''), "
            f"{'url' if has_url else 'NULL'}, coalesce(image_files, []) "
            f"FROM {scan} WHERE file_row_number IN ({numbers})"
        ).fetchall()
    return {row: Card(key, text, url, tuple(images)) for row, key, text, url, images in found}
