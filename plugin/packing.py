"""How one online row's features lie in its payload, and their packing and unpacking.

A payload is: a bitmap of nulls (unless no feature may be null), the fixed parts of all features,
the bytes of those of variable length, and zeros up to a multiple of 8 bytes. The payload of an
embedding view is thus its raw little-endian vector. A layout's id is a hash of what it says, so
rows written before a view changed are read by the layout they were written with.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.quantized import stored_dtype
from provender.plugin.spec import Dtype

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

#: How values lie: a number, a vector of known length, or bytes of any length, which hold raw
#: numbers, text, or a whole protobuf value.
Storage = Literal["number", "vector", "numbers", "text", "bytes", "proto"]
VARIABLE = ("numbers", "text", "bytes", "proto")


@dataclass(frozen=True)
class Slot:
    """One feature's place in a row.

    Attributes:
        name: the feature.
        field: the field of Feast's protobuf value that it fills; empty for "proto".
        storage: how it lies.
        dtype: of numbers, as NumPy writes it ("<f4"); of vectors, as an embedding spec does.
        length: elements of a vector.
        required: it is never null.
    """

    name: str
    field: str
    storage: Storage
    dtype: str = ""
    length: int = 0
    required: bool = False

    @property
    def variable(self) -> bool:
        """Whether its length differs from row to row."""
        return self.storage in VARIABLE

    @property
    def fixed(self) -> npt.DTypeLike:
        """The NumPy dtype of its fixed part; for a variable one that is its length in bytes."""
        if self.variable:
            return "<u4"
        if self.storage == "number":
            return self.dtype
        return stored_dtype(self.vector_dtype, self.length)

    @property
    def vector_dtype(self) -> Dtype:
        """The dtype of a vector; raises ValueError for what is none."""
        for dtype in get_args(Dtype):
            if dtype == self.dtype:
                return cast(Dtype, dtype)
        raise ValueError(f"{self.dtype} vectors")


@dataclass(frozen=True)
class Cells:
    """One slot's values of n rows as they are stored.

    Attributes:
        values: (n,) of the slot's fixed dtype, or n byte strings of a variable one.
        valid: (n,) bool; what stands where it is False does not count.
    """

    values: npt.NDArray[Any] | pa.Array | Sequence[bytes]
    valid: Bools


@dataclass(frozen=True)
class Payloads:
    """n payloads one after the other.

    Attributes:
        data: (bytes,) uint8.
        offsets: (n + 1,) int64: where each begins, and the last ends.
    """

    data: Bytes
    offsets: Ints

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Payloads:
        """Join payloads as a database returns them."""
        sizes = np.fromiter(map(len, payloads), dtype=np.int64, count=len(payloads))
        return cls(np.frombuffer(b"".join(payloads), dtype=np.uint8), _offsets(sizes))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> Ints:
        """(n,) bytes each."""
        return np.diff(self.offsets)

    @cached_property
    def width(self) -> int:
        """Bytes each, if all have the same; -1 otherwise."""
        sizes = self.sizes
        return int(sizes[0]) if len(sizes) and (sizes == sizes[0]).all() else -1

    def take(self, rows: Ints) -> Payloads:
        """The payloads of these rows, in their order."""
        if self.width > 0:
            data = self.data.reshape(-1, self.width)[rows].reshape(-1)
            return Payloads(data, np.arange(len(rows) + 1) * self.width)
        return _from_arrow(self.to_arrow().take(pa.array(rows)))

    def to_arrow(self) -> pa.Array:
        """The payloads as a large_binary array over the same memory."""
        return to_arrow(self.data, self.offsets)

    def to_list(self) -> list[bytes]:
        """One bytes object a payload."""
        if self.width > 0:
            listed: list[bytes] = self.data.view(f"V{self.width}").tolist()
            return listed
        whole, cuts = self.data.tobytes(), self.offsets.tolist()
        return [whole[a:b] for a, b in itertools.pairwise(cuts)]


@dataclass(frozen=True)
class RowLayout:
    """The slots of a row in their order."""

    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, description: str) -> RowLayout:
        """Read back a :attr:`description`; raises ValueError or TypeError on anything else."""
        return cls(tuple(Slot(**slot) for slot in json.loads(description)))

    @property
    def description(self) -> str:
        """The layout as JSON, which the store keeps beside its tables."""
        return _described(self)[0]

    @property
    def id(self) -> int:
        """A hash of the description, below 2^31."""
        return _described(self)[1]

    @cached_property
    def record(self) -> np.dtype[np.void]:
        """The fixed part of a row as a structured dtype, with the bitmap as "nulls"."""
        nulls = 0 if all(slot.required for slot in self.slots) else (len(self.slots) + 7) // 8
        fields = [(f"s{i}", slot.fixed) for i, slot in enumerate(self.slots)]
        return np.dtype([("nulls", "u1", (nulls,)), *fields])

    @cached_property
    def variable(self) -> tuple[int, ...]:
        """The places of the slots of variable length."""
        return tuple(i for i, slot in enumerate(self.slots) if slot.variable)

    @property
    def width(self) -> int:
        """Bytes of the payload of a row without variable parts."""
        return max(8, -(-self.record.itemsize // 8) * 8)


@lru_cache(maxsize=4096)
def _described(layout: RowLayout) -> tuple[str, int]:
    """Description and id; a layout is made for each request, and these are not cheap."""
    description = json.dumps([asdict(slot) for slot in layout.slots], ensure_ascii=False)
    digest = hashlib.blake2b(description.encode(), digest_size=4).digest()
    return description, int.from_bytes(digest, "little") & 0x7FFF_FFFF


def pack(layout: RowLayout, cells: Mapping[str, Cells], rows: int) -> Payloads:
    """Pack n rows; the work is one copy of the bytes, whatever the number of rows."""
    columns = [cells[slot.name] for slot in layout.slots]
    if len(columns) == 1 and not layout.variable and layout.width == layout.record.itemsize:
        only = columns[0].values
        if layout.slots[0].required and isinstance(only, np.ndarray):
            data = np.ascontiguousarray(only).view(np.uint8).reshape(-1)
            return Payloads(data, np.arange(rows + 1) * layout.width)
    padded = np.zeros((rows, layout.width), dtype=np.uint8)
    fixed = np.zeros(rows, dtype=layout.record)
    parts = []
    for i, (slot, column) in enumerate(zip(layout.slots, columns, strict=True)):
        if slot.variable:
            part = _filled(column)
            fixed[f"s{i}"] = pc.binary_length(part).to_numpy()
            parts.append(part)
        else:
            fixed[f"s{i}"][column.valid] = np.asarray(column.values)[column.valid]
    if fixed["nulls"].shape[1]:
        nulls = ~np.stack([column.valid for column in columns], axis=1)
        fixed["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    raw = fixed.view(np.uint8).reshape(rows, layout.record.itemsize)
    if not parts:
        padded[:, : raw.shape[1]] = raw
        return Payloads(padded.reshape(-1), np.arange(rows + 1) * layout.width)
    return _joined(raw, parts)


def unpack(
    layout: RowLayout, payloads: Payloads, names: Collection[str] | None = None
) -> dict[str, Cells]:
    """What :func:`pack` was given, of some slots or all.

    Raises ValueError where lengths do not fit the layout.
    """
    rows, size = len(payloads), layout.record.itemsize
    fixed = _fixed_parts(layout, payloads)
    bits = np.unpackbits(fixed["nulls"], axis=1, bitorder="little")
    valid = [
        bits[:, i] == 0 if bits.shape[1] else np.ones(rows, dtype=np.bool_)
        for i in range(len(layout.slots))
    ]
    values: list[Any] = [fixed[f"s{i}"] for i in range(len(layout.slots))]
    if layout.variable:
        whole = payloads.data.tobytes()
        ends = payloads.offsets[:-1] + size
        for i in layout.variable:
            starts, ends = ends, ends + values[i]
            if names is None or layout.slots[i].name in names:
                cuts = zip(starts.tolist(), ends.tolist(), strict=True)
                values[i] = [whole[a:b] for a, b in cuts]
        if not (-(-ends // 8) * 8 == payloads.offsets[1:]).all():
            raise ValueError("lengths that do not add up")
    return {
        slot.name: Cells(column, mask)
        for slot, column, mask in zip(layout.slots, values, valid, strict=True)
        if names is None or slot.name in names
    }


def to_arrow(data: Bytes, offsets: Ints) -> pa.Array:
    """Byte strings one after the other as an Arrow array over the same memory."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _fixed_parts(layout: RowLayout, payloads: Payloads) -> npt.NDArray[np.void]:
    rows, size = len(payloads), layout.record.itemsize
    if not layout.variable:
        if rows and payloads.width != layout.width:
            raise ValueError(f"payloads that have not {layout.width} bytes each")
        if layout.width == size:
            return payloads.data.view(layout.record)
        raw = payloads.data.reshape(rows, layout.width)[:, :size]
    else:
        if (payloads.sizes < size).any():
            raise ValueError(f"a payload below {size} bytes")
        raw = payloads.data[payloads.offsets[:-1, None] + np.arange(size)]
    return np.ascontiguousarray(raw).view(layout.record).reshape(rows)


