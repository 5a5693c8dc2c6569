"""Items made in a thread while those before them are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item], ahead: int = 2) -> Iterator[Item]:
    """The same items in the same order, up to `ahead` of them made before they are asked for.

    What is raised in the making is raised here, where its item would have come. However this
    ends, the thread has ended by then.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        made: deque[Future[tuple[Item, ...]]] = deque()
        try:
            while True:
                while len(made) < ahead:
                    made.append(thread.submit(_next, items))
                item = made.popleft().result()
                if not item:
                    return
                yield item[0]
        finally:
            for future in made:
                future.cancel()


def _next(items: Iterator[Item]) -> tuple[Item, ...]:
    """The next item, or nothing at the end."""
    return next(((item,) for item in items), ())
