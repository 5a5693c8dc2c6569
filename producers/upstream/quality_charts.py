"""The charts of a report of upstream towers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from provender.plugin.report_charts import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    SIZE,
    Chart,
    chart,
    recall_bars,
    recall_by_dims,
    without_side,
)
from provender.producers.upstream.quality_rows import Curve, dims_of, thinned
from provender.producers.upstream.task_figures import Bin
from provender.producers.upstream.tower_quality import (
    POPULARITY,
    RANDOM,
    REFRESHED,
    TOWERS,
    VECTORS,
    TowerQuality,
)

_COLOURS = {
    TOWERS: BLUE,
    VECTORS: ORANGE,
    REFRESHED: "#f2c185",
    POPULARITY: GREY,
    RANDOM: "#d4d9de",
}
#: Of others, in turn.
_FURTHER = ("#2f7d43", "#7c4dba", "#b3273e", "#0e7490", DARK)
#: So many bars, and no more, have their values beside them.
_LABELLED = 24
#: Of a task's name so many characters are shown beside an axis.
_NAME = 22
_PANEL = (2.5, 2.5)


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars by task and by who ranks, from a base on.

    Attributes:
        values: task -> who -> value; None has no bar.
        base: the value at which bars begin.
        low, high: a bar ends there at the latest, whatever its value.
        percent: whether values are shares.
    """

    values: Mapping[str, Mapping[str, float | None]]
    label: str
    base: float
    low: float
    high: float
    percent: bool = False

    @cached_property
    def who(self) -> list[str]:
        """All that have a value for any task, in order."""
        there = ((who, value) for by in self.values.values() for who, value in by.items())
        return list(dict.fromkeys(who for who, value in there if value is not None))

    @property
    def size(self) -> tuple[float, float]:
        """Of the chart, in inches: as high as the bars need."""
        legend = 0.22 * ((len(self.who) + 1) // 2) if len(self.who) > 1 else 0.0
        each = 0.1 + 0.15 * max(1.6, len(self.who))
        return SIZE[0], max(1.5, 0.65 + legend + each * len(self.values))

    def told(self, value: float) -> str:
        """A value in words."""
        return f"{value:.0%}" if self.percent else f"{value:.3f}"


def charts(quality: TowerQuality, curve: Curve | None) -> dict[str, Chart]:
    """By name: auc, kept, log_loss, calibration, deciles_1 and so on, recall, baselines, loss.

    Those of which there is nothing to be shown are left out; deciles are numbered by the tasks that
    have any.
    """
    drawn = [*_bar_charts(quality), *_deciles(quality), *_recalls(quality)]
    if curve:
        drawn.append(_loss(curve))
    return {one.name: one for one in drawn}


def _bar_charts(quality: TowerQuality) -> Iterable[Chart]:
    def values(figure: str) -> dict[str, dict[str, float | None]]:
        return {
            task: {who: getattr(one, figure) for who, one in by.items()}
            for task, by in quality.tasks.items()
        }

    kept = {task: {VECTORS: share} for task, share in quality.lift_kept.items()}
    for name, title, bars in (
        ("auc", "AUC by task", Bars(values("auc"), "AUC; 0.5 is chance", 0.5, 0, 1)),
        (
            "kept",
            "How much of the towers’ lift the vectors keep",
            Bars(kept, "share of the lift in AUC over popularity", 0, -1, 2, percent=True),
        ),
        (
            "log_loss",
            "Log loss by task",
            Bars(values("log_loss"), "nats a row; less is better", 0, 0, np.inf),
        ),
        (
            "calibration",
            "Calibration by task",
            Bars(values("calibration"), "expected over observed; 1 is right", 1, 0, 4),
        ),
    ):
        if bars.who:
            yield chart(name, title, _bars, bars, size=bars.size, told=_in_words(bars))


def _in_words(bars: Bars) -> str:
    return "; ".join(
        f"{task}, {who} {bars.told(value)}"
        for task, by in bars.values.items()
        for who, value in by.items()
        if value is not None
    )


def _bars(axes: Axes, bars: Bars) -> None:
    tasks, colours = list(bars.values), _colours(bars.who)
    height = 0.8 / len(bars.who)
    ends = []
    for place, who in enumerate(bars.who):
        found = [(row, bars.values[task].get(who)) for row, task in enumerate(tasks)]
        there = [(row, value) for row, value in found if value is not None]
        rows = np.array([row for row, _ in there]) + (place + 0.5) * height - 0.4
        shown = np.clip([value for _, value in there], bars.low, bars.high)
        drawn = axes.barh(
            rows, shown - bars.base, height, left=bars.base, color=colours[who], label=who
        )
        if len(tasks) * len(bars.who) <= _LABELLED:
            labels = [bars.told(value) for _, value in there]
            axes.bar_label(drawn, labels, padding=3, fontsize=8)
        ends += list(shown)
    axes.axvline(bars.base, color=DARK, linewidth=1)
    axes.set_yticks(range(len(tasks)), [_cut(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    _limit(axes, [bars.base, *ends])
    axes.set_xlabel(bars.label)
    if bars.percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    without_side(axes)
    if len(bars.who) > 1:
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.legend(loc="outside upper left", ncols=2, fontsize=9)


def _limit(axes: Axes, ends: Sequence[float]) -> None:
    """With room for labels on the sides to which bars go."""
    low, high, base = min(ends), max(ends), ends[0]
    room = 0.16 * max(high - low, 1e-3)
    axes.set_xlim(low - room * (low < base), high + room)


def _colours(who: Sequence[str]) -> dict[str, str]:
    others = [name for name in who if name not in _COLOURS]
    further = {name: _FURTHER[place % len(_FURTHER)] for place, name in enumerate(others)}
    return _COLOURS | further


def _cut(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _deciles(quality: TowerQuality) -> Iterable[Chart]:
    number = 0
    for task, by in quality.tasks.items():
        bins = {who: one.bins for who, one in by.items() if one.bins}
        if bins:
            number += 1
            words = "; ".join(f"{who}: {_bins_in_words(each)}" for who, each in bins.items())
            yield chart(f"deciles_{number}", task, _panel, bins, size=_PANEL, told=words)


def _bins_in_words(bins: Sequence[Bin]) -> str:
    return ", ".join(f"{one.predicted:.2%} predicted, {one.observed:.2%} observed" for one in bins)


def _panel(axes: Axes, bins: Mapping[str, Sequence[Bin]]) -> None:
    colours = _colours(list(bins))
    for who, each in bins.items():
        axes.plot(
            [one.predicted for one in each], [one.observed for one in each],
            marker="o", markersize=4, linewidth=1.2, color=colours[who], label=who,
        )  # fmt: skip
    every = [value for each in bins.values() for b in each for value in (b.predicted, b.observed)]
    limit = min(1.04, 1.08 * max(0.001, *every))
    axes.plot([0, limit], [0, limit], color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="predicted", ylabel="observed")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_aspect("equal")
    if len(bins) > 1:
        axes.legend(loc="upper left", fontsize=7, borderaxespad=0)


def _recalls(quality: TowerQuality) -> Iterable[Chart]:
    dims, others = dims_of(quality)
    if not dims:
        return
    full = list(dims)[-1]
    k = list(dims[full])[-1]
    yield chart("recall", "Recall by length of the vectors", recall_by_dims, dims)
    yield chart("baselines", f"Recall@{k} beside other rankings", _recall_bars, (dims, others))


def _recall_bars(axes: Axes, shown: tuple[Mapping[int, Any], Mapping[str, Any]]) -> None:
    dims, others = shown
    full, by_k = list(dims.items())[-1]
    k, value = list(by_k.items())[-1]
    recall_bars(axes, k, {who: by[k] for who, by in others.items()}, f"{full} dims", value)


def _loss(curve: Curve) -> Chart:
    (first, before), (last, after) = curve[0], curve[-1]
    told = f"from {before:.3f} at step {first:,.0f} to {after:.3f} at step {last:,.0f}"
    return chart("loss", "Training loss", _line, thinned(curve), told=told)


def _line(axes: Axes, curve: Curve) -> None:
    axes.plot(*zip(*curve, strict=True), color=BLUE, linewidth=1.2)
    axes.set(xlabel="steps", ylabel="mean loss of a batch")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=GREY, alpha=0.25)
