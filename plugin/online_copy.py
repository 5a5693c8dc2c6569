"""Packed rows in PostgreSQL's binary COPY format, built by NumPy and not row by row.

A file is a head, then for each row the number of its fields and each field's length and bytes,
all big-endian, then a tail (PostgreSQL's manual, "COPY", Binary Format).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.packing import to_arrow
from provender.plugin.stored_rows import COLUMNS, PackedRows

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = b"\xff\xff"
_NUMBERS = ("event_us", "created_us", "layout", "checksum")


def copy_rows(cursor: Any, table: str, rows: PackedRows) -> None:
    """Send rows to a table whose columns are :data:`stored_rows.COLUMNS`."""
    with cursor.copy(f'COPY "{table}" FROM STDIN (FORMAT BINARY)') as copy:
        copy.write(_HEAD)
        copy.write(copy_block(rows))
        copy.write(_TAIL)


def copy_block(rows: PackedRows) -> memoryview:
    """The bytes of all rows."""
    width = rows.payloads.width
    if isinstance(rows.keys, np.ndarray) and width > 0:
        block = np.empty(
            len(rows), dtype=[*_key_fields(), *_number_fields(), ("payload", f"V{width}")]
        )
        _fill(block, rows)
        block["fields"], block["key_size"], block["key"] = len(COLUMNS), 8, rows.keys
        block["payload_size"] = width
        block["payload"] = rows.payloads.data.view(f"V{width}")
        return memoryview(block.view(np.uint8).data)
    return _ragged_block(rows)


def _key_fields() -> list[tuple[str, str]]:
    return [("fields", ">i2"), ("key_size", ">i4"), ("key", ">i8")]


def _number_fields() -> list[tuple[str, str]]:
    """The numbers of a row with their sizes, and the size of its payload."""
    fields = []
    for name in _NUMBERS:
        fields += [(f"{name}_size", ">i4"), (name, ">i8")]
    return [*fields, ("payload_size", ">i4")]


def _fill(block: npt.NDArray[np.void], rows: PackedRows) -> None:
    for name in _NUMBERS:
        block[f"{name}_size"] = 8
    block["event_us"], block["created_us"] = rows.event_us, rows.created_us
    block["layout"], block["checksum"] = rows.layout, rows.checksums()


def _ragged_block(rows: PackedRows) -> memoryview:
    """Rows of several lengths: their parts joined by Arrow."""
    if isinstance(rows.keys, np.ndarray):
        keys = pa.array(rows.keys.astype(">i8").view("V8").tolist(), pa.large_binary())
    else:
        keys = pa.array(rows.keys, pa.large_binary())
    first = np.empty(len(rows), dtype=_key_fields()[:2])
    first["fields"], first["key_size"] = len(COLUMNS), pc.binary_length(keys).to_numpy()
    middle = np.empty(len(rows), dtype=_number_fields())
    _fill(middle, rows)
    middle["payload_size"] = rows.payloads.sizes
    parts = [_binary(first), keys, _binary(middle), rows.payloads.to_arrow()]
    joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    return memoryview(joined.buffers()[2])


def _binary(block: npt.NDArray[np.void]) -> pa.Array:
    size = block.dtype.itemsize
    return to_arrow(block.view(np.uint8), np.arange(len(block) + 1) * size)
