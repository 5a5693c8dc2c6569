"""Files of links by name: head, relation, tail, or head and tail alone.

Text is tab separated, or comma separated where the name has `.csv` in it; `.gz` behind either is
unpacked, and `.parquet` is read by its columns head, relation and tail, or by their order. Blank
lines are passed over, and a first line of exactly these column names is a header.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import SourceError

#: The names of the columns, by their number.
COLUMNS = {2: ("head", "tail"), 3: ("head", "relation", "tail")}
_WRITE_AGAIN = "It is damaged or cut off: fetch or write it again."


@dataclass(frozen=True, eq=False)
class NamedLinks:
    """The links of one file, in its order; `relation` is None where it has two columns."""

    path: Path
    head: pa.Array[Any]
    relation: pa.Array[Any] | None
    tail: pa.Array[Any]

    @property
    def columns(self) -> int:
        """2 or 3."""
        return 2 if self.relation is None else 3

    def __len__(self) -> int:
        return len(self.head)


def read_links(path: Path) -> NamedLinks:
    """Read one file; raises SourceError, which names the line, for one that is not as above."""
    if not path.is_file():
        raise SourceError(
            str(path),
            found="no such file",
            expected="a file of links",
            remedy="Correct the path.",
        )
    columns = _parquet(path) if path.suffix == ".parquet" else _text(path)
    if not len(columns[0]):
        raise SourceError(
            str(path),
            found="no links",
            expected="head, relation and tail, or head and tail, on each line",
            remedy="Leave the file out, or write it again.",
        )
    return NamedLinks(path, columns[0], columns[1] if len(columns) == 3 else None, columns[-1])


def _text(path: Path) -> list[pa.Array[Any]]:
    rows = _fields(path)
    first = next(rows, None)
    if first is None:
        return [pa.array([], pa.string())] * 2
    columns = COLUMNS.get(len(first[1]))
    if columns is None:
        raise _malformed(
            path, *first, "two or three names, separated by a tab (by a comma in .csv)"
        )
    links = [] if tuple(first[1]) == columns else [_checked(path, *first, len(columns))]
    links += [_checked(path, *row, len(columns)) for row in rows]
    return [pa.array(column, pa.string()) for column in zip(*links, strict=True)] or [
        pa.array([], pa.string())
    ] * len(columns)


def _checked(path: Path, line: int, fields: list[str], columns: int) -> list[str]:
    if len(fields) != columns:
        raise _malformed(path, line, fields, f"{columns} names, as in the first line")
    if not all(field.strip() for field in fields):
        raise _malformed(path, line, fields, "names that are not empty")
    return fields


def _malformed(path: Path, line: int, fields: list[str], expected: str) -> SourceError:
    many = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    return SourceError(
        f"{path}, line {line}",
        found=f"{many}, {'|'.join(fields)[:80]!r}",
        expected=expected,
        remedy="Correct the line, or remove it.",
    )


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line that is not blank."""
    if ".csv" not in path.suffixes[-2:]:
        rows = ((number, line.split("\t")) for number, line in _lines(path))
        yield from (row for row in rows if not _blank(row[1]))
        return
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if not _blank(row))
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {reader.line_num}",
            found=str(error),
            expected="fields as RFC 4180 quotes them",
            remedy="Correct the line.",
        ) from None


def _blank(fields: list[str]) -> bool:
    return len(fields) < 2 and not "".join(fields).strip()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number of each line and its text without what ends it."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, line {number}",
            found=f"bytes that are no UTF-8 ({error.reason})",
            expected="UTF-8 text",
            remedy="Convert the file, for example with `iconv -f latin1 -t utf-8`.",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"{path}, line {number + 1}",
            found=str(error),
            expected="a whole, readable file",
            remedy=_WRITE_AGAIN,
        ) from None


def _parquet(path: Path) -> list[pa.Array[Any]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(
            str(path),
            found=str(error).splitlines()[0],
            expected="a whole Parquet file",
            remedy=_WRITE_AGAIN,
        ) from None
    return [_names(path, name, table[name]) for name in _chosen(path, table.column_names)]


def _chosen(path: Path, names: list[str]) -> list[str]:
    for columns in (COLUMNS[3], COLUMNS[2]):
        if set(columns) <= set(names):
            return list(columns)
    if len(names) in COLUMNS:
        return names
    raise SourceError(
        str(path),
        found=f"the columns {', '.join(names)}",
        expected="head, relation and tail, or head and tail",
        remedy="Rename the columns.",
    )


def _names(path: Path, name: str, column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    try:
        text = column.combine_chunks().cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise SourceError(
            f"{path}, column {name}",
            found=f"values of type {column.type}",
            expected="strings or integers",
            remedy="Cast the column.",
        ) from None
    empty = pc.fill_null(pc.equal(text, ""), True)
    if pc.any(empty).as_py():
        raise SourceError(
            f"{path}, row {pc.index(empty, True).as_py() + 1}, column {name}",
            found="null or an empty name",
            expected="a name",
            remedy="Correct the row, or remove it.",
        )
    return text
