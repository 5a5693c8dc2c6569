"""JSON of crawled pages: what becomes a row, and what is refused with which reason."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from provender.producers.linksage.crawled_pages import ORDER, BadPageError, CrawledColumns
from provender.producers.linksage.declarations import PageDeclaration

DECLARED = PageDeclaration(
    table="pages",
    key="id",
    text=("title", "id"),
    text_vector="vector",
    images="files",
    image_vectors="looks",
    image_sizes="sizes",
    url="url",
    time="at",
)
COLUMNS = CrawledColumns.of(
    DECLARED, {"page": pa.int64(), "pin": pa.string()}, {"text": 2, "image": 3}
)
PAGE: dict[str, Any] = {
    "id": 7,
    "title": "Oak",
    "vector": [0.5, 1],
    "files": "a.png",
    "looks": [[1, 2, 3]],
    "sizes": 4,
    "url": None,
}


def test_a_page_becomes_a_row() -> None:
    row = COLUMNS.check(json.dumps({**PAGE, "pins": ["p", 8], "at": "now", "more": 1}))
    expected = {
        **PAGE,
        "vector": [0.5, 1.0],
        "files": ["a.png"],
        "looks": [[1.0, 2.0, 3.0]],
        "sizes": [4.0],
        "pins": ["p", "8"],
    }
    assert row == expected
    assert COLUMNS.table([{**row, ORDER: 3}]).to_pylist() == [{**expected, ORDER: 3}]
    assert COLUMNS.check(PAGE)["pins"] == []


@pytest.mark.parametrize(
    ("column", "value", "read"),
    [
        ("id", "12", 12),
        ("id", 12.0, 12),
        ("id", -(2**63), -(2**63)),
        ("title", 3, "3"),
        ("title", True, "true"),
        ("vector", "[1, 2]", [1.0, 2.0]),
        ("vector", [], []),
        ("looks", [1, 2, 3], [[1.0, 2.0, 3.0]]),
        ("looks", [], []),
        ("files", '["a", "b"]', ["a", "b"]),
        ("files", [], []),
        ("sizes", None, None),
    ],
)
def test_values_that_columns_have(column: str, value: Any, read: Any) -> None:
    assert COLUMNS.check({**PAGE, column: value})[column] == read


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("{", "no JSON"),
        (b"\xff", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "no JSON object but a list"),
        ({k: v for k, v in PAGE.items() if k != "url"}, "no column url"),
        ({**PAGE, "id": None}, "column id: no key"),
        ({**PAGE, "id": True}, "column id: True is no int64 key"),
        ({**PAGE, "id": 1.5}, "column id: 1.5 is no int64 key"),
        ({**PAGE, "id": 2**63}, "is no int64 key"),
        ({**PAGE, "id": "x"}, "column id: invalid literal"),
        ({**PAGE, "vector": [1, 2, 3]}, "column vector: 3 numbers instead of 2"),
        ({**PAGE, "vector": [1, None]}, "column vector: [1, None] is no list of numbers"),
        ({**PAGE, "vector": [1, 10**400]}, "column vector: int too large"),
        ({**PAGE, "looks": [[1, 2, 3], [1]]}, "column looks: 1 numbers instead of 3"),
        ({**PAGE, "looks": {"a": 1}}, "column looks: {'a': 1} is no list"),
        ({**PAGE, "files": [1]}, "column files: [1] is no file name"),
        ({**PAGE, "title": "\ud800"}, "column title: 'utf-8' codec can't encode"),
        ({**PAGE, "pins": 3}, "column pins: 3 is no list"),
        ({**PAGE, "pins": [None]}, "column pins: None is no string key"),
    ],
)
def test_what_is_no_page(page: Any, reason: str) -> None:
    with pytest.raises(BadPageError) as caught:
        COLUMNS.check(page)
    assert reason in str(caught.value)
