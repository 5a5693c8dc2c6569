"""The events section of a world: every refusal says where, what and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from provender.plugin.errors import MappingError
from provender.producers.event_mapping import EventMapping

CLICK = {"table": "clicks", "head": {"user": "u"}, "tail": {"pin": "p"}, "time": "t"}


def load(folder: Path, **click: Any) -> EventMapping:
    declared = {key: value for key, value in (CLICK | click).items() if value != "absent"}
    world = {
        "tables": {"clicks": {"path": "clicks.csv"}},
        "entities": {"user": "int64", "pin": "string"},
        "events": {"click": declared},
        "dates": {"first_as_of": "2026-01-02", "refreshes": 1},
    }
    path = folder / "world.yaml"
    path.write_text(yaml.safe_dump(world), encoding="utf-8")
    return EventMapping.load(path)


def test_an_event_knows_its_ends_and_columns(tmp_path: Path) -> None:
    event = load(tmp_path, id="e").events["click"]

    assert (event.head_entity, event.tail_entity) == ("user", "pin")
    assert event.columns() == {"head.user": "u", "tail.pin": "p", "time": "t", "id": "e"}
    assert (event.weight, event.where, event.time_zone) == (1.0, None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tabel": "clicks"}, ["events.click.tabel", "unknown key"]),
        ({"time": "absent"}, ["events.click.time", "nothing"]),
        ({"table": "nix"}, ["events.click.table", "'nix'", "one of clicks", "`tables`"]),
        ({"head": {"usr": "u"}}, ["events.click.head", "'usr'", "one of pin, user"]),
        ({"tail": {"pin": "p", "user": "u"}}, ["events.click.tail", "one entity"]),
        ({"tail": {}}, ["events.click.tail", "one entity"]),
        ({"time_unit": "min"}, ["events.click.time_unit", "'min'", "'ns'"]),
        ({"time_zone": "Mars/Base"}, ["events.click.time_zone", "'Mars/Base'"]),
        ({"time_zone": "../etc"}, ["events.click.time_zone", "a time zone such as"]),
        ({"time": None, "time_unit": "s"}, ["events.click", "where time is null"]),
        ({"weight": -1.0}, ["events.click.weight", "at least 0"]),
        ({"weight": float("nan")}, ["events.click.weight", "at least 0"]),
        ({"unique": "tail"}, ["events.click.unique", "'tail'"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MappingError) as caught:
        load(tmp_path, **change)

    line = str(caught.value)
    assert "\n" not in line
    for word in ["world.yaml", *words]:
        assert word in line
