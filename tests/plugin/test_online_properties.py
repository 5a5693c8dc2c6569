"""Any sequence of loads and pushes against a model: a dict of the newest value of each key."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureView, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provender.plugin import online_packing
from tests.plugin.online_world import START, OnlineWorld, entity, plain_view, times

WORD = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
ENTITIES = {"integer": [NUMBER], "string": [WORD], "entity": [WORD, NUMBER]}
WORDS = ["", "a", "A", "é", "a\0"]
SERIAL = itertools.count()


@dataclass(frozen=True)
class Write:
    """Rows of key, event day, created day, text; sent by a load of two batches, or pushed."""

    load: bool
    rows: list[tuple[int, int, int | None, str | None]]


WRITES = st.builds(
    Write,
    st.booleans(),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 2),
            st.none() | st.integers(0, 2),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        ),
        max_size=8,
    ),
)


def key_columns(kind: str, keys: list[int]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    if kind != "integer":
        columns["word"] = [WORDS[key] for key in keys]
    if kind != "string":
        columns["number"] = [key - 2 for key in keys]
    return columns


def proto_of(kind: str, key: int) -> EntityKey:
    values = {"word": Value(string_val=WORDS[key]), "number": Value(int64_val=key - 2)}
    return entity(**{name: values[name] for name in key_columns(kind, [key])})


def batch_of(kind: str, write: Write) -> pa.RecordBatch:
    keys, events, created, texts = (list(column) for column in zip(*write.rows, strict=True))
    features = {"text": pa.array(texts, pa.string()), "place": pa.array(range(len(keys)))}
    columns = key_columns(kind, keys) | features
    stamps = {"event_timestamp": times(events), "created_timestamp": times(created)}
    return pa.record_batch(columns | stamps)


def apply(world: OnlineWorld, view: FeatureView, kind: str, write: Write) -> None:
    if write.load:
        batch = batch_of(kind, write) if write.rows else None
        half = len(write.rows) // 2
        world.load(view, [] if batch is None else [batch.slice(0, half), batch.slice(half)])
        return
    data = [
        (
            proto_of(kind, key),
            {"text": Value() if text is None else Value(string_val=text)}
            | {"place": Value(int64_val=place)},
            START + timedelta(days=event),
            None if created is None else START + timedelta(days=created),
        )
        for place, (key, event, created, text) in enumerate(write.rows)
    ]
    world.store.online_write_batch(world.config(), view, data, None)


@given(
    kind=st.sampled_from(sorted(ENTITIES)),
    writes=st.lists(WRITES, max_size=5),
    chunk=st.sampled_from([1, 3, 8_192]),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_newest_of_each_key_is_read_whatever_was_written_in_whichever_order(
    online: OnlineWorld, kind: str, writes: list[Write], chunk: int
) -> None:
    view = plain_view(f"v{next(SERIAL)}", {"text": String, "place": Int64}, *ENTITIES[kind])
    online.apply(view)
    newest: dict[int, tuple[int, float, str | None, int]] = {}
    before = online_packing.CHUNK_ROWS
    try:
        online_packing.CHUNK_ROWS = chunk
        for write in writes:
            apply(online, view, kind, write)
            for place, (key, event, created, text) in enumerate(write.rows):
                held = (event, -1.0 if created is None else float(created), text, place)
                if key not in newest or held[:2] >= newest[key][:2]:
                    newest[key] = held
    finally:
        online_packing.CHUNK_ROWS = before

    asked = [4, 0, 1, 2, 3, 0]
    config = online.config()
    rows = online.store.read_columns(config, view, key_columns(kind, asked))
    read = online.store.online_read(config, view, [proto_of(kind, key) for key in asked])
    scanned = list(online.store.scan(config, view, rows=2))

    texts, places = rows.columns["text"], rows.columns["place"]
    for row, key in enumerate(asked):
        assert bool(rows.present[row]) == (key in newest)
        if key in newest:
            event, _, text, place = newest[key]
            stamp = START + timedelta(days=event)
            assert texts.values[row] == text
            assert places.values[row] == place
            expected = Value() if text is None else Value(string_val=text)
            assert read[row] == (stamp, {"text": expected, "place": Value(int64_val=place)})
            assert rows.ages(stamp + timedelta(seconds=5))[row] == 5
    assert sum(len(each) for each in scanned) == len(newest)
    assert sorted(p for each in scanned for p in each.columns["place"].values.tolist()) == sorted(
        place for *_, place in newest.values()
    )
