"""Threads for reads with a deadline: who waits goes on in time, whatever becomes of the read."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from typing import Any, TypeVar

Answer = TypeVar("Answer")
#: Reads that may wait for a thread, a thread: beyond that all are stuck, and new ones are late.
_WAITING = 16

__all__ = ["LateError", "ReadingPool"]


class ReadingPool:
    """A few daemon threads, started when they are needed.

    They are no ThreadPoolExecutor's, which a read that never ends would keep from exiting.

    Args:
        threads: at most so many reads at once.
    """

    def __init__(self, threads: int = 8) -> None:
        self._most = threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started, self._starting = 0, threading.Lock()

    def within(self, work: Callable[[], Answer], seconds: float) -> Answer:
        """Return what the work returns; raises LateError unless it does so in time.

        Late work ends when it ends, and its answer is nobody's; work that has not begun by then
        never will.
        """
        future = self.submit(work, bounded=True)
        try:
            return future.result(seconds)
        except LateError:
            future.cancel()
            raise

    def submit(self, work: Callable[[], Answer], *, bounded: bool = False) -> Future[Answer]:
        """Let a thread do the work; with `bounded`, raise LateError where too much is waiting."""
        if self._process != os.getpid():  # A forked child has none of its parent's threads.
            self._begin()
        if bounded and self._work.qsize() >= self._most * _WAITING:
            raise LateError
        future: Future[Answer] = Future()
        self._work.put((future, work))
        if not self._idle.acquire(blocking=False):
            self._start()
        return future

    def _start(self) -> None:
        with self._starting:
            if self._started >= self._most:
                return
            self._started += 1
        threading.Thread(target=self._run, args=(self._work, self._idle), daemon=True).start()

    @staticmethod
    def _run(
        waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]],
        idle: threading.Semaphore,
    ) -> None:
        while True:
            future, work = waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work
            idle.release()
