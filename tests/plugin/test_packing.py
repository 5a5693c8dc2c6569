"""Row layouts: what is packed is what is unpacked, and no changed byte passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin.checksums import key_words, row_checksums
from provender.plugin.packing import Cells, Payloads, RowLayout, Slot, pack, unpack
from provender.plugin.quantized import HALF_MAX, dequantize, quantize
from provender.plugin.stored_rows import DamagedRowError, PackedRows, verified

SLOTS = {
    "flag": Slot("flag", "bool_val", "number", "?"),
    "small": Slot("small", "int32_val", "number", "<i4"),
    "big": Slot("big", "int64_val", "number", "<i8"),
    "half": Slot("half", "float_val", "number", "<f4"),
    "whole": Slot("whole", "double_val", "number", "<f8"),
    "vector": Slot("vector", "float_list_val", "vector", "float32", 3),
    "text": Slot("text", "string_val", "text"),
    "raw": Slot("raw", "bytes_val", "bytes"),
    "list": Slot("list", "int64_list_val", "numbers", "<i8"),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "small": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "half": st.floats(width=32, allow_nan=False),
    "whole": st.floats(allow_nan=False),
    "vector": st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
    "text": st.text().map(lambda text: text.encode(errors="replace")),
    "raw": st.binary(max_size=40),
    "list": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(
        lambda numbers: np.array(numbers, dtype="<i8").tobytes()
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[RowLayout, list[dict[str, Any]]]:
    names = draw(st.lists(st.sampled_from(sorted(SLOTS)), min_size=1, unique=True))
    row = st.fixed_dictionaries({name: st.none() | VALUES[name] for name in names})
    layout = RowLayout(tuple(SLOTS[name] for name in names))
    return layout, draw(st.lists(row, max_size=6))


def cells_of(slot: Slot, values: list[Any]) -> Cells:
    valid = np.array([value is not None for value in values], dtype=np.bool_)
    if slot.variable:
        return Cells([value or b"" for value in values], valid)
    if slot.storage == "vector":
        filled = [value or [0.0] * slot.length for value in values]
        vectors = np.array(filled, dtype=np.float32).reshape(-1, slot.length)
        return Cells(quantize(vectors, slot.vector_dtype), valid)
    return Cells(np.array([value or 0 for value in values], dtype=slot.dtype), valid)


def plain(slot: Slot, cells: Cells) -> list[Any]:
    """What was packed, value by value."""
    if slot.storage == "vector":
        found = dequantize(np.asarray(cells.values)).tolist()
    else:
        found = cells.values if slot.variable else np.asarray(cells.values).tolist()
    return [value if kept else None for value, kept in zip(found, cells.valid, strict=True)]


@given(tables())
def test_what_is_packed_is_unpacked(table: tuple[RowLayout, list[dict[str, Any]]]) -> None:
    layout, rows = table
    cells = {slot.name: cells_of(slot, [row[slot.name] for row in rows]) for slot in layout.slots}

    payloads = pack(layout, cells, len(rows))
    stored = payloads.to_list()
    back = unpack(layout, Payloads.of(stored))

    assert all(len(payload) % 8 == 0 and len(payload) >= 8 for payload in stored)
    for slot in layout.slots:
        assert plain(slot, back[slot.name]) == [row[slot.name] for row in rows]
    assert RowLayout.parse(layout.description) == layout
    if rows:
        order = np.arange(len(rows))[::-1]
        assert payloads.take(order).to_list() == stored[::-1]


def test_an_embeddings_payload_is_its_raw_vector() -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    layout = RowLayout((Slot("embedding", "float_list_val", "vector", "float32", 4, True),))

    payloads = pack(layout, {"embedding": Cells(quantize(vectors, "float32"), np.ones(2, bool))}, 2)

    assert payloads.to_list() == [vectors[0].tobytes(), vectors[1].tobytes()]


def test_ids_differ_between_layouts_and_never_change() -> None:
    known = RowLayout((SLOTS["small"],))

    assert known.id == RowLayout((SLOTS["small"],)).id == 95_413_207
    assert len({RowLayout((slot,)).id for slot in SLOTS.values()}) == len(SLOTS)


def naive_checksum(key: int, event: int, created: int, layout: int, payload: bytes) -> int:
    """The definition, one word after the other."""
    state, multipliers = 0, []
    for _ in range(4 + len(payload) // 4):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) % 2**64
        multipliers.append((mixed ^ mixed >> 31) | 1)
    words = [int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)]
    words = [key, event, created, layout << 32 ^ len(payload), *words]
    return sum(word * m for word, m in zip(words, multipliers, strict=True)) % 2**64


def sums_of(keys: list[int], payloads: list[bytes]) -> list[int]:
    held = Payloads.of(payloads)
    times = np.arange(len(keys)), -np.arange(len(keys))
    words = key_words(np.array(keys, dtype=np.int64))
    sums = row_checksums(words, *times, 77, held.data, held.offsets)
    return [value % 2**64 for value in sums.tolist()]


@pytest.mark.parametrize("sizes", [[16, 16, 16], [8, 24, 16], [8, 8, 80_000]])
def test_checksums_are_what_their_definition_says(sizes: list[int]) -> None:
    keys = [5, -6, 2**62]
    payloads = [np.random.default_rng(size).bytes(size) for size in sizes]

    expected = [
        naive_checksum(key % 2**64, row, -row % 2**64, 77, payload)
        for row, (key, payload) in enumerate(zip(keys, payloads, strict=True))
    ]

    assert sums_of(keys, payloads) == expected


ROW = PackedRows(
    np.array([42]), np.array([7]), np.array([9]), 0, Payloads.of([bytes(range(1, 17))])
)
LAYOUT = RowLayout((Slot("v", "float_list_val", "vector", "float32", 4, True),))


@given(st.integers(0, 15), st.integers(1, 255))
def test_any_changed_byte_is_found(place: int, change: int) -> None:
    (row,) = ROW.tuples()
    payload = bytearray(row[-1])
    payload[place] ^= change

    with pytest.raises(DamagedRowError, match="checksum"):
        verified([(*row[:-1], bytes(payload))], lambda number: LAYOUT)


@pytest.mark.parametrize("column", range(5))
def test_any_changed_column_is_found(column: int) -> None:
    (row,) = ROW.tuples()
    changed = list(row)
    changed[column] += 1

    assert len(verified([row], lambda number: LAYOUT).groups) == 1
    with pytest.raises(DamagedRowError) as caught:
        verified([tuple(changed)], lambda number: LAYOUT)
    assert caught.value.key == changed[0]


@pytest.mark.parametrize("payload", [b"", b"1234567", bytes(8), bytes(24), bytes(15)])
def test_a_payload_of_another_length_is_found(payload: bytes) -> None:
    (row,) = ROW.tuples()

    with pytest.raises(DamagedRowError, match=f"a payload of {len(payload)} bytes"):
        verified([(*row[:-1], payload)], lambda number: LAYOUT)


def test_an_unknown_layout_is_found() -> None:
    with pytest.raises(DamagedRowError, match="unknown row layout 0"):
        verified(list(ROW.tuples()), lambda number: None)


TIMES = st.integers(0, 2)


@given(st.lists(st.tuples(st.integers(0, 4), TIMES, TIMES)), st.booleans())
def test_of_several_rows_of_a_key_the_newest_stays(
    rows: list[tuple[int, int, int]], text: bool
) -> None:
    numbers = [row[0] for row in rows]
    packed = PackedRows(
        [str(key).encode() for key in numbers] if text else np.array(numbers, dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
        1,
        Payloads.of([place.to_bytes(8, "little") for place in range(len(rows))]),
    )
    expected: dict[int, tuple[int, int, int]] = {}
    for place, (key, event, created) in enumerate(rows):
        expected[key] = max(expected.get(key, (-1, -1, -1)), (event, created, place))

    found = [
        (int(row[0]), row[1], row[2], int.from_bytes(row[5], "little"))
        for row in packed.newest().tuples()
    ]

    assert found == [(key, *expected[key]) for key in sorted(expected)]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_float16_is_off_by_at_most_its_bound(scale: float) -> None:
    vectors = np.random.default_rng(1).standard_normal((500, 64)).astype(np.float32) * scale

    error = np.abs(dequantize(quantize(vectors, "float16")) - vectors)

    assert (error <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25)).all()
    assert error.max() > 0
    assert np.finfo(np.float16).max == HALF_MAX


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30])
def test_int8_is_off_by_at_most_half_a_step(scale: float) -> None:
    vectors = np.random.default_rng(2).standard_normal((500, 64)).astype(np.float32) * scale
    vectors[0] = 0

    stored = quantize(vectors, "int8")
    error = np.abs(dequantize(stored).astype(np.float64) - vectors)

    half_step = np.abs(vectors).max(axis=1).astype(np.float64)[:, None] / 254
    assert (error <= half_step * (1 + 1e-6)).all()
    assert stored.dtype.itemsize == 4 + 64


def test_prefixes_are_the_vectors_own_beginning() -> None:
    vectors = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)

    prefix = dequantize(quantize(vectors, "float32"), 3)

    assert prefix.tolist() == vectors[:, :3].tolist()
    assert prefix.flags.c_contiguous


def test_arrow_bytes_and_lists_of_bytes_pack_alike() -> None:
    layout = RowLayout((SLOTS["text"], SLOTS["small"]))
    small = Cells(np.array([1, 2], dtype="<i4"), np.array([True, False]))
    valid = np.array([True, True])
    packed = [
        pack(layout, {"text": Cells(values, valid), "small": small}, 2).to_list()
        for values in ([b"ab", b""], pa.array(["ab", ""]))
    ]

    assert packed[0] == packed[1]


def test_the_signs_of_several_floats_do_not_cancel() -> None:
    vector = np.arange(1, 9, dtype=np.float32)
    turned = vector.copy()
    turned[[1, 3]] *= -1

    (kept,), (changed,) = (sums_of([1], [v.tobytes()]) for v in (vector, turned))

    assert kept != changed
