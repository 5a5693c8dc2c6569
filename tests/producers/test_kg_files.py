"""What is read from each kind of file, and what is refused with its line."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import SourceError
from provender.producers.kg_files import read_links

ROWS = [("a b", "likes", "ü"), ("5", "likes", "a b"), ("5", "has,part", "5")]


def _rows(path: Path) -> list[tuple[str, ...]]:
    read = read_links(path)
    columns = (
        [read.head, read.tail] if read.relation is None else [read.head, read.relation, read.tail]
    )
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def _text(rows: Sequence[tuple[str, ...]], separator: str = "\t") -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


def test_every_kind_of_file_gives_the_same_links(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.tsv", tmp_path / "a.txt.gz"
    plain.write_text(_text(ROWS), encoding="utf-8")
    packed.write_bytes(gzip.compress(_text(ROWS).encode()))
    comma = tmp_path / "a.csv"
    comma.write_text('a b,likes,ü\n5,likes,a b\n5,"has,part",5\n', encoding="utf-8")
    comma_packed = tmp_path / "a.csv.gz"
    comma_packed.write_bytes(gzip.compress(comma.read_bytes()))
    parquet = tmp_path / "a.parquet"
    table = pa.table(
        dict(zip(("head", "relation", "tail"), map(list, zip(*ROWS, strict=True)), strict=True))
    )
    pq.write_table(table.select(["tail", "head", "relation"]), parquet)
    for path in (plain, packed, comma, comma_packed, parquet):
        assert _rows(path) == ROWS, path.name


def test_a_parquet_file_of_other_names_is_read_by_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": [1, 2], "item": [3, 1]}), path)
    assert _rows(path) == [("1", "3"), ("2", "1")]


def test_blank_lines_headers_marks_and_ends_of_lines_are_not_links(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffhead\trelation\ttail\r\n\r\na\tr\tb\r\n \nb\tr\tc".encode())
    assert _rows(path) == [("a", "r", "b"), ("b", "r", "c")]
    path.write_text("\nhead\ttail\nuser\titem\n")
    assert _rows(path) == [("user", "item")]


def test_quotes_are_letters_in_tab_separated_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('"a\tr\tb"c\n')
    assert _rows(path) == [('"a', "r", 'b"c')]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tsv", b"a\tr\tb\n\na\tr\n", ["a.tsv, line 3", "2 fields, 'a|r'", "3 names"]),
        ("a.tsv", b"a\tb\na\tr\tb\n", ["line 2", "3 fields", "2 names"]),
        ("a.tsv", b"a r b\n", ["line 1", "1 field, 'a r b'", "tab"]),
        ("a.tsv", b"a\tr\tb\na\t\tb\n", ["line 2", "'a||b'", "not empty"]),
        ("a.tsv", b"a\tr\tb\n\t\t\n", ["line 2", "'||'", "not empty"]),
        ("a.tsv", b"a\tr\tb\n\xff\xfe\tr\tb\n", ["line 2", "no UTF-8"]),
        ("a.csv", b'a,r,b\n"a,r,b\n', ["line", "unexpected end of data"]),
        ("a.tsv", b"", ["no links"]),
        ("a.tsv", b"head\trelation\ttail\n", ["no links"]),
        ("a.tsv.gz", b"a\tr\tb\n", ["Not a gzipped file"]),
        ("a.parquet", b"PAR1", ["whole Parquet file"]),
    ],
)
def test_a_bad_file_is_refused_with_its_line(
    name: str, content: bytes, told: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as refused:
        read_links(path)
    assert all(each in str(refused.value) for each in [name, *told]), refused.value


def test_a_cut_off_gz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(_text(ROWS * 1000).encode())[:-20])
    with pytest.raises(SourceError, match=r"line \d+.*whole, readable file"):
        read_links(path)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"head": ["a", None], "tail": ["b", "c"]}), "row 2, column head"),
        (pa.table({"head": ["a"], "tail": [[1]]}), "column tail"),
        (pa.table({"a": ["a"], "b": ["b"], "c": ["c"], "d": ["d"]}), "the columns a, b, c, d"),
    ],
)
def test_a_parquet_file_that_holds_no_names_is_refused(
    table: pa.Table, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    with pytest.raises(SourceError, match=told):
        read_links(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.tsv: found no such file"):
        read_links(tmp_path / "nowhere.tsv")
