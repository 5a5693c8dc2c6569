"""How Linux is asked to hold the memory of training; elsewhere nothing is asked.

Rows are gathered from all over a table. In pages of 4 KiB nearly each row costs a walk of the page
tables, which takes longer than its arithmetic; in huge pages it does not. And each chunk frees what
the next one allocates again: by default glibc hands blocks of a megabyte back to the kernel, which
clears every page of them anew.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from torch import Tensor

_HUGE_PAGES, _COLLAPSE = 14, 25  # madvise's MADV_HUGEPAGE, and MADV_COLLAPSE since Linux 6.1
_TRIM, _MAPPED = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_HUGE = 2 << 20
_MOST_MAPPED = 32 << 20  # what glibc takes at most


def in_huge_pages(table: Tensor) -> Tensor:
    """Ask for huge pages under a table in CPU memory, and return it. Its values stay."""
    libc = _libc()
    if libc is not None and table.device.type == "cpu":
        start = -(-table.data_ptr() // _HUGE) * _HUGE
        size = (table.data_ptr() + table.numel() * table.element_size() - start) // _HUGE * _HUGE
        if size > 0:
            for advice in (_HUGE_PAGES, _COLLAPSE):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)
    return table


def keep_freed_memory() -> None:
    """Let this process use freed blocks of up to 32 MiB again before it returns them."""
    libc = _libc()
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(_MAPPED, _MOST_MAPPED)
        libc.mallopt(_TRIM, 2**31 - 1)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
