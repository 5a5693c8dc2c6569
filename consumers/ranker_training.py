"""Training the reference ranker, and what embeddings are worth to it on later days.

The split is by time and by time alone: training rows lie before the evaluation, the early stopping
looks at the last part of the training rows, and nothing is ever chosen by the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from provender.consumers.calibration import Method
from provender.consumers.entity_table import EntityTable
from provender.consumers.features import RankerBatch
from provender.consumers.history_tokens import compact
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Places, Ranker, RankerConfig, Rates, entire_space_loss
from provender.consumers.ranker_comparison import Comparison, LiftReport, compare
from provender.consumers.ranker_evaluation import calibrations, evaluate_ranker, parts_of
from provender.consumers.stamping import stamp_of
from provender.consumers.training_join import TrainingSet
from provender.plugin.errors import TrainingError

__all__ = [
    "Comparison",
    "LiftReport",
    "Trained",
    "TrainingConfig",
    "compare",
    "evaluate_ranker",
    "train_on_stream",
    "train_ranker",
]

#: (passes over the data done, at most, loss on the rows held back)
OnEpoch = Callable[[int, int, float], None]


class TrainingConfig(BaseModel):
    """How a ranker is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(8, ge=1, description="passes at most")
    patience: int = Field(1, ge=1, description="passes without progress before it stops")
    batch_size: int = Field(2048, ge=1, description="impressions a step")
    learning_rate: float = Field(2e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    held_back: float = Field(0.1, gt=0, lt=1, description="last share of the rows, to stop by")
    calibration: Method = Field("platt", description="fitted on the rows held back")


@dataclass(frozen=True)
class Trained:
    """A ranker and how its training went."""

    ranker: Ranker
    epochs: int
    loss: float


@dataclass(frozen=True)
class Step:
    """The rows of one step: `inputs` (B, X), the batch, and where its tables' rows are."""

    inputs: Tensor
    batch: RankerBatch
    places: Places

    @classmethod
    def of(cls, ranker: Ranker, batch: RankerBatch) -> Step:
        """What a ranker makes of a batch, save what it learns."""
        return cls(ranker.preprocessing(batch), batch.without_context(), ranker.places(batch))

    def take(self, rows: Tensor) -> Step:
        """The chosen rows, (n,) int64, with the items of their own pasts alone."""
        batch, items = self.batch.take(rows), self.places.items
        if batch.history is not None:
            history, kept = compact(batch.history)
            batch = replace(batch, history=history)
            items = {name: places.index_select(0, kept) for name, places in items.items()}
        mine = {name: places.index_select(0, rows) for name, places in self.places.rows.items()}
        return Step(self.inputs.index_select(0, rows), batch, Places(mine, items))


#: The steps of one pass over the data, by its number from 0.
Steps = Callable[[int], Iterable[Step]]


def train_ranker(
    training: TrainingSet,
    config: RankerConfig,
    how: TrainingConfig,
    *,
    seed: int,
    tables: Mapping[str, EntityTable] | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a ranker on joined impressions and return it, stamped, as it was at its best pass.

    Args:
        tables: those of the configuration, by name; they are trained in place.

    Raises:
        TrainingError: no clicks to learn from, a view without any vector, or a loss that is no
            number.
    """
    fitted, held_back = _split(training, how.held_back)

    def steps(ranker: Ranker) -> Steps:
        # Inputs and places are made once: only what is learned changes from pass to pass.
        whole = replace(Step.of(ranker, fitted.rows), batch=_lighter(fitted.rows))
        generator = torch.Generator().manual_seed(seed)

        def one_pass(_: int) -> Iterator[Step]:
            order = torch.randperm(len(fitted), generator=generator)
            for start in range(0, len(order), how.batch_size):
                yield whole.take(order[start : start + how.batch_size])

        return one_pass

    return _trained(fitted, held_back, training, config, how, seed, tables, steps, on_epoch)


def train_on_stream(
    stream: Callable[[int], Iterable[RankerBatch]],
    sample: TrainingSet,
    held_back: TrainingSet,
    config: RankerConfig,
    how: TrainingConfig,
    *,
    seed: int,
    tables: Mapping[str, EntityTable] | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a ranker on batches that come one by one; the rest is as in :func:`train_ranker`.

    Args:
        stream: pass, from 0 -> its batches in order.
        sample: rows of the stream, to take the inputs' sizes and the base rates from.
        held_back: later rows than the stream's, to stop and to calibrate by.
        tables: as in :func:`train_ranker`.

    Raises:
        TrainingError: as :func:`train_ranker`.
    """

    def steps(ranker: Ranker) -> Steps:
        return lambda epoch: (Step.of(ranker, batch) for batch in stream(epoch))

    return _trained(sample, held_back, sample, config, how, seed, tables, steps, on_epoch)


def _trained(
    fitted: TrainingSet,
    held_back: TrainingSet,
    training: TrainingSet,
    config: RankerConfig,
    how: TrainingConfig,
    seed: int,
    tables: Mapping[str, EntityTable] | None,
    steps: Callable[[Ranker], Steps],
    on_epoch: OnEpoch | None,
) -> Trained:
    _check_vectors(fitted, config)
    preprocessing = Preprocessing.fit(training.layout, fitted.rows, sorted(fitted.rows.context))
    with torch.random.fork_rng(devices=[]):  # The caller's own random numbers stay as they were.
        torch.manual_seed(seed)
        ranker = Ranker(config, training.layout, preprocessing, tables)
        ranker.fit_inputs(fitted.rows)
        ranker.start_at(_rates(fitted))
        epochs, loss = _fit(ranker, steps(ranker), held_back, how, on_epoch)
    ranker.calibration = calibrations(ranker, held_back, how.calibration)
    ranker.stamp = stamp_of(ranker, training, how, seed)
    return Trained(ranker.eval(), epochs, loss)


def _fit(
    ranker: Ranker,
    steps: Steps,
    held_back: TrainingSet,
    how: TrainingConfig,
    on_epoch: OnEpoch | None,
) -> tuple[int, float]:
    """Run the training loop; the ranker ends as it was at its best pass, which is returned."""
    optimizer = torch.optim.AdamW(
        ranker.dense_parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
    )
    late = [Step.of(ranker, part) for part in parts_of(held_back.rows)]
    best, best_loss, best_epoch = ranker.kept(), float("inf"), 0
    for epoch in range(1, how.epochs + 1):
        ranker.train()
        for step in steps(epoch - 1):
            loss = _loss(ranker, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ranker.step_tables()
        held_loss = _loss_of_all(ranker, late, held_back.rows)
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
            best, best_loss, best_epoch = ranker.kept(), held_loss, epoch
        elif epoch - best_epoch >= how.patience:
            break
    ranker.restore(best)
    return best_epoch, best_loss


def _loss(ranker: Ranker, step: Step) -> Tensor:
    labels = step.batch.labels
    logits = ranker.logits(step.inputs, step.batch, step.places)
    return entire_space_loss(logits, labels["click"], _conversions(labels), step.batch.weights)


def _loss_of_all(ranker: Ranker, parts: Sequence[Step], rows: RankerBatch) -> float:
    ranker.eval()
    with torch.no_grad():
        logits = torch.cat([ranker.logits(s.inputs, s.batch, s.places) for s in parts])
        labels = rows.labels
        return float(entire_space_loss(logits, labels["click"], _conversions(labels), rows.weights))


def _lighter(rows: RankerBatch) -> RankerBatch:
    """Rows less what their inputs and places were made of already."""
    return replace(rows.without_context(), keys={})


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
    clicks = _clicks(fitted)
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
    if config.reads == "none":
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


def _clicks(rows: TrainingSet) -> float:
    weights = rows.rows.weights.get("click", torch.ones(len(rows)))
    return float(torch.where(weights > 0, rows.rows.labels["click"], 0.0).sum())


def _conversions(labels: dict[str, torch.Tensor]) -> torch.Tensor:
    return labels.get("conversion", torch.zeros_like(labels["click"]))


def _rates(fitted: TrainingSet) -> Rates:
    """The base rates over the rows whose labels are known, by their weights."""
    rows, one = fitted.rows, torch.ones(len(fitted))
    weight = rows.weights.get("click", one)
    click = torch.where(weight > 0, rows.labels["click"], 0.0)
    clicked = float((weight * click).sum() / weight.sum().clamp(min=1e-9))
    weight = rows.weights.get("conversion", one)
    both = torch.where(weight > 0, click * _conversions(rows.labels), 0.0)
    clicks = float((weight * click).sum())
    return Rates(clicked, (float((weight * both).sum()) + 0.5) / (clicks + 1))
