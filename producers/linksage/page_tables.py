"""The declared rows of a page set as canonical Parquet files: pages, pins, pairs and boards.

DuckDB reads, judges and sorts them out of core. What lies at or after the cut is not there, so that
nothing learned from the files can know it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from provender.plugin.errors import MappingError
from provender.plugin.files import whole_folder
from provender.plugin.tables import TableSource, open_tables
from provender.producers.linksage.declarations import PageSources
from provender.producers.linksage.node_rows import write_nodes
from provender.producers.linksage.pair_rows import write_boards, write_pairs

Report = dict[str, Any]


@dataclass(frozen=True)
class PageSet:
    """Canonical tables in a folder.

    Attributes:
        folder: of the files.
            pages.parquet and pins.parquet, by ascending, unique `key` (int64 or string): `text`
            ('' for none), `text_vector` (list<float> or null), `image_files` (list<string>),
            `image_vectors` (list<list<float>>), `image_sizes` (list<float>, one an image vector,
            or one an image file where no vectors are declared), `since` (timestamp in UTC or null:
            known always), `content_hash`; of pages `url`, `canonical_url` and `domain` (strings or
            null), of pins `target` (list<float> or null).
            pairs.parquet, by pin, page and kind, each once: `pin`, `page` (keys that exist),
            `kind`, `weight`, `cohesion` (float or null), `edges`, `positives`.
            boards.parquet, by board and pin, each once: `board`, `pin`.
        data: the folder that image files are relative to.
        report: rows kept, and rows dropped by reason, of each table.
    """

    folder: Path
    data: Path
    report: Report

    @property
    def pages(self) -> Path:
        """The file of pages."""
        return self.folder / "pages.parquet"

    @property
    def pins(self) -> Path:
        """The file of pins."""
        return self.folder / "pins.parquet"

    @property
    def pairs(self) -> Path:
        """The file of pairs."""
        return self.folder / "pairs.parquet"

    @property
    def boards(self) -> Path:
        """The file of boards' pins."""
        return self.folder / "boards.parquet"

    @classmethod
    def open(cls, folder: Path) -> PageSet:
        """The page set that :func:`read_page_set` has written to the folder."""
        told = json.loads((folder / "report.json").read_text("utf-8"))
        return cls(folder, Path(told["data"]), told["rows"])


def read_page_set(
    sources: PageSources,
    tables: Mapping[str, TableSource],
    data: Path,
    folder: Path,
    *,
    key_types: Mapping[str, str] | None = None,
    as_of: datetime | None = None,
) -> PageSet:
    """Read what is known before `as_of` into `folder`, which is there whole or not at all.

    Of several rows of a key, or of a pair of one kind, the newest counts. Rows without a good key
    or time, and pairs of pages or pins that are not there, are dropped and counted by reason;
    vectors, sizes and image files that can't be read are left out and counted.

    Args:
        sources: which columns of which tables.
        tables: what they are read from.
        data: the folder that tables' paths and image files are relative to.
        folder: where the files will be; it must not be there yet.
        key_types: `int64` or `string`, by `page`, `pin` and `board`; taken from the keys' columns
            where not given.
        as_of: rows at or after it are not there; None reads everything.

    Raises:
        MappingError: a declaration that does not fit its table.
        SourceError: a table that can't be read.
        FileExistsError: the folder is there already.
    """
    declared = [sources.pages, sources.pins, *sources.pairs.values()]
    names = {one.table for one in declared} | ({sources.boards.table} if sources.boards else set())
    _check_tables(names, tables)
    with whole_folder(folder.parent, folder) as staged:
        work = staged / "work"
        connection = open_tables(tables, data, work, only=names)
        try:
            report = _write(connection, sources, data, staged, dict(key_types or {}), as_of)
        finally:
            connection.close()
            shutil.rmtree(work)
        told = {"data": str(data.absolute()), "as_of": as_of and as_of.isoformat(), "rows": report}
        (staged / "report.json").write_text(json.dumps(told, indent=2), "utf-8")
    return PageSet(folder, data, report)


def _write(
    connection: duckdb.DuckDBPyConnection,
    sources: PageSources,
    data: Path,
    staged: Path,
    key_types: dict[str, str],
    as_of: datetime | None,
) -> Report:
    report: Report = {}
    known = {name: staged / f"{name}s.parquet" for name in ("page", "pin")}
    for name, declared in (("page", sources.pages), ("pin", sources.pins)):
        key_type, place = key_types.get(name), known[name]
        report[f"{name}s"] = write_nodes(connection, name, declared, data, place, key_type, as_of)
    report["pairs"] = write_pairs(connection, sources.pairs, known, staged / "pairs.parquet", as_of)
    report["boards"] = write_boards(
        connection, sources.boards, known, staged / "boards.parquet", key_types.get("board"), as_of
    )
    return report


def _check_tables(names: set[str], tables: Mapping[str, TableSource]) -> None:
    for name in sorted(names - set(tables)):
        raise MappingError(
            "linksage",
            found=f"table {name}",
            expected=f"one of {', '.join(sorted(tables))}",
            remedy="Correct it or declare it under `tables`.",
        )
