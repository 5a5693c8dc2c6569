"""What upstream towers are worth as one HTML page that needs nothing else, with PNGs and a JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from provender.plugin.report_page import page, write_page
from provender.producers.upstream.quality_charts import charts
from provender.producers.upstream.quality_page import BODY, STYLE
from provender.producers.upstream.quality_rows import dims_of, in_words, loss_curve, rankers
from provender.producers.upstream.task_figures import TaskFigures
from provender.producers.upstream.tower_quality import (
    POPULARITY,
    RANDOM,
    REFRESHED,
    TOWERS,
    VECTORS,
    TowerQuality,
)

_NONE = TaskFigures(0, 0, None)
_MEANINGS = {
    TOWERS: "probabilities, with all that is known at each row’s time",
    VECTORS: "the inner product of the user’s and the pin’s vectors at each row’s time",
    REFRESHED: "that of the vectors as of the cut, as a downstream ranker has them",
    POPULARITY: "how often a pin was met before the cut",
    RANDOM: "a draw",
}


def write_report(
    folder: Path,
    quality: TowerQuality,
    *,
    title: str,
    curve: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write the charts as PNGs, `quality.html`, and last `quality.json`; return the page's path.

    Args:
        folder: where to; files of these names are replaced, each whole.
        title: the page's, such as the family's name.
        curve: lines of the training's log (training_log.read_metrics).
    """
    drawn = charts(quality, loss_curve(curve or ()))
    dims, others = dims_of(quality)
    who = rankers(quality)
    html = page(
        BODY,
        STYLE,
        title,
        drawn,
        quality=quality,
        firsts={task: next(iter(by.values()), _NONE) for task, by in quality.tasks.items()},
        rankers=who,
        probable=[name for name in who if _values(quality, name, "log_loss")],
        tiles=list(_tiles(quality)),
        dims=dims,
        others=others,
        meanings={name: _MEANINGS[name] for name in _MEANINGS if name in {*who, *others}},
        notes={name: in_words(value) for name, value in quality.notes.items()},
    )
    return write_page(folder, html, drawn, quality.to_json())


def _tiles(quality: TowerQuality) -> Iterator[tuple[str, str]]:
    """What matters most: a figure and what it is."""
    for who in (TOWERS, VECTORS, POPULARITY):
        if found := _values(quality, who, "auc"):
            yield f"{fmean(found.values()):.3f}", f"AUC of {who}{_over(found)}"
    if kept := {task: one for task, one in quality.lift_kept.items() if one is not None}:
        yield f"{fmean(kept.values()):.0%}", f"of the lift is kept by the vectors{_over(kept)}"
    if found := _values(quality, TOWERS, "calibration"):
        task, value = max(found.items(), key=lambda one: abs(one[1] - 1))
        yield f"{value:.3f}", f"calibration of {task}{', the farthest from 1' * (len(found) > 1)}"
    dims, _ = dims_of(quality)
    if dims:
        full, by_k = list(dims.items())[-1]
        k, value = list(by_k.items())[-1]
        yield f"{value:.1%}", f"recall@{k} at {full} dims"


def _values(quality: TowerQuality, who: str, figure: str) -> dict[str, float]:
    """By task, where there is one."""
    found = {task: getattr(by[who], figure) for task, by in quality.tasks.items() if who in by}
    return {task: value for task, value in found.items() if value is not None}


def _over(found: Mapping[str, float]) -> str:
    return f", mean of {len(found)} tasks" if len(found) > 1 else ""
