"""Training the reference ranker, and what embeddings are worth to it on later days.

The split is by time and by time alone: training rows lie before the evaluation, the early stopping
looks at the last part of the training rows, and nothing is ever chosen by the evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from provender.consumers.metrics import Interval, TaskMetrics, paired_interval, task_metrics
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig, Rates, entire_space_loss
from provender.consumers.stamping import stamp_of
from provender.consumers.training_join import TrainingSet
from provender.plugin.errors import TrainingError

#: (passes over the data done, at most, loss on the rows held back)
OnEpoch = Callable[[int, int, float], None]
FIGURES = ("auc", "log_loss")


class TrainingConfig(BaseModel):
    """How a ranker is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(8, ge=1, description="passes at most")
    patience: int = Field(1, ge=1, description="passes without progress before it stops")
    batch_size: int = Field(2048, ge=1, description="impressions a step")
    learning_rate: float = Field(2e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    held_back: float = Field(0.1, gt=0, lt=1, description="last share of the rows, to stop by")


@dataclass(frozen=True)
class Trained:
    """A ranker and how its training went."""

    ranker: Ranker
    epochs: int
    loss: float


def train_ranker(
    training: TrainingSet,
    config: RankerConfig,
    how: TrainingConfig,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a ranker on joined impressions and return it, stamped, as it was at its best pass.

    Raises:
        TrainingError: no clicks to learn from, a view without any vector, or a loss that is no
            number.
    """
    fitted, held_back = _split(training, how.held_back)
    _check_vectors(fitted, config)
    preprocessing = Preprocessing.fit(training.layout, fitted.rows, sorted(fitted.rows.context))
    with torch.random.fork_rng(devices=[]):  # The caller's own random numbers stay as they were.
        torch.manual_seed(seed)
        ranker = Ranker(config, training.layout, preprocessing)
        ranker.start_at(_rates(fitted))
        epochs, loss = _fit(ranker, fitted, held_back, how, seed, on_epoch)
    ranker.stamp = stamp_of(ranker, training, how, seed)
    return Trained(ranker.eval(), epochs, loss)


def _fit(
    ranker: Ranker,
    fitted: TrainingSet,
    held_back: TrainingSet,
    how: TrainingConfig,
    seed: int,
    on_epoch: OnEpoch | None,
) -> tuple[int, float]:
    """Run the training loop; the ranker ends as it was at its best pass, which is returned."""
    inputs, rows = ranker.preprocessing(fitted.rows), fitted.rows.without_context()
    optimizer = torch.optim.AdamW(
        ranker.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
    )
    best, best_loss, best_epoch = copy.deepcopy(ranker.state_dict()), float("inf"), 0
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, how.epochs + 1):
        ranker.train()
        order = torch.randperm(len(fitted), generator=generator)
        for start in range(0, len(order), how.batch_size):
            chosen = order[start : start + how.batch_size]
            batch = rows.take(chosen)
            logits = ranker.logits(inputs.index_select(0, chosen), batch)
            loss = entire_space_loss(logits, batch.labels["click"], _conversions(batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        held_loss = _loss(ranker, held_back)
        if not np.isfinite(held_loss):
            raise TrainingError(
                f"ranker, pass {epoch}",
                found=f"a loss of {held_loss}",
                expected="a finite number",
                remedy="Lower the learning rate.",
            )
        if on_epoch:
            on_epoch(epoch, how.epochs, held_loss)
        if held_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(ranker.state_dict()), held_loss, epoch
        elif epoch - best_epoch >= how.patience:
            break
    ranker.load_state_dict(best)
    return best_epoch, best_loss


def evaluate_ranker(ranker: Ranker, rows: TrainingSet) -> dict[str, TaskMetrics]:
    """Judge a ranker: clicks, and conversions that followed a click, over all impressions."""
    scores = ranker.score(rows.rows)
    click = rows.rows.labels["click"]
    metrics = {"click": task_metrics(click.numpy(), scores.click.double().numpy())}
    if "conversion" in rows.rows.labels:
        both = (click * rows.rows.labels["conversion"]).numpy()
        metrics["conversion"] = task_metrics(both, scores.conversion.double().numpy())
    return metrics


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


def _split(training: TrainingSet, share: float) -> tuple[TrainingSet, TrainingSet]:
    """Part the rows by time: rows of one time stay together, the last go to the second part."""
    cut = np.quantile(training.times, 1 - share, method="higher") if len(training) else 0
    late = training.times >= cut
    if late.all():
        late = training.times > cut
    parts = [np.flatnonzero(mask) for mask in (~late, late)]
    fitted, held_back = (
        replace(
            training,
            rows=training.rows.take(torch.from_numpy(part)),
            times=training.times[part],
        )
        for part in parts
    )
    clicks = float(fitted.rows.labels["click"].sum()) if len(fitted) else 0.0
    if not clicks or not len(held_back):
        raise TrainingError(
            "training rows",
            found=f"{len(fitted)} to learn from with {clicks:.0f} clicks, {len(held_back)} late",
            expected="clicks to learn from, and rows of a later time to stop by",
            remedy="Take a longer span of impressions.",
        )
    return fitted, held_back


def _check_vectors(fitted: TrainingSet, config: RankerConfig) -> None:
    """Refuse to learn from vectors that are all missing: it would pass as "no lift"."""
    if config.query is None:
        return
    empty = [view for view, mask in fitted.rows.present.items() if not mask.any()]
    if empty:
        raise TrainingError(
            "training rows",
            found=f"no vector of {', '.join(empty)} in {len(fitted)} rows",
            expected="vectors that were known at the time of at least some impressions",
            remedy="If history was computed afterwards, let it count: --backfills, in Python "
            "backfills=True. Else look at the views' ttl.",
        )


def _conversions(labels: dict[str, torch.Tensor]) -> torch.Tensor:
    return labels.get("conversion", torch.zeros_like(labels["click"]))


def _rates(fitted: TrainingSet) -> Rates:
    click = fitted.rows.labels["click"]
    both = click * _conversions(fitted.rows.labels)
    return Rates(float(click.mean()), float((both.sum() + 0.5) / (click.sum() + 1)))


def _loss(ranker: Ranker, rows: TrainingSet) -> float:
    ranker.eval()
    with torch.no_grad():
        logits = ranker.logits(ranker.preprocessing(rows.rows), rows.rows)
        labels = rows.rows.labels
        return float(entire_space_loss(logits, labels["click"], _conversions(labels)))
