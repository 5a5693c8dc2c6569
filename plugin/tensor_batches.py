"""Retrieved rows as torch tensors, copied only where a value is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from provender.plugin.mapped_vectors import DIM


@dataclass(frozen=True)
class TensorBatch:
    """Some retrieved rows.

    Attributes:
        columns: (n,) of a number, bool or time (int64 nanoseconds), (n, dim) float32 of vectors;
            zero where missing.
        present: bool (n,), of the same columns.
        others: what no tensor can hold, such as text, and lists of several lengths.
    """

    columns: dict[str, Tensor]
    present: dict[str, Tensor]
    others: dict[str, pa.Array]

    def filled(self, missing: float) -> dict[str, Any]:
        """Return tensors and lists by column, with ``missing`` where a value is missing."""
        filled: dict[str, Any] = {name: column.to_pylist() for name, column in self.others.items()}
        for name, column in self.columns.items():
            present = self.present[name]
            if not bool(present.all()):
                column = column.clone() if column.is_floating_point() else column.to(torch.float64)
                column[~present] = missing
            filled[name] = column
        return filled


def to_tensors(rows: pa.RecordBatch | pa.Table) -> TensorBatch:
    """Return the columns of some rows as tensors; see :class:`TensorBatch`."""
    columns, present, others = {}, {}, {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        tensor = _tensor(column, rows.schema.field(name).metadata or {})
        if tensor is None:
            others[name] = (
                column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            )
        else:
            columns[name] = tensor
            present[name] = _valid(column)
    return TensorBatch(columns, present, others)


def _tensor(column: pa.Array | pa.ChunkedArray, said: Mapping[bytes, bytes]) -> Tensor | None:
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return _vectors(parts, int(said.get(DIM, 0)))
    if pa.types.is_timestamp(kind):
        return _numbers(column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(column)
    return None


def _numbers(column: pa.Array | pa.ChunkedArray) -> Tensor:
    if column.null_count:
        column = pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0)
    return torch.from_numpy(np.array(column))


def _vectors(parts: list[pa.Array], dim: int) -> Tensor | None:
    """Return (n, dim) float32, or None of lists that have several lengths or none at all.

    Where every vector is missing, only the schema knows how long they are.
    """
    lengths = pc.unique(pc.list_value_length(pa.chunked_array(parts)).drop_null()).to_pylist()
    if not lengths and dim:
        return torch.zeros(sum(map(len, parts)), dim)
    if len(lengths) != 1 or lengths == [0]:
        return None
    blocks = [_block(part, lengths[0]) for part in parts]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _block(part: pa.Array, dim: int) -> Tensor:
    values = part.flatten()
    # NumPy would pass Arrow's memory on as read-only, which torch does not know.
    floats = torch.from_numpy(np.array(values)) if values.null_count else from_dlpack(values)
    floats = floats.float().reshape(-1, dim)
    if not part.null_count:
        return floats
    block = torch.zeros(len(part), dim)
    block[_valid(part)] = floats
    return block


def _valid(column: pa.Array | pa.ChunkedArray) -> Tensor:
    if not column.null_count:
        return torch.ones(len(column), dtype=torch.bool)
    return torch.from_numpy(np.array(pc.is_valid(column)))
