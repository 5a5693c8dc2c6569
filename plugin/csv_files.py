"""CSV files as DuckDB reads them here: a said dialect, all columns text, headers checked."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

from provender.plugin.errors import SourceError


def csv_scan(thing: str, files: Sequence[Path]) -> str:
    """The SQL table function that reads the files as text columns.

    Nothing is guessed from a sample: DuckDB's own guess of the dialect can swallow rows without a
    word, and a guessed number type strips zeros off ids.

    Raises SourceError: files without the same header, a header that is no UTF-8, a column twice.
    """
    header = _header(thing, files[0])
    for other in files[1:]:
        if (found := _header(thing, other)) != header:
            raise SourceError(
                thing,
                found=f"the columns {', '.join(found)} in {other}",
                expected=f"{', '.join(header)} as in {files[0]}",
                remedy="Write the file that differs again, or leave it out.",
            )
    names = ", ".join(_text(str(file)) for file in files)
    columns = ", ".join(f"{_text(column)}: 'VARCHAR'" for column in header)
    return (
        f"read_csv([{names}], auto_detect = false, header = true, columns = {{{columns}}}, "
        f"delim = {_text(_delimiter(files[0]))}, quote = '\"', escape = '\"', nullstr = '', "
        "hive_partitioning = false)"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _delimiter(file: Path) -> str:
    return "\t" if ".tsv" in file.name else ","


def _header(thing: str, file: Path) -> list[str]:
    """The column names in the file's first line."""
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8-sig", newline="") as packed:
                columns = next(csv.reader(packed, delimiter=_delimiter(file)), [])
        else:
            with file.open(encoding="utf-8-sig", newline="") as plain:
                columns = next(csv.reader(plain, delimiter=_delimiter(file)), [])
    except UnicodeDecodeError:
        raise SourceError(
            thing,
            found=f"bytes in {file} that are no UTF-8",
            expected="UTF-8 text",
            remedy="Convert the file, for example with `iconv -f latin1 -t utf-8`.",
        ) from None
    except (OSError, EOFError, csv.Error) as error:
        raise SourceError(
            thing,
            found=f"{error} in {file}",
            expected="a whole, readable file",
            remedy="It is damaged or cut off: fetch or write it again.",
        ) from None
    if not columns or len(set(columns)) < len(columns) or "" in columns:
        raise SourceError(
            thing,
            found=f"the first line {','.join(columns)[:200]!r} in {file}",
            expected="a header that names each column once",
            remedy="Give the file a header line.",
        )
    return columns
