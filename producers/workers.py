"""The threads that train: one in step, or several that share the tables without locks.

With one thread every sum has one order, so runs repeat to the bit. Several write to the same rows
as Hogwild does (Recht et al. 2011): chunks meet in few rows, and an update lost now and then costs
less than a lock. Each thread keeps torch to itself: threads within threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType

import torch

from provender.producers.chunks import EpochPlan

Step = Callable[[EpochPlan, int], tuple[int, float]]
#: Chunks that a thread trains between two looks at the clock.
_BLOCK = 8


class Workers:
    """Runs `step` on `threads` CPU threads; on other devices, and with one, in the caller's.

    A step trains a plan's chunk in place, and returns its triples and their mean loss.
    """

    def __init__(self, threads: int, device: torch.device, step: Step) -> None:
        self._step = step
        self._former = torch.get_num_threads(), _flushes()
        self._alone = threads == 1 or device.type != "cpu"
        self._quiet = device.type == "cpu"
        self._pool = ThreadPoolExecutor(threads, initializer=_set_up, initargs=(1, True))
        #: Steps to hand over at once.
        self.block = 1 if self._alone else _BLOCK * threads

    def train(self, plan: EpochPlan, chunks: range) -> list[tuple[int, float]]:
        """Do the steps and return their results in order; the first error is raised."""
        step = partial(self._step, plan)
        return [step(one) for one in chunks] if self._alone else list(self._pool.map(step, chunks))

    def settle(self) -> None:
        """Everything is in its place: threads share it."""

    def __enter__(self) -> Workers:
        if self._quiet:
            _set_up(1, True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        _set_up(*self._former)


def _set_up(threads: int, flush: bool) -> None:
    """Set the threads of torch's operations, and whether numbers below 1e-38 are taken for zero.

    The softmax shares of far negatives are such numbers: a product in which one in a hundred is
    one takes 2.7 times as long, with one in ten 250 times.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)


def _flushes() -> bool:
    """Whether this thread takes numbers below 1e-38 for zero."""
    return float(torch.full((), 1e-40).mul_(2.0)) == 0.0
