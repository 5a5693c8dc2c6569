"""From stored cells to the columns of the tensor path: arrays, no protobuf but for odd types."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from feast.type_map import feast_value_type_to_python_type

from provender.plugin.online_rows import Column
from provender.plugin.packing import Bools, Cells, Ints, Slot
from provender.plugin.proto_cells import value_of
from provender.plugin.quantized import dequantize


def column_of(slot: Slot, cells: Cells, dim: int | None = None) -> Column:
    """The column of one slot; vectors cut to their prefix of `dim`."""
    if slot.variable:
        values = np.full(len(cells.valid), None, dtype=object)
        for row, raw in enumerate(cells.values):
            if cells.valid[row]:
                values[row] = _python(slot, raw)
        return Column(values, cells.valid)
    stored = np.asarray(cells.values)
    made: npt.NDArray[Any]
    made = dequantize(stored, dim) if slot.storage == "vector" else np.ascontiguousarray(stored)
    if slot.field == "unix_timestamp_val":
        made = made.view("<M8[s]")
    if not cells.valid.all():
        made = made.copy()
        made[~cells.valid] = np.zeros((), dtype=made.dtype)
    return Column(made, cells.valid)


def empty_column(slot: Slot, rows: int, dim: int | None = None) -> Column:
    """A column of nulls as :func:`column_of` would shape it."""
    valid = np.zeros(rows, dtype=np.bool_)
    if slot.variable:
        return Column(np.full(rows, None, dtype=object), valid)
    if slot.storage == "vector":
        width = slot.length if dim is None else dim
        return Column(np.zeros((rows, width), dtype=np.float32), valid)
    dtype = "<M8[s]" if slot.field == "unix_timestamp_val" else slot.dtype
    return Column(np.zeros(rows, dtype=dtype), valid)


def place(target: Column, rows: Ints | Bools, found: Column) -> None:
    """Write a column into those rows of another; raises ValueError where the types do not fit."""
    target.valid[rows] = found.valid
    if target.values.dtype == object:
        for row, value in zip(np.arange(len(target.values))[rows], found.values, strict=True):
            target.values[row] = value
    elif found.values.dtype == object and found.valid.any():
        raise ValueError(f"values of another type than {target.values.dtype}")
    elif found.values.dtype != object:
        target.values[rows] = found.values


def _python(slot: Slot, raw: bytes) -> Any:
    if slot.field == "string_val":
        return raw.decode()
    if slot.storage == "bytes":
        return raw
    if slot.storage == "numbers":
        dtype = "<M8[s]" if slot.field == "unix_timestamp_list_val" else slot.dtype
        return np.frombuffer(raw, dtype=dtype)
    return feast_value_type_to_python_type(value_of(slot, raw))
