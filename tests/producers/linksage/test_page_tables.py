"""A page set as it is declared: the newest before the cut, whatever is wrong or lies after it."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import MappingError, SourceError
from provender.plugin.tables import TableSource
from provender.producers.linksage.declarations import PageSources
from provender.producers.linksage.page_tables import PageSet, read_page_set

T = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", "UTC")
VECTORS = pa.list_(pa.list_(pa.float32()))
PAGES = pa.schema(
    [("id", pa.int64()), ("title", pa.string()), ("body", pa.string()), ("url", pa.string()),
     ("files", pa.list_(pa.string())), ("areas", pa.list_(pa.float64())),
     ("vector", pa.list_(pa.float64())), ("at", TIME)]
)  # fmt: skip
PINS = pa.schema(
    [("id", pa.int64()), ("page", pa.int64()), ("shown", VECTORS), ("areas", pa.list_(pa.int64())),
     ("target", pa.list_(pa.float32())), ("fit", pa.float64()), ("at", TIME)]
)  # fmt: skip
BOARDS = pa.schema([("board", pa.string()), ("pin", pa.int64()), ("at", TIME)])
DECLARED: dict[str, Any] = {
    "pages": {"table": "pages", "key": "id", "text": ["title", "body"], "url": "url",
              "images": "files", "image_sizes": "areas", "text_vector": "vector", "time": "at"},
    "pins": {"table": "pins", "key": "id", "image_vectors": "shown", "image_sizes": "areas",
             "target": "target", "time": "at"},
    "pairs": {
        "saved": {"table": "pins", "pin": "id", "page": "page", "cohesion": "fit", "time": "at"},
        "bought": {"table": "buys", "pin": "pin", "page": "page", "weight": 3, "edges": False},
    },
    "boards": {"table": "boards", "key": "board", "pin": "pin", "time": "at"},
}  # fmt: skip
OLD, NEW = T - 2 * HOUR, T - HOUR
PAGE_ROWS: list[dict[str, Any]] = [
    {"id": 9, "title": " A ", "body": "b", "url": "http://www.x.org/a?utm_id=1", "at": OLD,
     "files": ["one.png", "gone.png", "two.png"], "areas": [1, 2, 3], "vector": [1, 2]},
    {"id": 4, "title": "old", "at": OLD, "url": "https://x.org/b"},
    {"id": 4, "title": None, "body": "new", "at": NEW, "url": "nothing",
     "vector": [1, float("nan")],
     "files": ["two.png"], "areas": [1, 1]},
]  # fmt: skip
PIN_ROWS: list[dict[str, Any]] = [
    {"id": 3, "page": 9, "shown": [[1, 0], [0, 1]], "areas": [5, 6], "target": [1, 2, 3],
     "fit": 0.5, "at": OLD},
    {"id": 1, "page": 4, "shown": [[1, None]], "areas": [7], "target": None, "fit": float("inf"),
     "at": OLD},
    {"id": 1, "page": 4, "shown": [[1, 1]], "areas": [0], "at": NEW},
    {"id": 1, "page": 77, "shown": [[1, 1]], "at": NEW - HOUR / 2},
]  # fmt: skip
GARBAGE: list[dict[str, Any]] = [
    {"id": 4, "title": "later", "at": T, "files": ["one.png"]},
    {"id": 5, "title": "later", "at": T + HOUR},
]
GARBAGE_PINS: list[dict[str, Any]] = [
    {"id": 3, "page": 4, "shown": [[9.0]], "fit": 1.0, "at": T},
    {"id": None, "page": 4, "at": T + HOUR},
]


def write(folder: Path, pages: list[dict[str, Any]], pins: list[dict[str, Any]]) -> None:
    (folder / "one.png").write_bytes(b"1")
    (folder / "two.png").write_bytes(b"2")
    boards = [
        {"board": "b", "pin": 3, "at": OLD},
        {"board": "b", "pin": 3, "at": OLD},
        {"board": "a", "pin": 1, "at": NEW},
        {"board": "a", "pin": 8, "at": NEW},
        {"board": "a", "pin": 3, "at": T},
    ]
    buys = {"pin": [3, 3, None], "page": [9, 9, 9]}
    pq.write_table(pa.Table.from_pylist(pages, schema=PAGES), folder / "pages.parquet")
    pq.write_table(pa.Table.from_pylist(pins, schema=PINS), folder / "pins.parquet")
    pq.write_table(pa.Table.from_pylist(boards, schema=BOARDS), folder / "boards.parquet")
    pq.write_table(pa.table(buys), folder / "buys.parquet")


def read(folder: Path, declared: dict[str, Any] = DECLARED, **options: Any) -> PageSet:
    names = ("pages", "pins", "boards", "buys")
    tables = {name: TableSource(path=f"{name}.parquet") for name in names}
    sources = PageSources.model_validate(declared)
    return read_page_set(sources, tables, folder, folder / "set", **({"as_of": T} | options))


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("step", [1, -1])
def test_the_newest_before_the_cut(tmp_path: Path, later: int, step: int) -> None:
    write(
        tmp_path, (PAGE_ROWS + GARBAGE * later)[::step], (PIN_ROWS + GARBAGE_PINS * later)[::step]
    )
    found = read(tmp_path)
    pages, pins = (pq.read_table(place).to_pylist() for place in (found.pages, found.pins))
    hashes = [row.pop("content_hash") for row in pages + pins]
    assert len(set(hashes)) == 4
    assert pages == [
        {"key": 4, "text": "new", "text_vector": None, "image_files": ["two.png"],
         "image_vectors": [], "image_sizes": [1.0], "url": "nothing", "canonical_url": None,
         "domain": None, "since": NEW},
        {"key": 9, "text": "A\nb", "text_vector": [1.0, 2.0], "image_files": ["one.png", "two.png"],
         "image_vectors": [], "image_sizes": [1.0, 3.0], "url": "http://www.x.org/a?utm_id=1",
         "canonical_url": "https://x.org/a".replace("x.org", "www.x.org"), "domain": "x.org",
         "since": OLD},
    ]  # fmt: skip
    assert pins == [
        {"key": 1, "text": "", "text_vector": None, "image_files": [],
         "image_vectors": [[1.0, 1.0]], "image_sizes": [1.0], "target": None, "since": NEW},
        {"key": 3, "text": "", "text_vector": None, "image_files": [],
         "image_vectors": [[1.0, 0.0], [0.0, 1.0]], "image_sizes": [5.0, 6.0],
         "target": [1.0, 2.0, 3.0], "since": OLD},
    ]  # fmt: skip
    saved = {"kind": "saved", "weight": 1.0, "edges": True, "positives": True}
    bought = saved | {"kind": "bought", "weight": 3.0, "edges": False}
    assert pq.read_table(found.pairs).to_pylist() == [
        {"pin": 1, "page": 4, "cohesion": None, **saved},
        {"pin": 3, "page": 9, "cohesion": None, **bought},
        {"pin": 3, "page": 9, "cohesion": 0.5, **saved},
    ]
    assert pq.read_table(found.boards).to_pylist() == [
        {"board": "a", "pin": 1},
        {"board": "b", "pin": 3},
    ]
    assert found.report == {
        "pages": {
            "kept": 2,
            "dropped": {"an older row of its key": 1},
            "left_out": {
                "text_vector is no vector": 1,
                "image_sizes of another number than images": 1,
                "image file is missing": 1,
            },
        },
        "pins": {
            "kept": 2,
            "dropped": {"an older row of its key": 2},
            "left_out": {"image_sizes are no sizes of the images": 1},
        },
        "pairs": {
            "saved": {"kept": 2, "dropped": {"no such page": 1, "told before": 1}},
            "bought": {"kept": 1, "dropped": {"pin is missing": 1, "told before": 1}},
        },
        "boards": {"kept": 2, "dropped": {"no such pin": 1, "told before": 1}},
    }
    assert PageSet.open(found.folder) == found
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "boards.parquet", "pages.parquet", "pairs.parquet", "pins.parquet", "report.json"
    ]  # fmt: skip


def test_the_hash_tells_what_has_changed(tmp_path: Path) -> None:
    """Every part of what is shown has a part in it, a file's bytes included; times have none."""
    row = {"id": 1, "title": "t", "url": "x.org", "files": ["one.png", "two.png"],
           "areas": [1, 2], "vector": [1, 2], "at": OLD}  # fmt: skip
    changes: list[dict[str, Any]] = [
        {}, {"at": NEW}, {"title": "u"}, {"url": "y.org"}, {"files": ["two.png", "one.png"]},
        {"areas": [2, 1]}, {"vector": [1, 3]}, {"title": "tx", "url": ".org"},
    ]  # fmt: skip
    write(tmp_path, [row | change | {"id": n} for n, change in enumerate(changes)], PIN_ROWS)

    def hashes() -> list[str]:
        found = read(tmp_path)
        told: list[str] = pq.read_table(found.pages)["content_hash"].to_pylist()
        found.folder.rename(tmp_path / f"set{len(list(tmp_path.glob('set*')))}")
        return told

    first = hashes()
    assert first[0] == first[1]
    assert len(set(first)) == len(changes) - 1
    (tmp_path / "one.png").touch()
    assert hashes() == first
    (tmp_path / "one.png").write_bytes(b"3")
    assert all(a != b for a, b in zip(hashes(), first, strict=True))


