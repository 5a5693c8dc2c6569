"""The files of one generation of a hot snapshot: how they are laid out, written and mapped.

Keys ascend. Integers lie as int64; strings as one run of UTF-8 with n + 1 offsets, which is
Arrow's own layout, so it is searched where it lies. Times, row checksums and vectors follow in
the same order. All numbers are little-endian. The header is written last.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provender.plugin.checksums import multipliers
from provender.plugin.errors import FetchError, SnapshotError
from provender.plugin.files import sync, write_whole

KeyKind = Literal["int64", "string"]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]
#: Arrow's arrays as well, which have no types that a checker knows.
Keys: TypeAlias = Sequence[Any] | npt.NDArray[Any]

HEADER = "header.json"
_COLUMNS = {
    "int64": ("keys", "times", "checks", "vectors"),
    "string": ("keys", "offsets", "times", "checks", "vectors"),
}


@dataclass(frozen=True)
class HotChunk:
    """Consecutive rows of a view's table, ascending by key.

    Attributes:
        keys: (n,) int64, or strings: an Arrow array, an array of objects or a list.
        event_us: (n,) int64 microseconds since 1970 in UTC.
        vectors: (n, dim) float32.
    """

    keys: Keys
    event_us: Ints
    vectors: Vectors


class FileEntry(BaseModel):
    """What a file must be: its length, and, where opening it reads it all, its SHA-256."""

    bytes: int
    sha256: str | None = None


class Header(BaseModel):
    """What a generation holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    keys: KeyKind
    rows: int = Field(ge=1)
    dims: tuple[int, ...] = Field(min_length=1)
    files: dict[str, FileEntry]


def read_header(folder: Path) -> Header:
    """Return a generation's header; raises SnapshotError where it is missing or none."""
    path = folder / HEADER
    try:
        return Header.model_validate_json(path.read_bytes())
    except OSError as error:
        raise damaged(path, f"that it can't be read ({error.strerror})") from None
    except ValidationError as error:
        raise damaged(path, f"no header of a hot snapshot ({error.errors()[0]['msg']})") from None


