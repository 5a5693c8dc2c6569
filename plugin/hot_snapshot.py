"""Hot snapshots: an embedding view's online table as memory-mapped files, the read cache of a host.

    <folder>/current -> generation-<name>   a symbolic link: what is served
    <folder>/generation-<name>/             keys ascending, event times, vectors, row checksums
    <folder>/epoch, <folder>/publishing     locks

Readers follow the link, map the files and hold no lock. What they map has to be what the table
holds, so whoever changes the table does that inside :func:`withdrawn`::

    connection.execute(...)             # the database's own locks first, then this one
    with withdrawn(folder):
        connection.commit()
    publish(folder, chunks())           # after a load; after a push the next load does it

`withdrawn` draws a new epoch, removes the link, and holds a shared lock until the commit is
through. :func:`publish` notes the epoch under the exclusive lock before it pulls the first chunk
and compares it under that lock before it sets the link. So a commit that the scan may have missed
has drawn another epoch, and the scan is thrown away. A writer that is killed leaves no link, and
readers go to the table. What another host or a hand changes is not seen: :func:`withdraw` then.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.errors import SnapshotError
from provender.plugin.files import sync
from provender.plugin.hot_files import (
    HEADER,
    Bools,
    HotChunk,
    Ints,
    Keys,
    Vectors,
    as_integers,
    as_strings,
    checksums,
    damaged,
    mapped,
    mapped_keys,
    read_header,
    refused,
    write_generation,
)

__all__ = ["HotChunk", "HotRows", "HotSnapshot", "open_hot", "publish", "withdraw", "withdrawn"]

_LINK = "current"
#: How long a finished generation waits for a gap between pushes.
_PATIENCE_SECONDS = 10.0


class HotRows(NamedTuple):
    """The answer to one read; a key that is not there has a zero vector and the event time 0.

    Attributes:
        vectors: (n, dim) float32.
        present: (n,) bool.
        event_us: (n,) int64 microseconds since 1970 in UTC.
    """

    vectors: Vectors
    present: Bools
    event_us: Ints


class HotSnapshot:
    """One generation, mapped read-only; threads and forked processes may share it.

    Attributes:
        rows: how many keys it holds.
        dim: floats a vector.
        dims: the prefixes that are read without the rest, ascending; the last is `dim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.rows, self.dims, self.dim = header.rows, header.dims, header.dims[-1]
        maps = {name: mapped(path / name, file) for name, file in header.files.items()}
        try:
            self._keys = mapped_keys(header, maps)
            self._event_us = np.ndarray(self.rows, "<i8", maps["times"])
            self._checks = np.ndarray((self.rows, len(self.dims)), "<u8", maps["checks"])
            # As opaque cells of a row's first bytes: gathering those is a copy of memory.
            self._cells = {
                dim: np.ndarray(self.rows, f"V{4 * dim}", maps["vectors"], 0, (4 * self.dim,))
                for dim in self.dims
            }
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path / HEADER, f"other files than it needs ({error})") from None

    def read(self, keys: Keys, dim: int | None = None) -> HotRows:
        """Return vectors and event times in the order of `keys`, duplicates included.

        Args:
            keys: (n,) int64 or strings, as the view's entity has them.
            dim: a nested dim to cut the vectors to; the whole vectors by default.

        Raises:
            FetchError: keys of another type or null, or a dim beyond the vectors.
            SnapshotError: the bytes of a row are not those that were published.
        """
        width = self.dim if dim is None else dim
        if not 1 <= width <= self.dim:
            raise refused(f"dim {dim}", f"1 to {self.dim}")
        wanted = as_integers(keys) if isinstance(self._keys, np.ndarray) else as_strings(keys)
        rows, present = self._find(wanted)
        covering = min(each for each in self.dims if each >= width)
        vectors = self._cells[covering][rows].view("<f4").reshape(len(rows), covering)
        self._verify(vectors, rows, present, wanted)
        event_us = np.take(self._event_us, rows)
        if not present.all():
            vectors[~present], event_us[~present] = 0.0, 0
        return HotRows(np.ascontiguousarray(vectors[:, :width]), present, event_us)

    def chunks(self, rows: int = 16_384) -> Iterator[HotChunk]:
        """Return everything, ascending by key, at most `rows` at a time; raises as `read` does."""
        for start in range(0, self.rows, rows):
            keys = self._keys[start : start + rows]
            found = self.read(keys)
            yield HotChunk(keys, found.event_us, found.vectors)

    def _find(self, wanted: Ints | pa.Array) -> tuple[Ints, Bools]:
        if isinstance(self._keys, np.ndarray):
            rows = np.empty(len(wanted), dtype=np.int64)
            # In order, one search begins where the last ended: half the time in a large table.
            order = np.argsort(wanted)
            rows[order] = np.searchsorted(self._keys, wanted[order])
            np.minimum(rows, self.rows - 1, out=rows)
            return rows, np.take(self._keys, rows) == wanted
        found = pc.search_sorted(self._keys, wanted).to_numpy()
        rows = np.minimum(found, self.rows - 1).astype(np.int64)
        same = pc.equal(self._keys.take(pa.array(rows)), wanted)
        return rows, same.to_numpy(zero_copy_only=False)

    def _verify(self, vectors: Vectors, rows: Ints, present: Bools, wanted: Any) -> None:
        column = self.dims.index(vectors.shape[1])
        wrong = present & (checksums(vectors) != self._checks[rows, column])
        if wrong.any():
            key = wanted[int(np.argmax(wrong))]
            raise damaged(self.path / "vectors", f"other bytes in the vector of key {key}")


def open_hot(folder: Path) -> HotSnapshot | None:
    """Return what `folder` serves now, or None where nothing is published or it was withdrawn.

    It is meant to be called for every request: it reads one link, and maps a generation once a
    process. Opening a generation compares all but the vectors with their SHA-256; the vectors
    are compared row by row as they are read.

    Raises:
        SnapshotError: a file is missing, cut off or damaged. :func:`withdraw` it and read the
            table instead.
    """
    while (name := _served(folder)) is not None:
        known = _opened.get(folder)
        if known is not None and known.path.name == name:
            return known
        try:
            _opened[folder] = snapshot = HotSnapshot(folder / name)
        except SnapshotError:
            if _served(folder) == name:
                raise
            continue  # It was replaced, and removed, while it was being opened.
        return snapshot
    _opened.pop(folder, None)
    return None


#: The last generation of each folder that this process has opened. Without a lock, for nothing
#: goes wrong when two threads open the same one.
_opened: dict[Path, HotSnapshot] = {}


def publish(
    folder: Path, chunks: Iterable[HotChunk], *, prefixes: Sequence[int] = ()
) -> HotSnapshot | None:
    """Write a new generation and serve it, whole or not at all; the former is then removed.

    Memory is bounded by a chunk. Writers take turns; who still reads the former keeps its mapping.

    Args:
        folder: one view's own; it is made where there is none.
        chunks: the table's rows, ascending by key, no key twice. They must be read only when
            pulled, for changes of the table are watched from just before the first pull.
        prefixes: the view's nested dims.

    Returns:
        What is now served; None where there are no rows, or where the table was changed in the
        meantime: then nothing is served, and readers go on with the table.

    Raises:
        SnapshotError: chunks that do not fit together.
        OSError: for example a full disk. Nothing is served, whatever was before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "publishing", fcntl.LOCK_EX):
        _sweep(folder)
        path: Path | None = None
        try:
            path = _replace(folder, chunks, prefixes)
        finally:
            if path is None:
                withdraw(folder)
            _sweep(folder)
        return None if path is None else HotSnapshot(path)


@contextmanager
def withdrawn(folder: Path) -> Iterator[None]:
    """Serve nothing from `folder` while, and after, the block commits a change to its table.

    Enter it with all of the transaction's other locks held, for a load that waits for this one
    may hold them. It takes a fraction of a millisecond, more where something was served.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "epoch", fcntl.LOCK_SH) as epoch:
        os.pwrite(epoch, os.urandom(16), 0)
        if _served(folder) is not None:
            (folder / _LINK).unlink(missing_ok=True)
            sync(folder)
        yield


def withdraw(folder: Path) -> None:
    """Serve nothing from `folder` until the next :func:`publish`, and discard one under way."""
    with withdrawn(folder):
        pass


class _BusyError(Exception):
    """A lock that was not to be had in time."""


@contextmanager
def _locked(path: Path, kind: int, patience: float | None = None) -> Iterator[int]:
    """Hold a lock of the kernel's, which ends with the process that holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if patience is None:
            fcntl.flock(descriptor, kind)
        else:
            _wait_for(descriptor, kind, time.monotonic() + patience)
        yield descriptor
    finally:
        # Not by closing alone: a child that was forked meanwhile has the same lock open.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _wait_for(descriptor: int, kind: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _BusyError from None
            time.sleep(0.001)


def _replace(folder: Path, chunks: Iterable[HotChunk], prefixes: Sequence[int]) -> Path | None:
    epoch = folder / "epoch"
    try:
        # Exclusively, so that no commit which drew its epoch before is still on its way.
        with _locked(epoch, fcntl.LOCK_EX, _PATIENCE_SECONDS) as descriptor:
            before = os.pread(descriptor, 16, 0)
        path = folder / f"generation-{secrets.token_hex(8)}"
        if not write_generation(path, chunks, prefixes):
            return None
        with _locked(epoch, fcntl.LOCK_EX, _PATIENCE_SECONDS) as descriptor:
            if os.pread(descriptor, 16, 0) != before:
                return None
            staged = folder / f".{path.name}"
            staged.symlink_to(path.name)
            staged.replace(folder / _LINK)
            sync(folder)
    except _BusyError:
        return None
    return path


def _served(folder: Path) -> str | None:
    try:
        # For every read, and pathlib takes longer than the system does.
        return os.path.basename(os.readlink(f"{folder}/{_LINK}"))  # noqa: PTH119, PTH115
    except FileNotFoundError:
        return None


def _sweep(folder: Path) -> None:
    """Remove every generation but the one that is served; only who publishes may."""
    served = _served(folder)
    for left in folder.glob("generation-*"):
        if left.name != served:
            shutil.rmtree(left, ignore_errors=True)
    for link in folder.glob(".generation-*"):
        link.unlink(missing_ok=True)
