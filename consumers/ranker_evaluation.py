"""How good a ranker is on rows: all of them, and those of cold users and cold pins.

Legend of shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from provender.consumers.calibration import Calibrations, Method, fit_calibration
from provender.consumers.features import RankerBatch
from provender.consumers.history_tokens import compact
from provender.consumers.metrics import TaskMetrics, calibration, task_metrics
from provender.consumers.ranker import Ranker, Scores
from provender.consumers.ranking_task import PIN, USER
from provender.consumers.training_join import TrainingSet

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
#: Rows that are scored at once: what bounds the memory that their pasts need.
CHUNK_ROWS = 16_384
#: Who was seen less often in training is cold.
FEW = 5
_NAMES = {USER: "users", PIN: "pins"}


def evaluate_ranker(ranker: Ranker, rows: TrainingSet) -> dict[str, TaskMetrics]:
    """Judge a ranker: clicks, and conversions that followed a click, over all impressions.

    Rows whose label is not known (weight 0) do not count; the others count by their weight.
    """
    everything = np.ones(len(rows), dtype=np.bool_)
    return evaluate_segments(ranker, rows, {"all": everything})["all"]


def evaluate_segments(
    ranker: Ranker, rows: TrainingSet, segments: Mapping[str, Mask]
) -> dict[str, dict[str, TaskMetrics]]:
    """Judge a ranker on parts of the rows: segment -> task -> figures.

    Args:
        segments: name -> bool (n,), the rows of it; they may overlap.
    """
    raw = scores_of(ranker, rows.rows, calibrated=False)
    final = scores_of(ranker, rows.rows) if ranker.calibration else raw
    found: dict[str, dict[str, TaskMetrics]] = {}
    for name, mask in segments.items():
        found[name] = {}
        for task, (labels, weights) in _labels(rows.rows).items():
            chosen = mask & (weights > 0)
            y, w = labels[chosen], weights[chosen]
            before, after = (_of_task(scores, task)[chosen] for scores in (raw, final))
            metrics = task_metrics(y, after, w)
            told = calibration(y, before, w)
            found[name][task] = metrics.model_copy(
                update={"calibration_before": told if np.isfinite(told) else None}
            )
    return found


def cold_segments(training: TrainingSet, rows: TrainingSet, few: int = FEW) -> dict[str, Mask]:
    """Part rows by how well their users and pins are known: segment -> bool (n,).

    Of each there are those without any vector, those with fewer than `few` rows in training, and
    the rest, which are warm; a segment that can't be told (no views, no keys) is not there.
    """
    found: dict[str, Mask] = {}
    for key, name in _NAMES.items():
        views = [one.view_name for one in rows.layout.embeddings if one.join_key == key]
        cold = np.zeros(len(rows), dtype=np.bool_)
        if views:
            without = ~np.any([rows.rows.present[view].numpy() for view in views], axis=0)
            found[f"{name} without vector"] = without
            cold |= without
        if key in rows.rows.keys and key in training.rows.keys:
            rare = _rows_in(training.rows.keys[key], rows.rows.keys[key]) < few
            found[f"{name} with few impressions"] = rare
            cold |= rare
        if views or key in rows.rows.keys:
            found[f"warm {name}"] = ~cold
    return found


def _rows_in(seen: pa.Array, keys: pa.Array) -> npt.NDArray[np.int64]:
    """How often each of `keys` is among `seen`."""
    counts = pc.value_counts(seen)
    places = pc.index_in(keys, value_set=counts.field("values"))
    each = counts.field("counts").take(places).fill_null(0)
    found: npt.NDArray[np.int64] = each.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def calibrations(ranker: Ranker, held_back: TrainingSet, method: Method) -> Calibrations:
    """Fit each task's curve on rows that the ranker did not learn from."""
    scores = scores_of(ranker, held_back.rows, calibrated=False)
    found: Calibrations = {}
    for task, (labels, weights) in _labels(held_back.rows).items():
        curve = fit_calibration(method, labels, _of_task(scores, task), weights)
        if curve is not None:
            found[task] = curve
    return found


def scores_of(ranker: Ranker, rows: RankerBatch, *, calibrated: bool = True) -> Scores:
    """Score any number of rows, a part at a time."""
    parts = [ranker.score(part, calibrated=calibrated) for part in parts_of(rows)]
    if not parts:
        return Scores(torch.zeros(0), torch.zeros(0))
    return Scores(*(torch.cat(each) for each in zip(*parts, strict=True)))


def parts_of(rows: RankerBatch, size: int = CHUNK_ROWS) -> Iterator[RankerBatch]:
    """Part rows, in order; each has the items of its own pasts alone."""
    if len(rows) <= size:
        yield from [rows] if len(rows) else []
        return
    for start in range(0, len(rows), size):
        part = rows.take(torch.arange(start, min(start + size, len(rows))))
        if part.history is not None:
            part = replace(part, history=compact(part.history)[0])
        yield part


def _of_task(scores: Scores, task: str) -> Floats:
    probabilities = scores.click if task == "click" else scores.conversion
    found: Floats = probabilities.double().numpy()
    return found


def _labels(rows: RankerBatch) -> dict[str, tuple[Floats, Floats]]:
    """Task -> what happened, and its weight: a conversion counts where it followed a click."""
    click, weight = rows.labels["click"], _weight(rows, "click")
    found = {"click": (_numbers(click, weight), weight)}
    if "conversion" in rows.labels:
        weight = _weight(rows, "conversion")
        found["conversion"] = (_numbers(click * rows.labels["conversion"], weight), weight)
    return found


def _weight(rows: RankerBatch, task: str) -> Floats:
    told = rows.weights.get(task)
    return np.ones(len(rows)) if told is None else told.double().numpy()


def _numbers(labels: Tensor, weight: Floats) -> Floats:
    return np.where(weight > 0, labels.double().numpy(), 0.0)
