"""Every Feast type: stored by a load as Feast's own conversion has it, and by a push as it is."""

from __future__ import annotations

import decimal
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import types as t
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from tests.plugin.online_world import START, OnlineWorld, floats, pin, plain_view, times

STAMPS = [datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)]
IDS = [str(uuid.UUID(int=n)) for n in (1, 2**127)]
TEXTS = ["", "né 'x' \0 日本"]
INT64S = [-(2**63), 2**63 - 1]
MAPS = [[("a", "1"), ("é", "")], []]
STRUCT = t.Struct({"a": t.Int64, "b": t.Array(t.String)})

#: Feast type -> the Arrow column of four rows that a source gives; the third is null.
COLUMNS: dict[str, tuple[Any, pa.Array]] = {
    "bool": (t.Bool, pa.array([True, False, None, True])),
    "int32": (t.Int32, pa.array([-(2**31), 2**31 - 1, None, 0], pa.int32())),
    "int64": (t.Int64, pa.array([*INT64S, None, 0])),
    "float32": (t.Float32, pa.array([1.5, -0.0, None, float("inf")], pa.float32())),
    "float64": (t.Float64, pa.array([0.1, -1e300, None, 0.0])),
    "nan": (t.Float64, pa.array([0.1, float("nan"), None, 0.0])),
    "narrow": (t.Int32, pa.array([1, 2, None, 4], pa.int8())),
    "wide": (t.Float32, pa.array([0.1, 2, None, 4], pa.float64())),
    "mixed": (t.Float64, pa.array([1, 2, None, 4], pa.int64())),
    "string": (t.String, pa.array([*TEXTS, None, "x"])),
    "large_string": (t.String, pa.array([*TEXTS, None, "x"], pa.large_string())),
    "coded_string": (t.String, pa.array([*TEXTS, None, "x"]).dictionary_encode()),
    "bytes": (t.Bytes, pa.array([b"", b"\0\xff", None, b"x"])),
    "pdf": (t.PdfBytes, pa.array([b"", b"\0\xff", None, b"x"])),
    "image": (t.ImageBytes, pa.array([b"", b"\0\xff", None, b"x"], pa.large_binary())),
    "stamp": (t.UnixTimestamp, pa.array([*STAMPS, None, STAMPS[0]], pa.timestamp("us", "UTC"))),
    "stamp_ns": (t.UnixTimestamp, pa.array([*STAMPS, None, STAMPS[0]], pa.timestamp("ns"))),
    "uuid": (t.Uuid, pa.array([*IDS, None, IDS[0]])),
    "time_uuid": (t.TimeUuid, pa.array([*IDS, None, IDS[0]])),
    "decimal": (t.Decimal, pa.array(["1.10", "-3", None, "0"])),
    "json": (t.Json, pa.array(['{"a": [1, "é"]}', "null", None, "3"])),
    "map": (t.Map, pa.array([dict(MAPS[0]), {"b": "2"}, None, {"c": "3"}])),
    "struct": (
        STRUCT,
        pa.array([{"a": 1, "b": ["x"]}, {"a": 2, "b": ["y"]}, None, {"a": 3, "b": ["z"]}]),
    ),
    "bools": (t.Array(t.Bool), pa.array([[True, False], [], None, [True]])),
    "ints": (t.Array(t.Int32), pa.array([[1, -2], [], None, [3]], pa.list_(pa.int32()))),
    "longs": (t.Array(t.Int64), pa.array([INT64S, [], None, [3]], pa.large_list(pa.int64()))),
    "floats": (t.Array(t.Float32), pa.array([[1.5, -2], [], None, [3]], pa.list_(pa.float32()))),
    "fixed": (
        t.Array(t.Float32),
        pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.float32(), 2)),
    ),
    "doubles": (t.Array(t.Float64), pa.array([[0.1, -2], [], None, [3]], pa.list_(pa.float64()))),
    "strings": (t.Array(t.String), pa.array([TEXTS, [], None, ["x"]])),
    "blobs": (t.Array(t.Bytes), pa.array([[b"", b"\xff"], [], None, [b"x"]])),
    "stamps": (t.Array(t.UnixTimestamp), pa.array([STAMPS, [], None, STAMPS[:1]])),
    "uuids": (t.Array(t.Uuid), pa.array([IDS, [], None, IDS[:1]])),
    "decimals": (t.Array(t.Decimal), pa.array([["1.0"], [], None, ["2"]])),
    "jsons": (t.Array(t.Json), pa.array([['{"a": 1}'], [], None, ["2"]])),
    "maps": (t.Array(t.Map), pa.array([[{"a": "1"}], [], None, [{"b": "2"}]])),
    "structs": (
        t.Array(STRUCT),
        pa.array([[{"a": 1, "b": ["x"]}], [], None, [{"a": 2, "b": ["y"]}]]),
    ),
    "string_set": (t.Set(t.String), pa.array([["a", "é"], [], None, ["x"]])),
    "int_set": (t.Set(t.Int64), pa.array([[1, 2], [], None, [3]])),
    "nested": (t.Array(t.Array(t.Int64)), pa.array([[[1], [2, 3]], [], None, [[4]]])),
}


