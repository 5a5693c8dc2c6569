"""Moves of the kitchen's family, and readers that meet them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from feast import FeatureStore

from provender.plugin.releases import Release, Releases

FAMILY = "tests"
USER, PINS = 1, [10, 11, 99]


def move(store: FeatureStore, action: str = "promote", **changes: Any) -> Release:
    releases = Releases.of(store)
    return releases.move(releases.current(FAMILY), family=FAMILY, action=action, **changes)


def toggled(store: FeatureStore, versions: tuple[int, int], read: Callable[[], int | None]) -> None:
    """Promote and roll back while three threads read; every one has to meet both versions often.

    `read` returns the version of one request, having checked it.
    """
    move(store, live=versions[0])
    done, failures = threading.Event(), []
    met = [dict.fromkeys(versions, 0) for _ in range(3)]

    def reader(seen: dict[int, int]) -> None:
        try:
            while not done.is_set():
                version = read()
                if version is not None:
                    seen[version] += 1
        except BaseException as error:
            failures.append(error)
            done.set()

    threads = [threading.Thread(target=reader, args=(seen,)) for seen in met]
    for thread in threads:
        thread.start()
    state = Releases.of(store).current(FAMILY)
    for number in range(1, 3000):
        state = Releases.of(store).move(state, action="promote", live=versions[number % 2])
        if done.is_set() or all(min(seen.values()) >= 25 for seen in met):
            break
    done.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert all(min(seen.values()) >= 25 for seen in met), met
