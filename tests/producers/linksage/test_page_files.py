"""Page sets as files: columns by the names that people use, and pairs set aside for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import MappingError
from provender.producers.linksage.page_files import TEST, declare_files
from provender.producers.linksage.page_tables import PageSet, read_page_set

Pair = tuple[Any, Any]
Rows = list[dict[str, Any]]
PAIRS = [(pin, page) for page in "abcdefgh" for pin in range(25)]


def files(folder: Path, **tables: Rows) -> dict[str, Path]:
    rows: dict[str, Rows] = {
        "pages": [{"page": page, "title": page, "body": "x"} for page in "abcdefgh"],
        "pins": [{"pin": pin, "headline": str(pin)} for pin in range(25)],
        "pairs": [{"pin": pin, "page": page} for pin, page in PAIRS],
        **tables,
    }
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return {name: folder / f"{name}.jsonl" for name in rows}


def read(
    folder: Path, given: dict[str, Path], **options: Any
) -> tuple[PageSet, set[Pair], set[Pair]]:
    declared = declare_files(given, {}, "config", **options)
    rows = read_page_set(declared.sources, declared.tables, folder, folder / "rows")
    table = pq.read_table(rows.pairs).to_pylist()
    kinds = [
        {(r["pin"], r["page"]) for r in table if (r["kind"] == TEST) is k} for k in (False, True)
    ]
    flags = {(row["edges"], row["positives"]) for row in table if row["kind"] == TEST}
    assert flags <= {(False, False)}
    return rows, kinds[0], kinds[1]


def test_columns_go_by_their_names(tmp_path: Path) -> None:
    given = files(
        tmp_path,
        pins=[{"id": 1, "alt_text": "a", "image": "1.png", "target": [0.5]}],
        boards=[{"board_id": 1, "pin_id": 1}],
    )
    sources = declare_files(given, {"pages": {"text": ["body"]}}, "config").sources
    assert (sources.pages.key, sources.pages.text) == ("page", ("body",))
    assert (sources.pins.key, sources.pins.text, sources.pins.images) == (
        "id",
        ("alt_text",),
        "image",
    )
    assert sources.pins.target == "target"
    assert sources.boards is not None
    assert (sources.boards.key, sources.boards.pin) == ("board_id", "pin_id")


def test_vectors_in_csv_are_lists(tmp_path: Path) -> None:
    given = files(tmp_path)
    given["pins"] = tmp_path / "pins.csv"
    given["pins"].write_text('pin,title,text_vector\n0,t,"[0.5, 1]"\n')
    rows, _, _ = read(tmp_path, given)
    (row,) = pq.read_table(rows.pins).to_pylist()
    assert (row["text_vector"], row["text"]) == ([0.5, 1.0], "")


def test_a_share_of_the_pairs_is_held_out_the_same_each_time(tmp_path: Path) -> None:
    given = files(tmp_path)
    _, learned, test = read(tmp_path, given, hold_out=0.2)
    assert learned | test == set(PAIRS)
    assert not learned & test
    assert 0.1 < len(test) / len(PAIRS) < 0.3
    # A pair's lot does not depend on the others.
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    some = [pair for pair in PAIRS if pair[0] % 2]
    given = files(fewer, pairs=[{"pin": pin, "page": page} for pin, page in some])
    assert read(fewer, given, hold_out=0.2)[2] == test & set(some)
    other = tmp_path / "other"
    other.mkdir()
    assert read(other, files(other), hold_out=0.2, seed=1)[2] != test


def test_pairs_of_the_test_are_not_learned_from(tmp_path: Path) -> None:
    aside = PAIRS[::7]
    given = files(tmp_path, test=[{"pin": pin, "page": page} for pin, page in aside])
    _, learned, test = read(tmp_path, given)
    assert test == set(aside)
    assert learned == set(PAIRS) - set(aside)


def test_a_file_without_its_key_says_how_it_may_be_called(tmp_path: Path) -> None:
    given = files(tmp_path, pages=[{"address": "a", "title": "t"}])
    with pytest.raises(MappingError) as caught:
        declare_files(given, {}, "config")
    line = str(caught.value)
    assert "pages.jsonl: found the columns address, title; expected a column of the key" in line
    assert "say `pages: {key: COLUMN}` in --config" in line
    assert declare_files(given, {"pages": {"key": "address"}}, "config").sources.pages.key
