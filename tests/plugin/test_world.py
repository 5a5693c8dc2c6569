"""World files: what is declared is checked, and each refusal says where and why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from provender.plugin.errors import MappingError
from provender.plugin.world import Dates, World

WORLD = """
tables: {clicks: {path: clicks.csv}}
entities: {user: int64, pin: string}
events: {click: {table: clicks}}
dates: {first_as_of: 2026-03-10, refreshes: 3, every_days: 2, evaluate_days: 5}
"""


def load(folder: Path, text: str) -> World:
    path = folder / "world.yaml"
    path.write_text(text, encoding="utf-8")
    return World.load(path)


def test_a_world_is_read_with_its_dates_and_its_path(tmp_path: Path) -> None:
    world = load(tmp_path, WORLD)

    assert world.path == tmp_path / "world.yaml"
    assert world.max_bad_share == 0.01
    assert world.entities == {"user": "int64", "pin": "string"}
    assert world.dates.as_ofs() == [datetime(2026, 3, day, tzinfo=UTC) for day in (10, 12, 14)]
    assert world.dates.evaluation() == (
        datetime(2026, 3, 14, tzinfo=UTC),
        datetime(2026, 3, 19, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("dates:", "sloth: 1\ndates:"), ["sloth", "unknown key", "one of content, counters"]),
        (("{path: clicks.csv}", "{path: a, pth: b}"), ["tables.clicks.pth", "unknown key"]),
        (("{path: clicks.csv}", "{path: a, sql: b}"), ["tables.clicks", "exactly one of path"]),
        (("{path: clicks.csv}", "{url: a}"), ["tables.clicks", "url and query together"]),
        (("{path: clicks.csv}", "{}"), ["tables.clicks", "exactly one of path"]),
        (("pin: string", "pin: float"), ["entities.pin", "'float'", "int64"]),
        (("refreshes: 3", "refreshes: 0"), ["dates.refreshes", "greater than or equal to 1"]),
        (("2026-03-10", "2026-03-10 05:00:00"), ["dates.first_as_of", "zero"]),
        (("dates:", "max_bad_share: 1.5\ndates:"), ["max_bad_share", "less than 1"]),
        (("dates:", "tables: {}\ndates:"), ["'tables' stands there twice"]),
        (("entities: {user: int64, pin: string}", ""), ["entities", "nothing", "required"]),
        (("events: {", "events: ["), ["readable UTF-8 YAML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    with pytest.raises(MappingError) as caught:
        load(tmp_path, WORLD.replace(*change))

    line = str(caught.value)
    assert "\n" not in line
    for word in ["world.yaml", *words]:
        assert word in line


@pytest.mark.parametrize("content", [b"", b"- 1", b"\xff\xfe", b"text"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "world.yaml"
    path.write_bytes(content)

    with pytest.raises(MappingError, match=r"world\.yaml: found .*; expected a"):
        World.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="No such file"):
        World.load(tmp_path / "nowhere.yaml")


def test_one_refresh_is_evaluated_from_its_own_as_of() -> None:
    dates = Dates.model_validate({"first_as_of": "2026-01-31", "refreshes": 1})

    assert dates.evaluation() == (
        datetime(2026, 1, 31, tzinfo=UTC),
        datetime(2026, 2, 1, tzinfo=UTC),
    )