def _filled(column: Cells) -> pa.Array:
    """Byte strings as an Arrow array without nulls."""
    values = column.values
    if not isinstance(values, pa.Array):
        values = pa.array(list(values), pa.large_binary())
    if not column.valid.all():
        values = pc.if_else(pa.array(column.valid), values, pa.scalar(b"", values.type))
    return pc.fill_null(values.cast(pa.large_binary()), b"")


def _joined(raw: Bytes, parts: Sequence[pa.Array]) -> Payloads:
    rows, size = raw.shape
    head = to_arrow(np.ascontiguousarray(raw).reshape(-1), np.arange(rows + 1) * size)
    sizes = size + sum(pc.binary_length(part).to_numpy() for part in parts)
    zeros = pa.array([bytes(count) for count in range(8)], pa.large_binary())
    padding = zeros.take(pa.array(-sizes % 8))
    separator = pa.scalar(b"", pa.large_binary())
    return _from_arrow(pc.binary_join_element_wise(head, *parts, padding, separator))


def _from_arrow(array: pa.Array) -> Payloads:
    """The bytes of a large_binary array that Arrow has just made: without nulls, from its start."""
    _, offsets, data = array.buffers()
    cuts = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1)
    held = np.frombuffer(data, dtype=np.uint8) if data else np.empty(0, dtype=np.uint8)
    return Payloads(held[: cuts[-1]], cuts)


def _offsets(sizes: Ints) -> Ints:
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