def mapped(path: Path, entry: FileEntry) -> mmap.mmap | bytes:
    """Map a file read-only; raises SnapshotError unless it is what the header says."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno()).st_size
            if found != entry.bytes:
                raise damaged(path, f"{found:,} bytes instead of {entry.bytes:,}")
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if found else b""
    except OSError as error:
        raise damaged(path, f"that it can't be read ({error.strerror})") from None
    if entry.sha256 is not None and sha256(memory).hexdigest() != entry.sha256:
        raise damaged(path, "other bytes than were written")
    return memory


def mapped_keys(header: Header, maps: Mapping[str, mmap.mmap | bytes]) -> Ints | pa.Array:
    """Return the keys where they lie: int64 (n,), or Arrow strings."""
    if header.keys == "int64":
        return np.ndarray(header.rows, "<i8", maps["keys"])
    buffers = [None, pa.py_buffer(maps["offsets"]), pa.py_buffer(maps["keys"])]
    return pa.Array.from_buffers(pa.large_string(), header.rows, buffers)


def checksums(vectors: Vectors) -> Words:
    """Return a checksum a row, uint64 (n,): the sum of words times odd random numbers, mod 2^64.

    A word is two floats, or one where the dim is odd. Any change within one word changes the sum,
    and so does all but 2^-32 of other damage, save the signs of second floats alone: those of the
    rows themselves are told apart by the table's own checksums. Words of one float take two and a
    half times as long, zlib's CRC seven times.
    """
    words = vectors.view("<u4" if vectors.shape[1] % 2 else "<u8")
    sums: Words = np.einsum("ij,j->i", words, multipliers(words.shape[1]), dtype=np.uint64)
    return sums


def as_integers(keys: Keys) -> Ints:
    """Return keys as int64 (n,); raises FetchError where they are anything else."""
    integers: npt.NDArray[Any] = np.asarray(keys)
    if not len(integers):
        return np.zeros(0, dtype=np.int64)
    if integers.dtype.kind not in "iu" or not np.can_cast(integers.dtype, np.int64):
        raise refused(f"keys of type {integers.dtype}", "int64 keys")
    return integers.astype(np.int64, copy=False)


def as_strings(keys: Keys) -> pa.Array:
    """Return keys as Arrow large strings (n,); raises FetchError where they are anything else."""
    try:
        strings = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.large_string())
        if pa.types.is_string(strings.type):
            strings = strings.cast(pa.large_string())
    except (pa.ArrowException, UnicodeError) as error:
        raise refused(f"keys that are no strings ({error})", "string keys") from None
    if not pa.types.is_large_string(strings.type):
        raise refused(f"keys of type {strings.type}", "string keys")
    if strings.null_count:
        raise refused(f"{strings.null_count} null keys", "string keys")
    return strings


def write_generation(path: Path, chunks: Iterable[HotChunk], prefixes: Sequence[int]) -> bool:
    """Write a generation to a new folder; returns False, and makes none, without any row."""
    writer: _Writer | None = None
    try:
        for chunk in chunks:
            if len(chunk.keys):
                writer = writer or _Writer(path, chunk, prefixes)
                writer.append(chunk)
        if writer is not None:
            writer.finish()
    finally:
        if writer is not None:
            writer.close()
    return writer is not None


class _Writer:
    """Appends chunks to the files of one generation."""

    def __init__(self, path: Path, first: HotChunk, prefixes: Sequence[int]) -> None:
        integers = isinstance(first.keys, np.ndarray) and first.keys.dtype.kind == "i"
        self._kind: KeyKind = "int64" if integers else "string"
        self._path, self._dim = path, first.vectors.shape[-1]
        self._dims = (*sorted({dim for dim in prefixes if 0 < dim < self._dim}), self._dim)
        self._rows = 0
        self._last: Ints | pa.Array | None = None
        path.mkdir()
        # No digest of the vectors: their rows have checksums, and opening shall not read them.
        self._columns = {
            name: _ColumnFile(path / name, digested=name != "vectors")
            for name in _COLUMNS[self._kind]
        }

    def append(self, chunk: HotChunk) -> None:
        self._check(chunk)
        keys = self._ascending(chunk.keys)
        if isinstance(keys, np.ndarray):
            self._columns["keys"].append(keys.astype("<i8", copy=False))
        else:
            self._append_strings(keys)
        vectors = np.ascontiguousarray(chunk.vectors, dtype="<f4")
        checks = [checksums(vectors[:, :dim]) for dim in self._dims]
        self._columns["checks"].append(np.stack(checks, axis=1).astype("<u8", copy=False))
        self._columns["times"].append(np.ascontiguousarray(chunk.event_us, dtype="<i8"))
        self._columns["vectors"].append(vectors)
        self._rows += len(keys)

    def finish(self) -> None:
        """Make the files last, then say in the header what they are."""
        files = {name: column.finish() for name, column in self._columns.items()}
        header = Header(keys=self._kind, rows=self._rows, dims=self._dims, files=files)
        write_whole(self._path / HEADER, header.model_dump_json(indent=2).encode())
        sync(self._path)

    def close(self) -> None:
        for column in self._columns.values():
            column.stream.close()

    def _check(self, chunk: HotChunk) -> None:
        shape = (len(chunk.keys), self._dim)
        if chunk.vectors.shape != shape or len(chunk.event_us) != shape[0]:
            raise SnapshotError(
                f"hot snapshot {self._path.parent}",
                found=f"vectors of shape {chunk.vectors.shape}, {len(chunk.event_us)} times",
                expected=f"shape {shape}, by its keys and its first rows",
                remedy="Materialize the view again.",
            )

    def _ascending(self, keys: Keys) -> Ints | pa.Array:
        """The keys, once they follow each other and the chunk before."""
        if self._kind == "int64":
            integers = as_integers(keys)
            chain = integers if self._last is None else np.append(self._last, integers)
            in_order = bool((chain[:-1] < chain[1:]).all())
        else:
            strings = as_strings(keys)
            chain = strings if self._last is None else pa.concat_arrays([self._last, strings])
            in_order = pc.all(pc.less(chain[:-1], chain[1:])).as_py() is not False
        if not in_order:
            raise SnapshotError(
                f"hot snapshot {self._path.parent}",
                found="keys out of order or repeated",
                expected="ascending keys, each one once",
                remedy="See that the table sorts its keys by their bytes.",
            )
        self._last = chain[-1:]
        return chain[len(chain) - len(keys) :]

    def _append_strings(self, keys: pa.Array) -> None:
        _, offset_buffer, data = keys.buffers()
        offsets = np.frombuffer(offset_buffer, dtype="<i8")[keys.offset :][: len(keys) + 1]
        before = self._columns["keys"].bytes
        if not self._rows:
            self._columns["offsets"].append(np.zeros(1, dtype="<i8"))
        self._columns["offsets"].append(offsets[1:] - offsets[0] + before)
        if data is not None:
            self._columns["keys"].append(memoryview(data)[offsets[0] : offsets[-1]])


class _ColumnFile:
    """A file that grows by arrays, with its length and digest so far."""

    def __init__(self, path: Path, *, digested: bool) -> None:
        self.stream, self.bytes = path.open("xb"), 0
        self._digest = sha256() if digested else None

    def append(self, values: Any) -> None:
        raw = memoryview(values).cast("B")
        self.stream.write(raw)
        self.bytes += raw.nbytes
        if self._digest is not None:
            self._digest.update(raw)

    def finish(self) -> FileEntry:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        digest = None if self._digest is None else self._digest.hexdigest()
        return FileEntry(bytes=self.bytes, sha256=digest)


def damaged(path: Path, found: str) -> SnapshotError:
    """What to raise about a file that is not as it was written."""
    return SnapshotError(
        f"hot snapshot {path}",
        found=found,
        expected="the file as it was written",
        remedy="Materialize the view again, or remove the view's hot folder to read its table.",
    )


def refused(found: str, expected: str) -> FetchError:
    """What to raise about a request."""
    return FetchError("hot snapshot", found=found, expected=expected, remedy="Correct the request.")
