"""Vectors gathered by row from where they lie: a snapshot's Parquet file, or a matrix in memory.

A snapshot's manifest says at which bytes of its file the vectors are (plain float32, one page a
row group), so they are mapped and copied once, into the result, and nothing is decoded.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import as_strided

from provender.plugin.errors import SnapshotError
from provender.plugin.history import Positions
from provender.plugin.manifest import SnapshotFile

Bytes = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

#: A column of vectors in Arrow, as the snapshots' Parquet has it.
VECTOR_TYPE = pa.list_(pa.field("element", pa.float32()))
#: What a vector column's field says in its metadata: how many floats each has.
DIM = b"provender.dim"
#: Rows copied at once: their temporary copy stays in the processor's cache.
_CHUNK = 2048
#: Bytes copied before the mapped pages are let go: the system keeps them, and whole files need not
#: count as this process's memory.
_HELD = 4 * 2**20
#: Bytes of files up to which a stream of batches keeps them mapped: each needs them all again.
_KEPT = 2**30


class VectorFile(NamedTuple):
    """The bytes of vectors, where each row of them begins (int64), and what they are mapped by."""

    content: Bytes
    places: Positions
    mapping: mmap.mmap | None = None


class MappedVectors:
    """The vectors of several files, numbered through from 0 on; ``dim`` floats each."""

    def __init__(self, files: Sequence[VectorFile], dim: int) -> None:
        self.dim = dim
        self._files = files
        self._places = np.concatenate([np.empty(0, np.int64), *(file.places for file in files)])
        counts = [len(file.places) for file in files]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._size = sum(file.content.size for file in files)

    def take(self, rows: Positions, dim: int | None = None, *, again: bool = False) -> Vectors:
        """Return the vectors of the given rows, or their first ``dim`` floats: (m, dim) float32.

        Args:
            again: more will be taken soon, so keep mapped what is not too large.
        """
        held = _KEPT if again and self._size <= _KEPT else _HELD
        item = np.dtype(f"V{4 * (dim or self.dim)}")
        taken = np.empty(len(rows), item)
        # In the order in which they lie: a cold disk is read forwards.
        order = np.argsort(rows)
        bounds = np.searchsorted(rows[order], self._starts)
        for file, (low, high) in zip(self._files, pairwise(bounds), strict=True):
            _copy(file, self._places[rows[order[low:high]]], taken, order[low:high], held)
        return taken.view(np.float32).reshape(len(rows), dim or self.dim)


def of_matrix(matrix: Vectors) -> MappedVectors:
    """Return the rows of a (n, dim) float32 matrix as vectors to take from."""
    content = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
    places = np.arange(len(matrix)) * 4 * matrix.shape[1]
    return MappedVectors([VectorFile(content, places)], matrix.shape[1])


def of_files(folder: Path, files: Sequence[SnapshotFile], dim: int) -> list[VectorFile]:
    """Map a snapshot's files, for :class:`MappedVectors`.

    Raises SnapshotError where a file is gone or has another length than its manifest says.
    """
    return [_map(folder / file.name, file, dim) for file in files if file.rows]


def list_array(vectors: Vectors, present: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Return one list a row, null where not present; the vectors are not copied.

    Args:
        vectors: (p, dim) float32, those of the rows that are present, in their order.
        present: bool (n,), of which p are true.
        kind: the Arrow type of the result, a list of float.
    """
    dim = vectors.shape[1]
    offsets = np.zeros(len(present) + 1, np.int32)
    np.cumsum(present, out=offsets[1:])
    values = pa.array(vectors.reshape(-1))
    mask = None if present.all() else pa.array(~present)
    return pa.ListArray.from_arrays(pa.array(offsets * dim), values, type=kind, mask=mask)


def _copy(
    file: VectorFile, places: Positions, taken: npt.NDArray[np.void], rows: Positions, most: int
) -> None:
    """Copy what lies at ascending places of a file to the given rows of the result.

    Pages are let go after ``most`` bytes, and at the end unless they may be kept.
    """
    windows = _windows(file.content, taken.dtype)
    held = 0
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        taken[rows[part]] = windows[places[part]]
        held += len(rows[part]) * taken.itemsize
        ended = part.stop >= len(rows) and most < _KEPT
        if file.mapping is not None and (held > most or ended):
            file.mapping.madvise(mmap.MADV_DONTNEED)
            held = 0


def _windows(content: Bytes, item: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return the item that begins at each byte: a view, of which only some are ever looked at."""
    count = max(content.size - item.itemsize + 1, 0)
    first = content[: item.itemsize].view(item) if count else np.empty(0, item)
    return as_strided(first, shape=(count,), strides=(1,), writeable=False)


def _map(path: Path, file: SnapshotFile, dim: int) -> VectorFile:
    try:
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"it can't be read ({error})", file) from None
    if len(mapped) != file.bytes:
        raise _damaged(path, f"{len(mapped):,} bytes", file)
    content = np.frombuffer(mapped, np.uint8)
    within = [np.arange(page.rows) * 4 * dim + page.offset for page in file.pages]
    return VectorFile(content, np.concatenate(within), mapped)


def _damaged(path: Path, found: str, file: SnapshotFile) -> SnapshotError:
    return SnapshotError(
        f"snapshot file {path}",
        found=found,
        expected=f"{file.bytes:,} bytes, by its manifest",
        remedy="Remove the snapshot's folder and run the producer again for its as-of date.",
    )
