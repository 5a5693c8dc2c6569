"""Charts of reports, each as SVG for the page and as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

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
    "text.parse_math": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
Shown = TypeVar("Shown")
#: Width and height in inches.
SIZE = (4.8, 3.3)


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows in words."""

    name: str
    title: str
    svg: str
    png: bytes


def chart(
    name: str,
    title: str,
    draw: Callable[[Axes, Shown], None],
    of: Shown,
    *,
    size: tuple[float, float] = SIZE,
    told: str = "",
) -> Chart:
    """Draw a chart of something; who can't see it is told its title and `told`.

    Args:
        name: of its file, and of what it is called within the page.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), of)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    words = f"{title}: {told}" if told else title
    return Chart(name, title, _inline(svg.getvalue(), words), png.getvalue())


def recall_by_dims(axes: Axes, recall: Mapping[int, Mapping[int, float]]) -> None:
    """Lines of recall@k, one a k, by how many of the first dims are used: dims -> k -> share."""
    places = np.arange(len(recall))
    ks = list(next(iter(recall.values())))
    for k, colour in zip(ks, (ORANGE, BLUE, DARK), strict=False):
        values = [by_k[k] for by_k in recall.values()]
        axes.plot(places, values, marker="o", color=colour, label=f"recall@{k}")
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.1%}", (place, value), (0, 6), textcoords="offset points",
                ha="center", fontsize=8, color=colour,
            )  # fmt: skip
    # An axis of nothing ends at 1%.
    highest = max([0.01, *(value for by_k in recall.values() for value in by_k.values())])
    axes.set_xticks(places, [str(dim) for dim in recall])
    axes.set(xlabel="dims", ylim=(0, min(1.08, 1.25 * highest)))
    axes.margins(x=0.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=3)


def recall_bars(axes: Axes, k: int, others: Mapping[str, float], ours: str, value: float) -> None:
    """Bars of recall@k of other rankings, the best nearest to ours, and of ours."""
    values = dict(sorted(others.items(), key=lambda one: one[1])) | {ours: value}
    colours = [GREY] * (len(values) - 1) + [BLUE]
    shares: Sequence[float] = list(values.values())
    bars = axes.barh(list(values), shares, color=colours, height=0.65)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=4, fontsize=9)
    axes.set(xlim=(0, 1.18 * max(0.01, *shares)), xlabel=f"recall@{k}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    without_side(axes)


def without_side(axes: Axes) -> None:
    """No line at the left, where names stand."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _inline(svg: str, words: str) -> str:
    """The SVG for a page: no head, no fixed size, no ids that two charts would share."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    head, rest = body.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(words)}">{rest}'