def batch_of(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    stamps = {"event_timestamp": times([0] * rows), "created_timestamp": times([0] * rows)}
    return pa.record_batch({"pin_id": pa.array(range(rows)), **columns, **stamps})


def by_feast(kind: Any, column: pa.Array) -> list[Value]:
    """What the stock materialization would hand to a store; null and not set are one to us."""
    values: Any = column.to_numpy(zero_copy_only=False)
    if pa.types.is_int64(column.type) or kind in (t.Array(t.Map), t.Array(STRUCT)):
        values = column.to_pylist()  # Through NumPy numbers lose digits, and lists of maps fail.
    made = python_values_to_proto_values(values, kind.to_value_type())
    return [Value() if column[row].as_py() is None else value for row, value in enumerate(made)]


def test_a_load_stores_every_type_as_feasts_own_conversion_has_it(online: OnlineWorld) -> None:
    view = plain_view("types", {name: kind for name, (kind, _) in COLUMNS.items()})
    online.apply(view)
    online.load(view, batch_of({name: column for name, (_, column) in COLUMNS.items()}))

    read = online.store.online_read(online.config(), view, [pin(row) for row in range(4)])

    for name, (kind, column) in COLUMNS.items():
        expected = by_feast(kind, column)
        found = [values[name] for _, values in read if values is not None]
        assert found == expected, name


def test_a_view_of_each_type_alone(tmp_path: Any) -> None:
    world = OnlineWorld("sqlite", tmp_path, "sqlite:///types.db")
    for name, (kind, column) in COLUMNS.items():
        view = plain_view(name, {name: kind})
        world.apply(view)
        world.load(view, batch_of({name: column}))
        read = world.store.online_read(world.config(), view, [pin(row) for row in range(4)])
        assert [values and values[name] for _, values in read] == by_feast(kind, column), name


def test_the_tensor_path_has_the_values_of_the_protobuf_path(online: OnlineWorld) -> None:
    view = plain_view("types", {name: kind for name, (kind, _) in COLUMNS.items()})
    online.apply(view)
    online.load(view, batch_of({name: column for name, (_, column) in COLUMNS.items()}))
    keys = [3, 9, 0, 2, 1]

    rows = online.store.read_columns(online.config(), view, {"pin_id": keys})
    read = online.store.online_read(online.config(), view, [pin(key) for key in keys])

    for name in COLUMNS:
        column = rows.columns[name]
        protos = [Value() if values is None else values[name] for _, values in read]
        assert column.valid.tolist() == [p.WhichOneof("val") is not None for p in protos], name
        for value, proto, valid in zip(column.values, protos, column.valid, strict=True):
            if valid:
                assert plain(value) == plain(feast_value_type_to_python_type(proto)), name


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[s]").item()
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, np.generic):
        return value.item()
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_numbers_are_numbers_to_the_tensor_path(online: OnlineWorld) -> None:
    names = ["bool", "int32", "int64", "float32", "float64", "stamp"]
    view = plain_view("types", {name: COLUMNS[name][0] for name in names})
    online.apply(view)
    online.load(view, batch_of({name: COLUMNS[name][1] for name in names}))

    rows = online.store.read_columns(online.config(), view, {"pin_id": [0, 2]}, names[::-1])

    assert list(rows.columns) == names[::-1]
    assert [str(rows.columns[name].values.dtype) for name in names] == [
        "bool",
        "int32",
        "int64",
        "float32",
        "float64",
        "datetime64[s]",
    ]
    assert rows.columns["int64"].values.tolist() == [-(2**63), 0]
    assert rows.columns["int64"].valid.tolist() == [True, False]
    assert rows.columns["stamp"].values[0] == np.datetime64("2026-01-02T03:04:05")


