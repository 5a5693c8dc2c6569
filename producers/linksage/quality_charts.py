"""The charts of a quality report, each as SVG for the page and as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from provender.producers.linksage.quality import Quality
from provender.producers.linksage.score_figures import EDGES, THRESHOLD, Distribution

BLUE, ORANGE, GREY, DARK = "#2563a8", "#d97706", "#9aa3ad", "#374151"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "text.color": DARK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows in words."""

    name: str
    title: str
    svg: str
    png: bytes


def charts(quality: Quality) -> dict[str, Chart]:
    """By name: recall, baselines, scores, cosines."""
    k = quality.ks[-1]
    drawn: dict[str, tuple[str, Callable[[Axes, Quality], None]]] = {
        "recall": ("Recall by length of the vectors", _recall),
        "baselines": (f"Recall@{k} beside other rankings", _baselines),
        "scores": ("Cosines of pages with their own pins and with others", _scores),
        "cosines": ("Cosines of pages with each other", _cosines),
    }
    return {name: _chart(name, *how, quality) for name, how in drawn.items()}


def _chart(name: str, title: str, draw: Callable[[Axes, Quality], None], quality: Quality) -> Chart:
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.8, 3.3), layout="constrained")
        draw(figure.subplots(), quality)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Chart(name, title, _inline(svg.getvalue(), title), png.getvalue())


def _inline(svg: str, title: str) -> str:
    """The SVG for a page: no head, no fixed size, no ids that two charts would share."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    head, rest = body.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}">{rest}'


def _recall(axes: Axes, quality: Quality) -> None:
    places = np.arange(len(quality.dims))
    for k, colour in zip(quality.ks, (ORANGE, BLUE, DARK), strict=False):
        values = [quality.recall[dim][k] for dim in quality.dims]
        axes.plot(places, values, marker="o", color=colour, label=f"recall@{k}")
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.1%}", (place, value), (0, 6), textcoords="offset points",
                ha="center", fontsize=8, color=colour,
            )  # fmt: skip
    axes.set_xticks(places, [str(dim) for dim in quality.dims])
    axes.set(xlabel="dims", ylim=(0, min(1.08, 1.25 * _highest(quality))))
    axes.margins(x=0.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=3)


def _highest(quality: Quality) -> float:
    """Of all recalls; an axis of nothing ends at 1%."""
    return max([0.01, *(value for by_k in quality.recall.values() for value in by_k.values())])


def _baselines(axes: Axes, quality: Quality) -> None:
    k, full = quality.ks[-1], quality.dims[-1]
    values = {name: by_k[k] for name, by_k in quality.baselines.items()}
    values = dict(sorted(values.items(), key=lambda one: one[1]))
    values |= {f"LinkSage, {full} dims": quality.recall[full][k]}
    colours = [GREY] * (len(values) - 1) + [BLUE]
    bars = axes.barh(list(values), list(values.values()), color=colours, height=0.65)
    axes.bar_label(bars, [f"{value:.1%}" for value in values.values()], padding=4, fontsize=9)
    axes.set(xlim=(0, 1.18 * max(0.01, *values.values())), xlabel=f"recall@{k}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


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
