"""Between Feast's protobuf values and stored cells, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.Value_pb2 import Value

from provender.plugin.packing import Bools, Cells, Ints, RowLayout, Slot
from provender.plugin.quantized import HALF_MAX, dequantize, quantize
from provender.plugin.view_layouts import numbers_slot, proto_slot

#: The field's name is only known at run time, which the generated stubs do not provide for.
_new_value: Any = Value


class RefusedValueError(ValueError):
    """A value that a view does not take; the store adds the names of the view and the entity.

    Attributes:
        row: which row of the batch it is in.
        found: what it is.
        expected: what it should be.
    """

    def __init__(self, row: int, found: str, expected: str) -> None:
        super().__init__(found)
        self.row, self.found, self.expected = row, found, expected


def pushed_cells(
    layout: RowLayout, rows: Sequence[Mapping[str, Value]]
) -> tuple[RowLayout, dict[str, Cells]]:
    """The cells of pushed rows, and the layout they fit; a feature that a row lacks is null.

    A value of another type than the view declares keeps its own type: its whole column is then
    stored as protobuf, in a layout that says so.

    Raises RefusedValueError: a vector that the embedding view does not declare.
    """
    slots, cells = [], {}
    for slot in layout.slots:
        used, cells[slot.name] = proto_cells(slot, [row.get(slot.name) for row in rows])
        slots.append(used)
    return RowLayout(tuple(slots)), cells


def proto_cells(slot: Slot, values: Sequence[Value | None]) -> tuple[Slot, Cells]:
    """One slot's cells of protobuf values, and the slot they fit."""
    kinds = [None if value is None else value.WhichOneof("val") for value in values]
    valid = np.array([kind not in (None, "null_val") for kind in kinds], dtype=np.bool_)
    held = [value for value, kept in zip(values, valid, strict=True) if kept and value is not None]
    strange = [kind for kind, kept in zip(kinds, valid, strict=True) if kept and kind != slot.field]
    if slot.required and strange:
        raise RefusedValueError(
            int(np.argmax([kind == strange[0] for kind in kinds])),
            f"a value of type {strange[0]}",
            f"{slot.length} floats",
        )
    if slot.storage == "proto" or strange:
        raw = [value.SerializeToString(deterministic=True) for value in held]
        return proto_slot(slot), Cells(_spread(raw, valid), valid)
    if slot.storage == "vector":
        return _vectors(slot, held, valid)
    if slot.storage == "number":
        numbers = np.zeros(len(valid), dtype=slot.dtype)
        numbers[valid] = [getattr(value, slot.field) for value in held]
        return slot, Cells(numbers, valid)
    return slot, Cells(_spread([_raw(slot, value) for value in held], valid), valid)


def vector_cells(
    slot: Slot, elements: npt.NDArray[np.float32], sizes: Ints, valid: Bools
) -> Cells | None:
    """Stored vectors from the elements of all rows one after the other, null rows having none.

    Returns None where a vector has not the declared length and the slot is not an embedding
    view's.

    Raises RefusedValueError: an embedding view's vector is null, has another length, holds NaN
    or Inf, or a number that float16 can't hold.
    """
    wrong = (sizes != slot.length) & (valid | slot.required)
    if wrong.any():
        if not slot.required:
            return None
        row = int(np.argmax(wrong))
        found = f"{sizes[row]} floats" if valid[row] else "null"
        raise RefusedValueError(row, found, f"{slot.length} floats")
    vectors = elements.reshape(-1, slot.length)
    if slot.required:
        _check_finite(slot, vectors)
    if not valid.all():
        spread = np.zeros((len(valid), slot.length), dtype=np.float32)
        spread[valid] = vectors
        vectors = spread
    stored = quantize(vectors, slot.vector_dtype)
    return Cells(stored, valid)


def to_protos(slot: Slot, cells: Cells) -> list[Value]:
    """Feast's values of one slot; null is a value that is not set."""
    if slot.storage == "number":
        numbers = np.asarray(cells.values).tolist()
        made = [_new_value(**{slot.field: number}) for number in numbers]
    elif slot.storage == "vector":
        made = _wire_vectors(cells)
    else:
        made = [value_of(slot, raw) for raw in cells.values]
    if not cells.valid.all():
        made = [v if kept else Value() for v, kept in zip(made, cells.valid, strict=True)]
    return made


def _check_finite(slot: Slot, vectors: npt.NDArray[np.float32]) -> None:
    limit = HALF_MAX if slot.dtype == "float16" else float(np.finfo(np.float32).max)
    # The largest magnitude is NaN where any element is; the rows are only looked at if need be.
    if not vectors.size or max(vectors.max(), -vectors.min()) <= limit:
        return
    row = int(np.argmax(~(np.abs(vectors) <= limit).all(axis=1)))
    bad = vectors[row][~(np.abs(vectors[row]) <= limit)][0]
    expected = f"finite floats up to {limit:g} in magnitude, for the view is {slot.dtype}"
    raise RefusedValueError(row, f"the element {bad}", expected)


def _vectors(slot: Slot, held: Sequence[Value], valid: Bools) -> tuple[Slot, Cells]:
    raw = [_raw(slot, value) for value in held]
    sizes = np.zeros(len(valid), dtype=np.int64)
    sizes[valid] = [len(each) // 4 for each in raw]
    elements = np.frombuffer(b"".join(raw), dtype="<f4")
    cells = vector_cells(slot, elements, sizes, valid)
    if cells is None:
        return numbers_slot(slot), Cells(_spread(raw, valid), valid)
    return slot, cells


def _spread(raw: Sequence[bytes], valid: Bools) -> list[bytes]:
    """One byte string a row, empty where there is no value."""
    left = iter(raw)
    return [next(left) if kept else b"" for kept in valid]


def _raw(slot: Slot, value: Value) -> bytes:
    held = getattr(value, slot.field)
    if slot.storage == "text":
        return str(held).encode()
    if slot.storage == "bytes":
        return bytes(held)
    size = len(held.val)
    if slot.field in ("float_list_val", "double_list_val"):
        # A packed list's bytes end in its little-endian elements, by protobuf's encoding.
        width = 4 if slot.field == "float_list_val" else 8
        return held.SerializeToString()[-width * size :] if size else b""
    return np.array(held.val, dtype=slot.dtype).tobytes()


def value_of(slot: Slot, raw: bytes) -> Any:
    """Feast's value of one that is stored with a variable length."""
    if slot.storage == "proto":
        return Value.FromString(raw)
    if slot.field == "float_list_val":
        return Value.FromString(_float_list_head(len(raw)) + raw)
    held: Any = raw
    if slot.storage == "text":
        held = raw.decode()
    elif slot.storage == "numbers":
        held = {"val": np.frombuffer(raw, dtype=slot.dtype).tolist()}
    return _new_value(**{slot.field: held})


def _wire_vectors(cells: Cells) -> list[Value]:
    """Float lists parsed from their wire format: a head that all share, and the raw floats."""
    vectors = dequantize(np.asarray(cells.values))
    whole, width = vectors.astype("<f4", copy=False).tobytes(), 4 * vectors.shape[1]
    head = _float_list_head(width)
    return [Value.FromString(head + whole[i : i + width]) for i in range(0, len(whole), width)]


def _float_list_head(size: int) -> bytes:
    """What stands before `size` bytes of floats in a serialized Value with a float_list_val."""
    inner = b"\x0a" + _varint(size) if size else b""
    tag = Value.FLOAT_LIST_VAL_FIELD_NUMBER << 3 | 2
    return _varint(tag) + _varint(len(inner) + size) + inner


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
