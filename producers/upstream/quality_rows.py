"""What a report of upstream towers shows, put in order: who ranks, prefixes, the loss by step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from provender.producers.upstream.tower_quality import TowerQuality

#: (step, loss), by step.
Curve = Sequence[tuple[float, float]]
ByK = Mapping[int, float]
#: Points of a curve that are drawn, at most.
_POINTS = 300


def rankers(quality: TowerQuality) -> list[str]:
    """Who ranks the rows of any task, in the order in which they are told."""
    return list(dict.fromkeys(who for by in quality.tasks.values() for who in by))


def dims_of(quality: TowerQuality) -> tuple[dict[int, ByK], dict[str, ByK]]:
    """Recall by k of prefixes of the vectors, by dims from few to all, and of others by name."""
    dims, others = {}, {}
    for who, by_k in quality.recall.items():
        if prefix := re.fullmatch(r"(\d+) dims", who):
            dims[int(prefix[1])] = by_k
        else:
            others[who] = by_k
    return dict(sorted(dims.items())), others


def loss_curve(lines: Iterable[Mapping[str, Any]]) -> Curve:
    """The loss by step of a training's log; steps that were taken again count as the last time."""
    found = {one["step"]: one["loss"] for one in lines if "step" in one and "loss" in one}
    return [(step, loss) for step, loss in sorted(found.items()) if isfinite(loss)]


def thinned(curve: Curve, points: int = _POINTS) -> Curve:
    """At most so many points, each the mean of those that it stands for."""
    if len(curve) <= points:
        return curve
    return [tuple(span.mean(axis=0).tolist()) for span in np.array_split(np.array(curve), points)]


def in_words(value: Any) -> str:
    """A note's value: mappings and lists as text, counts with thousands apart."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(in_words(one) for one in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
