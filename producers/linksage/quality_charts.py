"""The charts of a quality report of LinkSage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from provender.plugin.report_charts import (
    BLUE,
    DARK,
    ORANGE,
    Chart,
    chart,
    recall_bars,
    recall_by_dims,
)
from provender.producers.linksage.quality import Quality
from provender.producers.linksage.score_figures import EDGES, THRESHOLD, Distribution


def charts(quality: Quality) -> dict[str, Chart]:
    """By name: recall, baselines, scores, cosines."""
    k = quality.ks[-1]
    drawn: dict[str, tuple[str, Callable[[Axes, Quality], None]]] = {
        "recall": ("Recall by length of the vectors", _recall),
        "baselines": (f"Recall@{k} beside other rankings", _baselines),
        "scores": ("Cosines of pages with their own pins and with others", _scores),
        "cosines": ("Cosines of pages with each other", _cosines),
    }
    return {name: chart(name, title, draw, quality) for name, (title, draw) in drawn.items()}


def _recall(axes: Axes, quality: Quality) -> None:
    recall_by_dims(axes, {dim: quality.recall[dim] for dim in quality.dims})


def _baselines(axes: Axes, quality: Quality) -> None:
    k, full = quality.ks[-1], quality.dims[-1]
    others = {name: by_k[k] for name, by_k in quality.baselines.items()}
    recall_bars(axes, k, others, f"LinkSage, {full} dims", quality.recall[full][k])


def _scores(axes: Axes, quality: Quality) -> None:
    shown = ((quality.negatives, ORANGE, "other pins"), (quality.positives, BLUE, "own pins"))
    for distribution, colour, label in shown:
        if distribution is not None:
            _histogram(axes, distribution, colour, label)
    axes.axvline(THRESHOLD, color=DARK, linewidth=1, linestyle=":")
    axes.annotate(
        f" {THRESHOLD}", (THRESHOLD, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9
    )
    _finish(axes, shown[0][0], shown[1][0])


def _cosines(axes: Axes, quality: Quality) -> None:
    one = quality.pairwise
    if one is not None:
        _histogram(axes, one, BLUE, "pairs of pages")
        if one.deviation > 0:
            at = np.linspace(-1, 1, 401)
            height = np.exp(-(((at - one.mean) / one.deviation) ** 2) / 2)
            bell = height / (one.deviation * np.sqrt(2 * np.pi)) * (EDGES[1] - EDGES[0])
            axes.plot(at, bell, color=DARK, linewidth=1, linestyle="--", label="normal")
    _finish(axes, one)


def _histogram(axes: Axes, one: Distribution, colour: str, label: str) -> None:
    shares = np.array(one.counts) / one.count
    axes.stairs(shares, EDGES, fill=True, color=colour, alpha=0.35)
    axes.stairs(shares, EDGES, color=colour, linewidth=1.2, label=label)


def _finish(axes: Axes, *shown: Distribution | None) -> None:
    """Cut the axis where there is nothing, and name it."""
    some = [one for one in shown if one is not None]
    used = np.flatnonzero(np.sum([one.counts for one in some], axis=0))
    if len(used):
        low, high = EDGES[used[0]], EDGES[used[-1] + 1]
        axes.set_xlim(max(-1, min(low, 0) - 0.05), min(1, max(high, THRESHOLD) + 0.05))
    axes.set(xlabel="cosine")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if some:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=2)
