"""What a study has found: each variant's mean over the seeds, and the paired answers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from provender.consumers.metrics import Interval, TaskMetrics, paired_interval
from provender.consumers.study.pieces import Piece
from provender.consumers.study.variants import Question

ALL = "all"
FIGURES = ("auc", "log_loss", "calibration")
#: A lift is told in relation to what the other variant has.
RELATIVE = ("auc",)


class Answer(BaseModel):
    """One figure of one task, of one variant less that of another, paired by seed.

    Attributes:
        difference: mean with its 95 % interval (metrics.paired_interval).
        relative: the mean difference over the other's mean; of AUC alone.
    """

    model_config = ConfigDict(frozen=True)

    better: str
    than: str
    segment: str
    task: str
    figure: str
    difference: Interval
    relative: float | None = None


class Study(BaseModel):
    """All that a study has found.

    Attributes:
        rows, positives: of the evaluation, segment -> task -> how many.
        means: variant -> segment -> task -> figure -> mean and interval over the seeds; None of
            what is undefined, as an AUC without positives.
        answers: differences between variants.
        epochs: variant -> mean passes over the training rows.
    """

    model_config = ConfigDict(frozen=True)

    world: str
    seeds: list[int]
    training_rows: int
    window: tuple[str, str, str]
    rows: dict[str, dict[str, int]]
    positives: dict[str, dict[str, int]]
    coverage: dict[str, float]
    means: dict[str, dict[str, dict[str, dict[str, Interval | None]]]]
    answers: list[Answer]
    epochs: dict[str, float]

    def answer(
        self, question: Question, task: str, figure: str, segment: str = ALL
    ) -> Answer | None:
        """Return the answer to a question, None where there is none."""
        for one in self.answers:
            if (one.better, one.than, one.task, one.figure, one.segment) == (
                *question,
                task,
                figure,
                segment,
            ):
                return one
        return None

    @property
    def tasks(self) -> list[str]:
        """What was predicted, of which there were both kinds of rows."""
        return [task for task, count in self.positives[ALL].items() if count]


Figures = Mapping[str, Mapping[str, TaskMetrics]]


def means_of(
    pieces: Iterable[Piece],
) -> dict[str, dict[str, dict[str, dict[str, Interval | None]]]]:
    """Return variant -> segment -> task -> figure -> mean with interval over the seeds."""
    by_variant: dict[str, list[Figures]] = {}
    for piece in pieces:
        by_variant.setdefault(piece.variant, []).append(piece.figures)
    return {
        variant: {
            segment: {
                task: {
                    figure: _mean([each[segment][task] for each in seeds], figure)
                    for figure in FIGURES
                }
                for task in tasks
            }
            for segment, tasks in seeds[0].items()
        }
        for variant, seeds in by_variant.items()
    }


def answers_of(pieces: Sequence[Piece], questions: Iterable[Question]) -> list[Answer]:
    """Answer each question for every segment, task and figure that both variants have."""
    figures = {(piece.variant, piece.seed): piece.figures for piece in pieces}
    seeds = sorted({piece.seed for piece in pieces})
    found = []
    for question in questions:
        pairs = [
            (figures[question.better, seed], figures[question.than, seed])
            for seed in seeds
            if (question.better, seed) in figures and (question.than, seed) in figures
        ]
        if pairs:
            found += _answers(question, pairs)
    return found


def _answers(question: Question, pairs: Sequence[tuple[Figures, Figures]]) -> list[Answer]:
    found = []
    for segment, tasks in pairs[0][0].items():
        for task in tasks:
            for figure in FIGURES[:2]:
                values = [
                    (getattr(better[segment][task], figure), getattr(than[segment][task], figure))
                    for better, than in pairs
                ]
                known = [(a, b) for a, b in values if a is not None and b is not None]
                if known:
                    found.append(_answer(question, (segment, task, figure), known))
    return found


def _answer(
    question: Question, what: tuple[str, str, str], pairs: Sequence[tuple[float, float]]
) -> Answer:
    segment, task, figure = what
    difference = paired_interval([a - b for a, b in pairs])
    base = statistics.fmean(b for _, b in pairs)
    relative = difference.mean / base if figure in RELATIVE and base else None
    return Answer(
        better=question.better,
        than=question.than,
        segment=segment,
        task=task,
        figure=figure,
        difference=difference,
        relative=relative,
    )


def _mean(metrics: Sequence[TaskMetrics], figure: str) -> Interval | None:
    values = [getattr(each, figure) for each in metrics]
    known = [value for value in values if value is not None]
    return paired_interval(known) if known else None
