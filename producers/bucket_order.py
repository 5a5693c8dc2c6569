"""The order in which an epoch meets all pairs of partitions, with few of them in memory.

Bucket (p, q) has the edges with heads in partition p and tails in q. It is trained when both are in
memory. The order is BETA (Mohoney et al. 2021, Marius, algorithm 4): all but one of the places hold
still while the others pass through the last one; then those have met everyone and give way. So each
load makes up to c - 1 new pairs meet, and an epoch needs about P^2 / (2 (c - 1)) loads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Visit:
    """Partitions in memory, and the buckets (p, q) that are trained then."""

    held: tuple[int, ...]
    buckets: tuple[tuple[int, int], ...]


def visits(partitions: int, held: int) -> list[Visit]:
    """One epoch over all P^2 buckets, each one once, with at most `held` partitions at a time."""
    places = list(range(min(held, partitions)))
    waiting = list(range(len(places), partitions))
    done: set[tuple[int, int]] = set()
    order: list[Visit] = []

    def meet(among: list[int]) -> None:
        fresh = [(p, q) for p in among for q in among if (p, q) not in done]
        done.update(fresh)
        if fresh:
            order.append(Visit(tuple(places), tuple(fresh)))

    for count in range(1, len(places) + 1):
        meet(places[:count])
    while waiting:
        for i in range(len(waiting)):
            places[-1], waiting[i] = waiting[i], places[-1]
            meet(places)
        coming, waiting = waiting[: len(places) - 1], waiting[len(places) - 1 :]
        for i, partition in enumerate(coming):
            places[i] = partition
            meet(places)
    return order


def renamed(order: list[Visit], names: list[int]) -> list[Visit]:
    """The same order with partition p called names[p]: epochs differ in who meets whom first."""
    return [
        Visit(
            tuple(names[p] for p in one.held), tuple((names[p], names[q]) for p, q in one.buckets)
        )
        for one in order
    ]


def loads(order: list[Visit]) -> int:
    """How many partitions an epoch reads, starting with none in memory."""
    former: frozenset[int] = frozenset()
    total = 0
    for one in order:
        total += len(set(one.held) - former)
        former = frozenset(one.held)
    return total
