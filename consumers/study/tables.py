"""A study's tables in Markdown: the variants, the answers, the segments."""

from __future__ import annotations

from collections.abc import Iterator

from provender.consumers.metrics import Interval
from provender.consumers.study.figures import ALL, Study
from provender.consumers.study.variants import Question

#: A segment with fewer positives says nothing.
FEW_POSITIVES = 20


def markdown(study: Study, asked: list[Question]) -> str:
    """Return the whole study as Markdown."""
    seeds = len(study.seeds)
    head = (
        f"{study.world}: learned on {study.training_rows:,} impressions before "
        f"{study.window[1]}, judged on {study.rows[ALL]['click']:,} until {study.window[2]}; "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}."
    )
    parts = [head, *_variants(study), *_answers(study, asked), *_segments(study)]
    return "\n".join(parts) + "\n"


def _variants(study: Study) -> Iterator[str]:
    yield ""
    tasks = study.tasks
    cells = [f"{task} {name}" for task in tasks for name in ("AUC", "log loss", "calibration")]
    yield f"| ranker | {' | '.join(cells)} |"
    yield f"|---|{'---|' * len(cells)}"
    for variant, segments in study.means.items():
        values = [
            _value(segments[ALL][task][figure], digits)
            for task in tasks
            for figure, digits in (("auc", 4), ("log_loss", 4), ("calibration", 2))
        ]
        yield f"| {variant} | {' | '.join(values)} |"


def _answers(study: Study, asked: list[Question]) -> Iterator[str]:
    yield ""
    tasks = study.tasks
    yield f"| better by, in AUC | than | {' | '.join(tasks)} |"
    yield f"|---|---|{'---|' * len(tasks)}"
    for question in asked:
        found = [study.answer(question, task, "auc") for task in tasks]
        cells = [
            "–" if one is None else f"{difference(one.difference)}, {one.relative or 0:+.1%}"
            for one in found
        ]
        yield f"| {question.better} | {question.than} | {' | '.join(cells)} |"


def _segments(study: Study) -> Iterator[str]:
    """The click AUC of each variant by segment, where there are positives enough to tell."""
    told = [
        name
        for name, tasks in study.positives.items()
        if name != ALL and tasks.get("click", 0) >= FEW_POSITIVES
    ]
    if not told:
        return
    yield ""
    yield f"| click AUC of | {' | '.join(told)} |"
    yield f"|---|{'---|' * len(told)}"
    counts = [
        f"{study.rows[name]['click']:,} / {study.positives[name]['click']:,}" for name in told
    ]
    yield f"| rows / clicks | {' | '.join(counts)} |"
    for variant, segments in study.means.items():
        values = [_value(segments[name]["click"]["auc"], 4) for name in told]
        yield f"| {variant} | {' | '.join(values)} |"


def difference(interval: Interval) -> str:
    """Return a difference with its interval, if there is one."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.4f}"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def _value(interval: Interval | None, digits: int) -> str:
    return "–" if interval is None else f"{interval.mean:.{digits}f}"
