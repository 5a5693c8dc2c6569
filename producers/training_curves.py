"""Pictures of a training and of its evaluation, as PNG: what one would rather look at than read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from provender.plugin.files import write_whole

#: A relation's figure by who ranked: {"click": {"model": 0.5, "popularity": 0.1}}
Bars = Mapping[str, Mapping[str, float]]


def draw(path: Path, metrics: Sequence[Mapping[str, Any]], bars: Bars, figure: str) -> None:
    """Draw the loss, the judgements by epoch where there are any, and `figure` by relation.

    `metrics` are the lines of a training's log.
    """
    judged = _judgements(metrics)
    picture = Figure(figsize=(5 * (2 + bool(judged)), 3.6), layout="constrained")
    axes = list(picture.subplots(1, 2 + bool(judged), squeeze=False)[0])
    _losses(axes[0], metrics)
    for name, points in judged.items():
        axes[1].plot(*zip(*points, strict=True), marker="o", label=name)
        axes[1].set(title="judged by held-out links", xlabel="epoch")
        axes[1].legend()
    _relations(axes[-1], bars, figure)
    image = io.BytesIO()
    picture.savefig(image, format="png", dpi=120, metadata={"Software": None})
    write_whole(path, image.getvalue())


def _losses(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    points = [(one["step"], one["loss"]) for one in metrics if "loss" in one]
    if points:
        axes.plot(*zip(*points, strict=True), linewidth=1)
    axes.set(title="loss of the last triples", xlabel="chunks trained")


def _judgements(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for one in metrics:
        for name in one.keys() - {"time", "epoch", "step", "of", "loss", "triples_per_second"}:
            found.setdefault(name, []).append((one["epoch"], one[name]))
    return found


def _relations(axes: Axes, bars: Bars, figure: str) -> None:
    who = list(dict.fromkeys(name for by in bars.values() for name in by))
    height = 0.8 / max(1, len(who))
    for place, name in enumerate(who):
        at = [row + place * height for row in range(len(bars))]
        axes.barh(at, [by.get(name, 0.0) for by in bars.values()], height, label=name)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(bars))], list(bars))
    axes.invert_yaxis()
    axes.set(title=figure)
    if who:
        axes.legend()
