"""A study's charts: who ranks how well, what each step brings, and how probable is probable."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from provender.consumers.metrics import Interval
from provender.consumers.study.figures import ALL, Answer, Study
from provender.consumers.study.tables import FEW_POSITIVES
from provender.consumers.study.variants import NONE, Question
from provender.plugin.report_charts import BLUE, DARK, GREY, ORANGE, Chart, chart, without_side

Named = Sequence[tuple[str, Interval]]


def charts(study: Study, asked: Sequence[Question]) -> dict[str, Chart]:
    """Draw what there are figures for: one AUC and one difference chart a task, and segments."""
    drawn = []
    for task in study.tasks:
        means = _means(study, task, "auc")
        if means:
            drawn.append(_dots(f"auc_{task}", f"AUC of {task}", means))
        answers = [found for one in asked if (found := study.answer(one, task, "auc"))]
        if answers:
            drawn.append(_differences(f"lift_{task}", f"Differences in AUC of {task}", answers))
        calibrations = _means(study, task, "calibration")
        if calibrations:
            title = f"Expected over observed of {task}"
            drawn.append(_dots(f"calibration_{task}", title, calibrations, line=1.0))
    return {one.name: one for one in [*drawn, *_segments(study)]}


def _means(study: Study, task: str, figure: str, segment: str = ALL) -> Named:
    found = [(name, parts[segment][task][figure]) for name, parts in study.means.items()]
    return [(name, mean) for name, mean in found if mean is not None]


def _dots(name: str, title: str, means: Named, *, line: float | None = None) -> Chart:
    if line is None:
        line = next((mean.mean for variant, mean in means if variant == NONE), None)

    def draw(axes: Axes, of: Named) -> None:
        if line is not None:
            axes.axvline(line, color=GREY, linewidth=1, linestyle="--")
        _points(axes, of, [BLUE] * len(of))

    told = ", ".join(f"{variant} {mean.mean:.4f}" for variant, mean in means)
    return chart(name, title, draw, means, size=(6.2, 0.9 + 0.32 * len(means)), told=told)


def _differences(name: str, title: str, answers: Sequence[Answer]) -> Chart:
    named = [(f"{one.better}\nover {one.than}", one.difference) for one in answers]
    colours = [ORANGE if one.difference.excludes_zero else GREY for one in answers]

    def draw(axes: Axes, of: Named) -> None:
        axes.axvline(0, color=DARK, linewidth=1)
        _points(axes, of, colours)

    told = ", ".join(f"{one.better} over {one.than} {one.difference.mean:+.4f}" for one in answers)
    return chart(name, title, draw, named, size=(6.2, 0.9 + 0.45 * len(named)), told=told)


def _segments(study: Study) -> list[Chart]:
    drawn = []
    for segment, positives in study.positives.items():
        if segment != ALL and positives.get("click", 0) >= FEW_POSITIVES:
            means = _means(study, "click", "auc", segment)
            if means:
                name = f"segment_{segment.replace(' ', '_')}"
                drawn.append(_dots(name, f"AUC of click, {segment}", means))
    return drawn


def _points(axes: Axes, named: Named, colours: Sequence[str]) -> None:
    """One dot a name, the first at the top, with its interval where there is one."""
    for place, ((_, interval), colour) in enumerate(zip(named, colours, strict=True)):
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.5)
        axes.plot(interval.mean, place, marker="o", color=colour)
    axes.set_yticks(range(len(named)), [name for name, _ in named], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", color=GREY, alpha=0.25)
    without_side(axes)
