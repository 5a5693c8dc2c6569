"""Vectors gathered by row from where they lie: a snapshot's Parquet file, or a matrix in memory.

A snapshot's manifest says at which bytes of its file the vectors are (plain float32, one page a
row group), so they are mapped and copied once, into the result, and nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import as_strided

from provender.plugin.errors import SnapshotError
from provender.plugin.history import Positions
from provender.plugin.manifest import SnapshotFile

Bytes = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

#: Rows copied between two looks at which file is next: their temporary copy stays in the cache.
_CHUNK = 2048


class MappedVectors:
    """The vectors of several files, numbered through from 0 on.

    Args:
        files: each file's bytes, and where each of its rows begins: int64, in bytes.
        dim: floats a stored vector.
    """

    def __init__(self, files: Sequence[tuple[Bytes, Positions]], dim: int) -> None:
        self.dim = dim
        self._bytes = [content for content, _ in files]
        self._places = np.concatenate([np.empty(0, np.int64), *(places for _, places in files)])
        counts = [len(places) for _, places in files]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def take(self, rows: Positions, dim: int | None = None) -> Vectors:
        """Return the vectors of the given rows, or their first ``dim`` floats: (m, dim) float32."""
        item = np.dtype(f"V{4 * (dim or self.dim)}")
        taken = np.empty(len(rows), item)
        windows = [_windows(content, item) for content in self._bytes]
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._copy(windows, rows[part], taken[part])
        return taken.view(np.float32).reshape(len(rows), dim or self.dim)

    def _copy(self, windows: Sequence[npt.NDArray[np.void]], rows: Positions, out: object) -> None:
        files = np.searchsorted(self._starts, rows, side="right") - 1
        places = self._places[rows]
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            out[here] = windows[file][places[here]]  # type: ignore[index]


def of_matrix(matrix: Vectors) -> MappedVectors:
    """Return the rows of a (n, dim) float32 matrix as vectors to take from."""
    content = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
    return MappedVectors([(content, np.arange(len(matrix)) * 4 * matrix.shape[1])], matrix.shape[1])


def of_files(
    folder: Path, files: Sequence[SnapshotFile], dim: int
) -> list[tuple[Bytes, Positions]]:
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


def _windows(content: Bytes, item: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return the item that begins at each byte: a view, of which only some are ever looked at."""
    count = max(content.size - item.itemsize + 1, 0)
    first = content[: item.itemsize].view(item) if count else np.empty(0, item)
    return as_strided(first, shape=(count,), strides=(1,), writeable=False)


def _map(path: Path, file: SnapshotFile, dim: int) -> tuple[Bytes, Positions]:
    try:
        size = path.stat().st_size
        content = np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise _damaged(path, f"it can't be read ({error.strerror})", file) from None
    if size != file.bytes:
        raise _damaged(path, f"{size:,} bytes", file)
    within = [np.arange(page.rows) * 4 * dim + page.offset for page in file.pages]
    return content, np.concatenate(within)


def _damaged(path: Path, found: str, file: SnapshotFile) -> SnapshotError:
    return SnapshotError(
        f"snapshot file {path}",
        found=found,
        expected=f"{file.bytes:,} bytes, by its manifest",
        remedy="Remove the snapshot's folder and run the producer again for its as-of date.",
    )
