"""The tables of refresh_lift.py: the share of the lift that is kept, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from provender.consumers.metrics import t_quantile

SHOWN = (1, 2, 4, 7, 10, 14)
#: Single days have their ups and downs: the first and the last three, taken together.
EARLY, LATE = (1, 2, 3), (12, 13, 14)


def table(told: Mapping[str, Any]) -> str:
    """The simulator's worlds together, each other world by itself."""
    groups: dict[str, list[Any]] = {}
    for name, world in told.items():
        groups.setdefault(name.split()[0], []).append(world)
    kinds = next(iter(told.values()))["lift"]
    return "\n".join(
        _group(name, kind, worlds) for kind in kinds for name, worlds in groups.items()
    )


def _group(name: str, kind: str, worlds: Sequence[Any]) -> str:
    arms = list(worlds[0]["lift"][kind])
    days = [day for day in SHOWN if day in worlds[0]["lift"][kind][arms[0]]]
    heads = [*(f"day {day}" for day in days), "days 12-14 by 1-3", "recall", "cosine"]
    lines = [f"| {name}, {kind} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for arm in arms:
        lifts = [world["lift"][kind][arm] for world in worlds]
        whole = [lift for lift in lifts if set(EARLY + LATE) <= set(lift)]
        shares = [_mean(lift, LATE) / _mean(lift, EARLY) for lift in whole]
        recalls = [r for world in worlds for r in world["quality"][arm].values() if r is not None]
        recall = f"{mean(recalls):.3f}" if recalls else ""
        cosine = mean(world["cosine"][arm][days[-1]] for world in worlds)
        cells = [*_cells(lifts, days), _cell(shares, 3), recall, f"{cosine:.3f}"]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    anew = _cells([world["retrained"][kind] for world in worlds], days)
    lines.append(f"| tether, ranker trained anew | {' | '.join(anew)} | | | |")
    return "\n".join(lines) + "\n"


def _cells(lifts: Sequence[Mapping[int, float]], days: Sequence[int]) -> list[str]:
    return [_cell([lift[day] for lift in lifts if day in lift]) for day in days]


def _mean(lift: Mapping[int, float], days: Sequence[int]) -> float:
    return mean(lift[day] for day in days)


def _cell(values: Sequence[float], digits: int = 4) -> str:
    """The mean, and Student's 95% interval over the worlds where there are several."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"
