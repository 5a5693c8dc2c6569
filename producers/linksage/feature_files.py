"""Arrays that are written block by block and read as maps of their files: `.npy` and Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray


class NpyWriter:
    """A `.npy` file to which rows are added; how many there are need not be known before."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._file, self._shape, self._dtype = file, shape, np.dtype(dtype)
        self._rows = 0
        self._head()

    def add(self, rows: NDArray[Any]) -> None:
        """Add (n, *shape) rows."""
        if rows.shape[1:] != self._shape:
            raise ValueError(f"rows of {rows.shape[1:]}, not of {self._shape}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def finish(self) -> None:
        """Say in the head how many rows there are: it keeps room for that."""
        self._file.seek(0)
        self._head()

    def _head(self) -> None:
        about = {"shape": (self._rows, *self._shape), "fortran_order": False}
        kind = npy.dtype_to_descr(self._dtype)
        npy.write_array_header_1_0(self._file, {**about, "descr": kind})


@contextmanager
def npy_writer(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NpyWriter]:
    """Write an array whose rows have `shape` at `path`, which is whole once the block has ended."""
    with path.open("wb") as file:
        writer = NpyWriter(file, shape, dtype)
        yield writer
        writer.finish()


def mapped_npy(path: Path) -> NDArray[Any]:
    """The array of a file, read when it is looked at."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def write_keys(path: Path, keys: pa.ChunkedArray) -> None:
    """Write a column of keys so that it can be mapped."""
    table = pa.table({"key": keys.combine_chunks()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def mapped_keys(path: Path) -> pa.Array[Any]:
    """The keys as they were written, one array."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()["key"].combine_chunks()