def test_bad_keys_and_times_are_counted(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"id": None, "at": OLD},
        {"id": None, "at": OLD},
        {"id": 3, "at": None},
    ]
    write(tmp_path, PAGE_ROWS + bad, PIN_ROWS)
    dropped = read(tmp_path).report["pages"]["dropped"]
    assert dropped == {"id is missing": 2, "at is missing": 1, "an older row of its key": 1}


def test_csv_files_and_string_keys(tmp_path: Path) -> None:
    with (tmp_path / "pages.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "vector", "image", "areas", "shown"])
        rows.writerow(["b", "[0.5, 2]", "one.png", "4", "[1, 2]"])
        rows.writerow(["a", "0.25,1", "['one.png', 'two.png']", "[4, 5]", "[[1, 2], [3, 4]]"])
        rows.writerow(["c", "x", "", "-1", "[]"])
    write(tmp_path, PAGE_ROWS, PIN_ROWS)
    page = {"table": "pages", "key": "id", "text_vector": "vector", "images": "image",
            "image_sizes": "areas", "image_vectors": "shown"}  # fmt: skip
    sources = PageSources.model_validate(
        {
            "pages": page,
            "pins": page,
            "pairs": {"same": {"table": "pages", "pin": "id", "page": "id"}},
        }
    )
    tables = {"pages": TableSource(path="pages.csv")}
    found = read_page_set(sources, tables, tmp_path, tmp_path / "set")
    rows_read = pq.read_table(found.pages).to_pylist()
    assert [row["key"] for row in rows_read] == ["a", "b", "c"]
    assert [row["text_vector"] for row in rows_read] == [[0.25, 1.0], [0.5, 2.0], None]
    assert [row["image_files"] for row in rows_read] == [["one.png", "two.png"], ["one.png"], []]
    assert [row["image_vectors"] for row in rows_read] == [[[1, 2], [3, 4]], [[1, 2]], []]
    assert [row["image_sizes"] for row in rows_read] == [[4, 5], [4], []]
    assert [row["since"] for row in rows_read] == [None] * 3
    assert pq.read_table(found.pairs)["pin"].to_pylist() == ["a", "b", "c"]
    assert pq.read_table(found.boards).num_rows == 0


def test_declared_key_types_win(tmp_path: Path) -> None:
    write(tmp_path, PAGE_ROWS, PIN_ROWS)
    found = read(tmp_path, key_types={"page": "string", "board": "string"})
    assert pq.read_table(found.pages)["key"].to_pylist() == ["4", "9"]
    assert pq.read_table(found.pairs)["page"].to_pylist() == ["4", "9", "9"]


@pytest.mark.parametrize(
    ("section", "changed", "told"),
    [
        ("pages", {"table": "nowhere"}, "nowhere"),
        ("pages", {"text": ["titel"]}, "linksage.pages.text.0: found no column titel"),
        ("pages", {"images": "areas"}, "areas of type DOUBLE"),
        ("pages", {"text_vector": "title"}, None),
        ("pages", {"text_vector": "id"}, "id of type BIGINT"),
        ("pins", {"target": "shown"}, "shown of type FLOAT"),
        ("pins", {"time": "page"}, "linksage.pins.time"),
        ("boards", {"pin": "pins"}, "linksage.boards.pin"),
    ],
)
def test_what_does_not_fit_the_table(
    tmp_path: Path, section: str, changed: dict[str, Any], told: str | None
) -> None:
    write(tmp_path, PAGE_ROWS, PIN_ROWS)
    declared = DECLARED | {section: DECLARED[section] | changed}
    if told is None:
        assert read(tmp_path, declared).report["pages"]["left_out"]["text_vector is no vector"] == 1
        return
    with pytest.raises(MappingError, match=told.replace("[", r"\[")):
        read(tmp_path, declared)
    assert not (tmp_path / "set").exists()


def test_vectors_of_two_lengths_are_refused(tmp_path: Path) -> None:
    write(tmp_path, PAGE_ROWS, [*PIN_ROWS, {"id": 5, "shown": [[1, 2], [3]], "at": OLD}])
    with pytest.raises(MappingError, match=r"linksage.pins.image_vectors: found vectors of 1, 2"):
        read(tmp_path)


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, PAGE_ROWS, PIN_ROWS)
    first = read(tmp_path)
    before = (first.folder / "report.json").read_bytes()
    with pytest.raises(FileExistsError):
        read(tmp_path)
    assert (first.folder / "report.json").read_bytes() == before
    assert json.loads(before)["as_of"] == T.isoformat()


def test_a_table_without_a_file(tmp_path: Path) -> None:
    write(tmp_path, PAGE_ROWS, PIN_ROWS)
    (tmp_path / "pins.parquet").unlink()
    with pytest.raises(SourceError, match="pins"):
        read(tmp_path)
