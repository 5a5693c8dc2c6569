"""Counters against a loop over the triples."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import MappingError
from provender.producers.counters import counters_path, write_counters
from provender.producers.event_mapping import EventMapping
from provender.producers.events import EventSet, read_events

T = datetime(2026, 3, 10, 6, tzinfo=UTC)
ROLES = {"impressions": ["shown"], "clicks": ["click", "save"]}


@pytest.fixture
def events(tmp_path: Path) -> EventSet:
    """Random events; the users are 0..29, of whom some only follow others."""
    dice = random.Random(3)
    edge = [T - timedelta(days=7), T - timedelta(days=7, microseconds=1)]
    rows = [
        {
            "kind": dice.choice(["shown", "click", "save", "follow"]),
            "u": dice.randrange(20),
            "p": dice.choice("abc"),
            "v": dice.randrange(30),
            "t": dice.choice([*edge, T - timedelta(hours=dice.randrange(1, 500))]),
        }
        for _ in range(600)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    onsite = {"table": "log", "head": {"user": "u"}, "tail": {"pin": "p"}, "time": "t"}
    declared = {name: onsite | {"where": f"kind = '{name}'"} for name in ("shown", "click", "save")}
    follow = onsite | {"tail": {"user": "v"}, "where": "kind = 'follow'"}
    mapping = EventMapping.model_validate(
        {
            "tables": {"log": {"path": "log.parquet"}},
            "entities": {"user": "int64", "pin": "string"},
            "events": {**declared, "follow": follow},
        }
    )
    return read_events(mapping, tmp_path, T, tmp_path / "work")


@pytest.mark.parametrize("entity", ["user", "pin"])
def test_counts_are_those_of_a_loop(tmp_path: Path, events: EventSet, entity: str) -> None:
    roles = ROLES | {"conversions": ["follow"]}
    path = write_counters(events, roles, entity, "key", tmp_path / "features")

    assert path == tmp_path / "features" / f"{entity}_counters" / "20260310T060000Z.parquet"
    assert path == counters_path(tmp_path / "features", entity, T)
    table = pq.read_table(path)
    assert table["key"].combine_chunks().equals(events.keys(entity))
    assert set(table["event_timestamp"].to_pylist()) == {T}
    expected = {f"{role}{span}": [0] * table.num_rows for role in roles for span in ("", "_7d")}
    for row in events.triples().to_pylist():
        relation = events.relations[row["relation"]]
        for role, names in roles.items():
            for end in ("head", "tail"):
                if relation.name in names and getattr(relation, end) == entity:
                    expected[role][row[end]] += 1
                    expected[f"{role}_7d"][row[end]] += row["time"] >= T - timedelta(days=7)
    assert {name: table[name].to_pylist() for name in expected} == expected
    assert all(table.schema.field(name).type == pa.int64() for name in expected)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_role_without_events_is_zero(tmp_path: Path, events: EventSet) -> None:
    table = pq.read_table(write_counters(events, ROLES, "user", "user_id", tmp_path))

    assert set(table["conversions"].to_pylist()) == {0}


@pytest.mark.parametrize(
    ("roles", "words"),
    [({"clicks": ["klick"]}, "klick"), ({"likes": ["click"]}, "a role 'likes'")],
)
def test_unknown_roles_and_events_are_named(
    tmp_path: Path, events: EventSet, roles: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(MappingError, match=words):
        write_counters(events, roles, "user", "user_id", tmp_path)

    assert not list(tmp_path.glob("user_counters/*"))
