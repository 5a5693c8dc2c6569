"""Two kinds of rankers side by side over seeds: what embeddings are worth to them on later days."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from provender.consumers.metrics import Interval, TaskMetrics, paired_interval
from provender.consumers.training_join import TrainingSet
from provender.plugin.errors import TrainingError

FIGURES = ("auc", "log_loss")


class Comparison(BaseModel):
    """One figure of one task over the seeds; None where it is undefined."""

    model_config = ConfigDict(frozen=True)

    without: list[float | None]
    with_: list[float | None] = Field(serialization_alias="with")
    difference: Interval | None
    reason: str | None = None


class LiftReport(BaseModel):
    """What the embeddings are worth: task -> figure -> comparison, paired by seed."""

    model_config = ConfigDict(frozen=True)

    rows: dict[str, int]
    positives: dict[str, int]
    coverage: dict[str, float]
    tasks: dict[str, dict[str, Comparison]]


def compare(
    without: Sequence[dict[str, TaskMetrics]],
    with_: Sequence[dict[str, TaskMetrics]],
    training: TrainingSet,
    evaluation: TrainingSet,
) -> LiftReport:
    """Put the figures of two rankers side by side, the same seeds in the same places.

    Raises:
        TrainingError: a training row that is not before every evaluation row.
    """
    if len(training) and len(evaluation) and training.times.max() >= evaluation.times.min():
        raise TrainingError(
            "comparison of rankers",
            found="training rows as late as the evaluation",
            expected="an evaluation of later days only",
            remedy="Part the impressions by time.",
        )
    tasks = {
        task: {figure: _compared(without, with_, task, figure) for figure in FIGURES}
        for task in without[0]
    }
    return LiftReport(
        rows={"training": len(training), "evaluation": len(evaluation)},
        positives={task: without[0][task].positives for task in without[0]},
        coverage=evaluation.coverage(),
        tasks=tasks,
    )


def _compared(
    without: Sequence[dict[str, TaskMetrics]],
    with_: Sequence[dict[str, TaskMetrics]],
    task: str,
    figure: str,
) -> Comparison:
    left = [getattr(one[task], figure) for one in without]
    right = [getattr(one[task], figure) for one in with_]
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return Comparison(
        without=left,
        with_=right,
        difference=paired_interval([b - a for a, b in pairs]) if pairs else None,
        reason=without[0][task].reason,
    )
