"""The threads that train: one in step, or several that share the tables without locks.

With one thread every sum has one order, so runs repeat to the bit. Several write to the same rows
as Hogwild does (Recht et al. 2011): chunks meet in few rows, and an update lost now and then costs
less than a lock. Each thread keeps torch to itself: threads within threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")
#: Chunks that a thread trains between two looks at the clock.
_BLOCK = 8


class Workers:
    """Runs steps on `threads` CPU threads; on other devices, and with one, in the caller's."""

    def __init__(self, threads: int, device: torch.device) -> None:
        self._former = torch.get_num_threads()
        self._alone = threads == 1 or device.type != "cpu"
        self._quiet = device.type == "cpu"
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        #: Steps to hand over at once.
        self.block = 1 if self._alone else _BLOCK * threads

    def map(self, step: Callable[[int], T], which: Iterable[int]) -> list[T]:
        """Do the steps and return their results in order; the first error is raised."""
        return [step(one) for one in which] if self._alone else list(self._pool.map(step, which))

    def __enter__(self) -> Workers:
        if self._quiet:
            torch.set_num_threads(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._former)
