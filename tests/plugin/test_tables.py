"""Declared tables over files: what is read, and one line for each way in which a file is broken."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import ConfigError, MappingError, ProvenderError, SourceError
from provender.plugin.tables import TableSource, columns_of, explained, open_tables

NAIVE = pa.array([datetime(2026, 1, 1)], pa.timestamp("us"))
AWARE = pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))


def rows(tmp_path: Path, **source: Any) -> list[tuple[Any, ...]]:
    """All rows of one declared table, sorted."""
    with open_tables({"t": TableSource(**source)}, tmp_path, tmp_path / "work") as connection:
        with explained("t"):
            found: list[tuple[Any, ...]] = connection.execute("FROM t").fetchall()
        return sorted(found, key=repr)


def test_parquet_by_file_glob_and_folder(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / "log" / f"d{day}").mkdir(parents=True)
        pq.write_table(pa.table({"a": [day]}), tmp_path / "log" / f"d{day}" / "x.parquet")
    (tmp_path / "log" / ".hidden.parquet").write_bytes(b"")
    (tmp_path / "log" / "_SUCCESS").write_bytes(b"")

    assert rows(tmp_path, path="log/d1/x.parquet") == [(1,)]
    assert rows(tmp_path, path="log/*/x.parquet") == [(1,), (2,)]
    assert rows(tmp_path, path="log") == [(1,), (2,)]
    assert rows(tmp_path, path=str(tmp_path / "log" / "d2")) == [(2,)]


def test_csv_is_text_and_nothing_is_guessed(tmp_path: Path) -> None:
    text = 'id,time,note\n007,2026-01-01,"a,b"\n8,,"two\nlines"\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.tsv").write_text("id\ttime\tnote\n007\t2026-01-01\ta,b\n", encoding="utf-8-sig")
    expected = [("007", "2026-01-01", "a,b"), ("8", None, "two\nlines")]

    assert rows(tmp_path, path="a.csv") == expected
    assert rows(tmp_path, path="a.csv.gz") == expected
    assert rows(tmp_path, path="a.tsv") == expected[:1]


def test_declared_types_of_csv_make_null_of_what_misfits(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n\nx,1.5\ny,many\n", encoding="utf-8")

    assert rows(tmp_path, path="a.csv", types={"n": "DOUBLE"}) == [("x", 1.5), ("y", None)]


def test_json_lines_have_the_types_of_all_their_values(tmp_path: Path) -> None:
    lines = '{"id": "007", "tags": ["a"]}\n' * 30_000 + '{"id": "8", "n": 1.5, "tags": []}\n'
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(lines.encode()))

    found = rows(tmp_path, path="a.jsonl")
    assert (found[0], found[-1], len(found)) == (("007", ["a"], None), ("8", [], 1.5), 30_001)
    assert rows(tmp_path, path="a.ndjson.gz") == found
    typed = rows(tmp_path, path="a.jsonl", types={"n": "VARCHAR", "id": "BIGINT"})
    assert (typed[0], typed[-1]) == ((7, ["a"], None), (8, [], "1.5"))


def test_a_broken_line_of_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": \n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"table t .*a\.jsonl.*Malformed JSON.*in line"):
        rows(tmp_path, path="a.jsonl")


def test_sql_over_other_tables_and_only_what_is_needed_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n2\n", encoding="utf-8")
    tables = {
        "twice": TableSource(sql="SELECT id || id AS id FROM a"),
        "a": TableSource(path="a.csv"),
        "broken": TableSource(path="nowhere.csv"),
    }

    with open_tables(tables, tmp_path, tmp_path / "work", only=["twice"]) as connection:
        assert columns_of(connection, "twice") == {"id": "VARCHAR"}
        assert connection.execute("SELECT id FROM twice ORDER BY id").fetchall() == [
            ("11",),
            ("22",),
        ]


def test_order_by_holds_for_arrow_results(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [i * 7919 % 300_007 for i in range(300_007)]}), tmp_path / "a.pq")
    with open_tables({"t": TableSource(path="a.pq")}, tmp_path, tmp_path / "work") as connection:
        found = connection.sql("SELECT a FROM t ORDER BY a").to_arrow_table()

    assert found["a"].to_pylist() == list(range(300_007))


def broken_files(folder: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), folder / "good.parquet")
    whole = (folder / "good.parquet").read_bytes()
    files = {
        "empty.parquet": b"",
        "cut.parquet": whole[: len(whole) // 2],
        "text.parquet": b"this is no Parquet file at all",
        "empty.csv": b"",
        "header.csv": b"a,b\n",
        "latin.csv": "a,b\n1,é\n".encode("latin-1"),
        "late-latin.csv": b"a,b\n" + b"1,e\n" * 50_000 + "2,é\n".encode("latin-1"),
        "utf16.csv": "a,b\n1,2\n".encode("utf-16"),
        "short.csv": b"a,b\n1,2\n3\n",
        "long.csv": b"a,b\n1,2\n3,4,5\n",
        "twice.csv": b"a,a\n1,2\n",
        "cut.csv.gz": gzip.compress(
            b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(9999))
        )[:-500],
        "plain.csv.gz": b"a,b\n1,2\n",
        "notes.txt": b"a",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), folder / "rowless.parquet")
    pq.write_table(pa.table({"t": NAIVE}), folder / "zone-1.parquet")
    pq.write_table(pa.table({"t": AWARE}), folder / "zone-2.parquet")
    pq.write_table(pa.table({"a": [1]}), folder / "type-1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), folder / "type-2.parquet")
    pq.write_table(pa.table({"a": [1]}), folder / "names-1.parquet")
    pq.write_table(pa.table({"b": [1]}), folder / "names-2.parquet")
    (folder / "heads-1.csv").write_bytes(b"a,b\n1,2\n")
    (folder / "heads-2.csv").write_bytes(b"b,c\n1,2\n")


@pytest.mark.parametrize(
    ("path", "found", "remedy"),
    [
        ("nowhere.parquet", "nothing at", "Correct the table's path"),
        ("empty.parquet", "an empty file of 0 bytes", "Fetch or write"),
        ("rowless.parquet", "no rows", "write the data again"),
        ("cut.parquet", "magic bytes", "damaged or cut off"),
        ("text.parquet", "magic bytes", "damaged or cut off"),
        ("empty.csv", "an empty file of 0 bytes", "Fetch or write"),
        ("header.csv", "no rows", "write the data again"),
        ("latin.csv", "no UTF-8", "iconv"),
        ("late-latin.csv", "not utf-8", "iconv"),
        ("utf16.csv", "no UTF-8", "iconv"),
        ("short.csv", "Line: 3", "Mend the line"),
        ("long.csv", "Line: 3", "Mend the line"),
        ("twice.csv", "'a,a'", "header line"),
        ("cut.csv.gz", "", "damaged or cut off"),
        ("plain.csv.gz", "Not a gzipped file", "damaged or cut off"),
        ("notes.txt", "files named notes.txt", "glob"),
        ("zone-*.parquet", "a time zone mix: t has a zone in", "UTC timestamps"),
        ("type-*.parquet", "type-2.parquet", "Write the file that differs"),
        ("names-*.parquet", "names-2.parquet", "Write the file that differs"),
        ("heads-*.csv", "the columns b, c in", "Write the file that differs"),
    ],
)
def test_broken_files_give_one_line_with_the_remedy(
    tmp_path: Path, path: str, found: str, remedy: str
) -> None:
    broken_files(tmp_path)

    with pytest.raises(SourceError) as caught:
        rows(tmp_path, path=path)

    line = str(caught.value)
    assert "\n" not in line
    assert found in caught.value.found
    assert remedy in line


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"sql": "SELECT * FROM nowhere"}, "nowhere"),
        ({"sql": "SELEC 1"}, "SELEC"),
        ({"path": "good.parquet", "types": {"a": "DOUBLE"}}, "`types` on Parquet"),
        ({"path": "heads-1.csv", "types": {"z": "DOUBLE"}}, '"z"'),
        ({"path": "heads-1.csv", "types": {"a": "WISH"}}, "WISH"),
    ],
)
def test_declarations_that_do_not_fit(tmp_path: Path, source: dict[str, Any], words: str) -> None:
    broken_files(tmp_path)

    with pytest.raises(MappingError) as caught:
        rows(tmp_path, **source)

    assert words in caught.value.found


def test_a_memory_limit_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a size such as 2GB"):
        open_tables({}, tmp_path, tmp_path / "work", memory_limit="plenty")


def test_every_error_is_a_provender_error() -> None:
    assert all(issubclass(e, ProvenderError) for e in (ConfigError, MappingError, SourceError))
