"""From Arrow columns to stored cells: whole columns at a time, no Python object a value.

What has no such path (sets, maps, JSON, structs, lists with nulls in them) goes through Feast's
own conversion to protobuf, so that every value is stored as Feast would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast.base_feature_view import BaseFeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from provender.plugin.instants import NO_INSTANT, to_microseconds
from provender.plugin.packing import Bools, Cells, Ints, RowLayout, Slot
from provender.plugin.proto_cells import RefusedValueError, proto_cells, vector_cells
from provender.plugin.view_layouts import numbers_slot

#: Where a row has no created time: before all times.
NEVER = NO_INSTANT


def arrow_cells(
    view: BaseFeatureView, layout: RowLayout, batch: pa.RecordBatch
) -> tuple[RowLayout, dict[str, Cells]]:
    """The cells of a batch, and the layout they fit: the view's own unless values force another.

    Raises:
        RefusedValueError: a vector that the embedding view does not declare.
        KeyError: a feature without a column.
    """
    slots, cells = [], {}
    types = {field.name: field.dtype.to_value_type() for field in view.features}
    for slot in layout.slots:
        column = _plain(batch.column(slot.name))
        used, found = slot, _cells(slot, column)
        if found is None and slot.storage == "vector":
            used = numbers_slot(slot)
            found = _cells(used, column)
        if found is None:
            used, found = proto_cells(slot, _by_feast(column, types[slot.name]))
        slots.append(used)
        cells[slot.name] = found
    return RowLayout(tuple(slots)), cells


def microseconds(column: pa.Array) -> Ints:
    """(n,) microseconds since 1970 in UTC of an Arrow column of times; :data:`NEVER` for null.

    Finer times are rounded down. Raises TypeError for a column of anything but times.
    """
    return to_microseconds(_plain(column))


def _by_feast(column: pa.Array, kind: ValueType) -> Sequence[Value]:
    """Feast's conversion, of what it usually gets, and of Python objects where that fails."""
    try:
        made: Sequence[Value] = python_values_to_proto_values(
            column.to_numpy(zero_copy_only=False), kind
        )
    except TypeError:  # It takes no lists of maps as NumPy arrays, for example.
        made = python_values_to_proto_values(column.to_pylist(), kind)
    return [value if kept else Value() for value, kept in zip(made, _valid(column), strict=True)]


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _valid(column: pa.Array) -> Bools:
    valid: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _cells(slot: Slot, column: pa.Array) -> Cells | None:
    """The cells where the column's type allows a path without Python objects."""
    kind = column.type
    try:
        if slot.storage == "number":
            return _numbers(slot, column)
        if slot.storage == "text" and slot.field == "string_val" and _is_text(kind):
            return Cells(column.cast(pa.large_string()).cast(pa.large_binary()), _valid(column))
        if slot.storage == "bytes" and _is_binary(kind):
            return Cells(column.cast(pa.large_binary()), _valid(column))
        if slot.storage in ("numbers", "vector") and _is_list(kind):
            return _lists(slot, column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return None


def _numbers(slot: Slot, column: pa.Array) -> Cells | None:
    kind, valid = column.type, _valid(column)
    if slot.field == "unix_timestamp_val":
        if not pa.types.is_timestamp(kind):
            return None
        return Cells(microseconds(column) // 1_000_000, valid)
    if pa.types.is_boolean(kind) != (slot.dtype == "?") or not _is_number(kind):
        return None
    dtype = np.dtype(slot.dtype)
    cast = column.cast(pa.from_numpy_dtype(dtype))
    values: npt.NDArray[Any] = pc.fill_null(cast, False if slot.dtype == "?" else 0).to_numpy(
        zero_copy_only=False
    )
    if dtype.kind == "f":  # A lone NaN is how pandas writes null, and Feast reads it so.
        valid = valid & ~np.isnan(values)
    return Cells(values, valid)


def _lists(slot: Slot, column: pa.Array) -> Cells | None:
    if slot.field == "unix_timestamp_list_val" or not _is_number(column.type.value_type):
        return None
    valid, elements = _valid(column), column.flatten()
    if pa.types.is_boolean(elements.type) != (slot.dtype == "?"):
        return None
    if elements.null_count:
        if slot.required:
            raise RefusedValueError(0, "a null within a vector", f"{slot.length} floats")
        return None
    sizes: Ints = pc.fill_null(_lengths(column), 0).to_numpy().astype(np.int64)
    dtype = np.dtype("<f4" if slot.storage == "vector" else slot.dtype)
    values = elements.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
    if slot.storage == "vector":
        return vector_cells(slot, values, sizes, valid)
    offsets = np.concatenate(([0], np.cumsum(sizes * dtype.itemsize)))
    raw = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values).view(np.uint8))]
    return Cells(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), raw), valid)


def _lengths(column: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_list(column.type):
        size = pa.scalar(column.type.list_size, pa.int64())
        return pc.if_else(column.is_valid(), size, pa.scalar(0, pa.int64()))
    return pc.list_value_length(column)


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def _is_binary(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(check(kind) for check in checks)
