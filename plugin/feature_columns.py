"""Feature columns in memory: the values that a join uses, each once, handed out by position."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.errors import SnapshotError
from provender.plugin.feature_rows import FeatureRows
from provender.plugin.history import MISSING, Positions
from provender.plugin.mapped_vectors import MappedVectors, list_array, of_matrix

#: Bytes of vectors above which they are kept in a temporary file and not in memory.
SPILL_BYTES = 2**30


class FeatureColumn(Protocol):
    """The used values of one feature; ``width`` floats each if they are vectors, else 1."""

    width: int
    is_vector: bool

    def take(self, positions: Positions, dim: int | None) -> pa.Array:
        """Return the values at positions, null at MISSING; of vectors their first floats."""


class ValueColumn:
    """Values of any type."""

    is_vector = False

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.width = 1
        self._values = values.combine_chunks() if values.num_chunks == 1 else values

    def take(self, positions: Positions, dim: int | None) -> pa.Array:
        """As :class:`FeatureColumn`."""
        taken = self._values.take(pa.array(positions, mask=positions == MISSING))
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


class VectorColumn:
    """Lists of float32 that all have one length, as a matrix: a copy of rows is all they cost."""

    is_vector = True

    def __init__(self, rows: int, dim: int, kind: pa.DataType) -> None:
        self._kind, self.width = kind, dim
        self._matrix = _matrix(rows, dim)
        self._valid = np.ones(rows, np.bool_)
        self._filled = 0

    def add(self, lists: pa.Array) -> bool:
        """Append lists; return False, with nothing added, where one has another length."""
        valid = pc.is_valid(lists).to_numpy(zero_copy_only=False)
        floats = lists.flatten()
        lengths = pc.list_value_length(lists).drop_null()
        if floats.null_count or not pc.all(pc.equal(lengths, self.width)).as_py():
            return False
        rows = slice(self._filled, self._filled + len(valid))
        self._matrix[rows][valid] = floats.to_numpy().reshape(-1, self.width)
        self._valid[rows] = valid
        self._filled += len(valid)
        return True

    @cached_property
    def _vectors(self) -> MappedVectors:
        return of_matrix(self._matrix)

    def take(self, positions: Positions, dim: int | None) -> pa.Array:
        """As :class:`FeatureColumn`."""
        present = positions != MISSING
        present[present] = self._valid[positions[present]]
        return list_array(self._vectors.take(positions[present], dim), present, self._kind)


def load_columns(
    rows: FeatureRows, numbers: Positions, columns: Sequence[str], vector_dim: int | None
) -> list[FeatureColumn]:
    """Read columns of the given rows, which ascend, reading each row group once.

    Args:
        vector_dim: what an embedding view declares; None of any other view.

    Raises SnapshotError: an embedding view's vector has another length than declared.
    """
    names = list(dict.fromkeys(columns))
    chunks: dict[str, list[pa.Array]] = {name: [] for name in names}
    vectors: dict[str, VectorColumn | None] = {}
    done = 0
    for table in rows.take(numbers, names) if len(numbers) else ():
        for name in names:
            values = table[name].combine_chunks()
            if name not in vectors:
                vectors[name] = _vector_column(values, len(numbers), vector_dim)
            column = vectors[name]
            if column is not None and not column.add(values):
                _check_declared(rows, values, numbers[done], vector_dim)
                chunks[name] = _held(column, done)
                column = vectors[name] = None
            if column is None:
                chunks[name].append(values)
        done += table.num_rows
    return [
        vectors.get(name)
        or ValueColumn(pa.chunked_array(chunks[name], rows.schema.field(name).type))
        for name in columns
    ]


def _held(column: VectorColumn, rows: int) -> list[pa.Array]:
    """Return what a column of vectors held before a list came that did not fit."""
    return [column.take(np.arange(rows), None)] if rows else []


def _vector_column(values: pa.Array, rows: int, dim: int | None) -> VectorColumn | None:
    kind = values.type
    if not (pa.types.is_list(kind) and pa.types.is_float32(kind.value_type)):
        return None
    first = pc.list_value_length(values).drop_null()
    length = dim or (first[0].as_py() if len(first) else 0)
    return VectorColumn(rows, length, kind) if length else None


def _check_declared(rows: FeatureRows, values: pa.Array, first: int, dim: int | None) -> None:
    if dim is None:
        return
    lengths = pc.fill_null(pc.list_value_length(values), dim).to_numpy()
    wrong = np.flatnonzero(lengths != dim)
    found = f"a vector of length {lengths[wrong[0]]}" if len(wrong) else "nulls within a vector"
    raise SnapshotError(
        f"vectors of {rows.thing}, from row {first} on",
        found=found,
        expected=f"{dim} floats in each, as declared",
        remedy="Write the file again, or declare the view's next version with its dim.",
    )


def _matrix(rows: int, dim: int) -> npt.NDArray[np.float32]:
    if rows * dim * 4 <= SPILL_BYTES:
        return np.empty((rows, dim), np.float32)
    # Unlinked at once: the space comes back when the matrix is dropped, or the process killed.
    with tempfile.TemporaryFile(prefix="provender-") as file:
        return np.memmap(file, np.float32, mode="w+", shape=(rows, dim))