def full_value() -> dict[str, Value]:
    """One value of each field that Feast's protobuf has."""
    values: dict[str, Value] = {}
    for field in Value.DESCRIPTOR.fields:
        value = Value()
        if field.name == "null_val":
            continue
        if field.message_type is None:
            sample: Any
            kinds = {1: -3, 2: -(2**40), 5: 0.1, 6: 1.5, 7: True, 8: 0}
            sample = b"\0x" if field.name == "bytes_val" else kinds.get(field.cpp_type, "é")
            setattr(value, field.name, sample)
        else:
            getattr(value, field.name).SetInParent()
        values[field.name] = value
    values["list_val"].list_val.val.add().int64_list_val.val.extend([1, 2])
    values["map_val"].map_val.val["k"].string_val = "v"
    values["scalar_map_val"].scalar_map_val.SetInParent()
    values["zoned_timestamp_val"].zoned_timestamp_val.zone = "+02:00"
    return values


def test_a_push_keeps_every_value_as_it_is_whatever_the_view_declares(online: OnlineWorld) -> None:
    values = full_value()
    view = plain_view("pushed", dict.fromkeys(values, t.Int64))
    online.apply(view)
    data: list[Any] = [(pin(1), values, START, None), (pin(2), {}, START, None)]

    online.store.online_write_batch(online.config(), view, data, None)
    read = online.store.online_read(online.config(), view, [pin(1), pin(2)])

    assert read[0][1] == values
    assert read[1][1] == {name: Value() for name in values}


def test_a_vector_of_another_length_than_a_stock_view_says_is_kept(online: OnlineWorld) -> None:
    view = plain_view("vectors", {"vector": t.Array(t.Float32)})
    view.features[0].vector_length = 3
    online.apply(view)
    data = [
        (pin(1), {"vector": floats([1, 2, 3])}, START, None),
        (pin(2), {"vector": floats([1, 2])}, START, None),
        (pin(3), {"vector": Value()}, START, None),
        (pin(4), {"vector": floats([])}, START, None),
    ]
    config = online.config()

    online.store.online_write_batch(config, view, data[:1], None)
    whole = online.store.read_columns(config, view, {"pin_id": [1, 5]}).columns["vector"]
    online.store.online_write_batch(config, view, data, None)
    read = online.store.online_read(config, view, [pin(n) for n in range(1, 5)])

    assert whole.values.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert [values for _, values in read] == [row[1] for row in data]


def test_odd_values_of_pandas(online: OnlineWorld) -> None:
    days = pd.Series(pd.to_datetime(["2026-01-01 00:00:00.0", "NaT", "1969-12-31 23:59:59.5"]))
    zone = timezone(timedelta(hours=2))
    zoned = pa.array([datetime(2026, 1, 1, 2, tzinfo=zone)] * 3, pa.timestamp("ms", "+02:00"))
    columns = {"day": pa.Array.from_pandas(days), "zoned": zoned}
    view = plain_view("pandas", dict.fromkeys(columns, t.UnixTimestamp))
    online.apply(view)
    online.load(view, batch_of(columns))

    rows = online.store.read_columns(online.config(), view, {"pin_id": [0, 1, 2]})

    assert rows.columns["day"].valid.tolist() == [True, False, True]
    assert rows.columns["day"].values[[0, 2]].tolist() == [
        datetime(2026, 1, 1),
        datetime(1969, 12, 31, 23, 59, 59),
    ]
    assert rows.columns["zoned"].values.tolist() == [datetime(2026, 1, 1)] * 3


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]"])
def test_texts_with_a_meaning_come_out_as_feast_has_them(online: OnlineWorld, text: str) -> None:
    view = plain_view("jsons", {"json": t.Json, "price": t.Decimal})
    online.apply(view)
    values = {"json": Value(json_val=text), "price": Value(decimal_val="1.10")}
    online.store.online_write_batch(online.config(), view, [(pin(1), values, START, None)], None)

    rows = online.store.read_columns(online.config(), view, {"pin_id": [1]})

    assert rows.columns["json"].values[0] == json.loads(text)
    assert rows.columns["price"].values[0] == decimal.Decimal("1.10")
