"""Files that are either whole or absent: staged beside their place, synced, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

STAGING = ".staging"
_STAMP = "%Y%m%dT%H%M%SZ"


def stamp(time: datetime) -> str:
    """Return a time, which has a zone, as names of files and folders have it: in UTC, sortable."""
    return time.astimezone(UTC).strftime(_STAMP)


def from_stamp(text: str) -> datetime:
    """Return the time that :func:`stamp` was given, to the second."""
    return datetime.strptime(text, _STAMP).replace(tzinfo=UTC)


def sync(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file, the new one, never a part."""
    with whole_file(path) as staged:
        staged.write_bytes(data)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write; once the block has ended well, it stands at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield staged
        sync(staged)
        staged.replace(path)
        sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def remove_folder(root: Path, place: Path) -> None:
    """Remove a folder under ``root`` so that a reader sees all of it or nothing.

    It is renamed into the staging area first; what a killed process left there goes as well.
    """
    gone = _staged(root, place)
    with suppress(FileNotFoundError):  # Somebody else was faster.
        place.rename(gone)
        sync(place.parent)
    shutil.rmtree(gone, ignore_errors=True)


def remove_empty(place: Path) -> None:
    """Remove a folder in which there is nothing, and leave any other."""
    with suppress(OSError):
        place.rmdir()


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def stale(root: Path) -> list[Path]:
    """Return what killed processes left in ``root``'s staging area; the living keep their own."""
    staging = root / STAGING
    found = sorted(staging.iterdir()) if staging.is_dir() else []
    return [left for left in found if not _is_alive(left.name.rpartition(".")[2])]


def sweep(root: Path) -> None:
    """Remove what killed processes left in ``root``'s staging area."""
    for left in stale(root):
        shutil.rmtree(left, ignore_errors=True)


def _staged(root: Path, place: Path) -> Path:
    """Return where a folder lies while this process writes or removes it; nothing is there yet."""
    sweep(root)
    staged = root / STAGING / f"{place.parent.name}-{place.name}.{os.getpid()}"
    staged.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staged, ignore_errors=True)
    return staged


@contextmanager
def whole_folder(root: Path, place: Path) -> Iterator[Path]:
    """Yield an empty folder under ``root``; once the block has ended well, it stands at ``place``.

    The staging area is ``root/.staging``, outside every view's own folder, so that no glob over a
    view sees it. A block that raises, or is killed, leaves nothing at ``place``.

    Raises:
        FileExistsError: another writer was there first.
    """
    staged = _staged(root, place)
    staged.mkdir()
    try:
        yield staged
        for path in staged.rglob("*"):
            sync(path)
        sync(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(place)
        except OSError as error:
            raise FileExistsError(error.errno, "it stands already", str(place)) from None
        sync(place.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
