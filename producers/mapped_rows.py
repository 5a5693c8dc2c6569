"""Rows in a file instead of in memory: mapped, so that they are read when they are looked at."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
#: Rows, or edges, that are worked on at once, so that no step takes as much memory as a table.
BLOCK = 2**16
#: Linux's MAP_NORESERVE, which Python 3.11 does not name: a mapping may be larger than all memory.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class _File(Protocol):
    def fileno(self) -> int: ...


def mapped(file: _File) -> Rows:
    """The float32 of an open file that is not empty, as (n,); changes of them stay in memory."""
    private = mmap.MAP_PRIVATE | _NO_RESERVE
    content = mmap.mmap(file.fileno(), 0, private, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(content, dtype=np.float32)


def gathered(blocks: Iterable[Rows], count: int, dim: int, folder: Path | None) -> Rows:
    """Blocks (b, dim) of `count` rows in all, as float32 (count, dim).

    With a folder they are mapped from a file without a name in it, which goes with the last look
    at them; else they are in memory.
    """
    if folder is None or not count * dim:
        rows, start = np.empty((count, dim), np.float32), 0
        for block in blocks:
            rows[start : start + len(block)] = block
            start += len(block)
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=np.float32).data)
        file.flush()
        return mapped(file).reshape(count, dim)
