"""Content as a world declares it: the newest before the cut, whatever lies after it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import MappingError
from provender.plugin.world import World
from provender.producers.content import ALWAYS, declared_content, read_content

T = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
PIN = {"table": "pins", "key": "pin", "vector": ["image", "price"], "time": "made"}
ROWS: list[dict[str, Any]] = [
    {"pin": 7, "image": [1.0, 2.0], "price": 3.0, "made": T - HOUR},
    {"pin": 3, "image": [4.0, 5.0], "price": 6.0, "made": T - 2 * HOUR},
    {"pin": 3, "image": [7.0, 8.0], "price": 9.0, "made": T - HOUR},
]
GARBAGE: list[dict[str, Any]] = [
    {"pin": 3, "image": [0.5], "price": np.nan, "made": T},
    {"pin": 7, "image": [9.0, 9.0], "price": 9.0, "made": T + HOUR},
    {"pin": 9, "image": [9.0, 9.0], "price": 9.0, "made": T},
]
UNUSABLE: list[dict[str, Any]] = [
    {"pin": None, "image": [1.0, 1.0], "price": 1.0, "made": T - HOUR},
    {"pin": 1, "image": None, "price": 1.0, "made": T - HOUR},
    {"pin": 2, "image": [1.0, np.inf], "price": 1.0, "made": T - HOUR},
    {"pin": 4, "image": [1.0, None], "price": 1.0, "made": T - HOUR},
    {"pin": 5, "image": [1.0, 1.0], "price": 1.0, "made": None},
]
SCHEMA = pa.schema(
    [
        ("pin", pa.int64()),
        ("image", pa.list_(pa.float32())),
        ("price", pa.float64()),
        ("made", pa.timestamp("us", "UTC")),
    ]
)


def world(**content: Any) -> World:
    ends = {"head": {"user": "user"}, "tail": {"pin": "pin"}, "time": "made"}
    return World.model_validate(
        {
            "tables": {"pins": {"path": "pins.parquet"}},
            "entities": {"user": "int64", "pin": "int64"},
            "events": {"click": {"table": "pins", **ends}},
            "content": content,
            "dates": {"first_as_of": T.date(), "refreshes": 1},
        }
    )


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "pins.parquet")


@pytest.mark.parametrize("rows", [ROWS, GARBAGE + ROWS, ROWS[::-1] + GARBAGE, ROWS + UNUSABLE])
def test_the_newest_before_the_cut(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write(tmp_path, rows)
    found = read_content(world(pin=PIN), tmp_path, T, tmp_path / "work")["pin"]
    assert found.keys.to_pylist() == [3, 7]
    assert found.vectors.tolist() == [[7, 8, 9], [1, 2, 3]]
    assert found.vectors.dtype == np.float32
    assert found.since.tolist() == [round((T - HOUR).timestamp() * 1e6)] * 2


def test_content_without_a_time_is_known_always(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:1])
    declared = {name: value for name, value in PIN.items() if name != "time"}
    found = read_content(world(pin=declared), tmp_path, T, tmp_path / "work")["pin"]
    assert found.since.tolist() == [ALWAYS]


def test_no_section_is_no_content(tmp_path: Path) -> None:
    assert read_content(world(), tmp_path, T, tmp_path / "work") == {}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tabel": "pins"}, "tabel"),
        ({"table": "pages"}, "pages"),
        ({"vector": []}, "vector"),
    ],
)
def test_what_is_declared_is_checked(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(MappingError, match=told):
        declared_content(world(pin={**PIN, **changed}))


def test_an_entity_that_the_world_has_not() -> None:
    with pytest.raises(MappingError, match="page"):
        declared_content(world(page=PIN))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"key": "pin_id"}, "no column pin_id"),
        ({"vector": ["picture"]}, "no column picture"),
        ({"vector": ["made"]}, "made of type TIMESTAMP"),
    ],
)
def test_a_declaration_that_does_not_fit_the_table(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(MappingError, match=told):
        read_content(world(pin={**PIN, **changed}), tmp_path, T, tmp_path / "work")


def test_vectors_of_several_lengths(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, {"pin": 8, "image": [1.0], "price": 1.0, "made": T - HOUR}])
    with pytest.raises(MappingError, match="vectors of 2, 3 numbers"):
        read_content(world(pin=PIN), tmp_path, T, tmp_path / "work")
