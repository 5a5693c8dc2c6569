"""A ranker's stamp: what it was trained on, put together when its training is done."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from pydantic import BaseModel

from provender.consumers.ranker import Ranker
from provender.consumers.training_join import TrainingSet
from provender.plugin.manifest import code_version
from provender.plugin.ranker_stamp import RankerStamp, TrainedOn


def stamp_of(ranker: Ranker, training: TrainingSet, how: BaseModel, seed: int) -> RankerStamp:
    """Return what a ranker learned, by which configuration; the same training has the same run id.

    Args:
        ranker: trained.
        training: all rows that its training looked at.
        how: the training's configuration.
        seed: of the training.
    """
    layout, config = training.layout, ranker.config
    first, last = training.window()
    settings = {"model": config.model_dump(), "training": how.model_dump(), "seed": seed}
    if len(ranker.tables):
        rows = {name: ranker.table(name).row_training.model_dump() for name in ranker.tables}
        settings["tables"] = rows
    told = {
        "config_hash": _digest(settings),
        "code_version": code_version(),
        "service": layout.service,
        "window_start": first,
        "window_end": last,
        "rows": len(training),
        "views": tuple(
            TrainedOn(spec=spec, runs=training.runs.get(spec.view_name, ()))
            for spec in layout.embeddings
        ),
        "dense": tuple(feature.column for feature in layout.dense),
        "preprocessing": _digest(ranker.preprocessing.model_dump()),
        "accepts_anchored": config.accepts_anchored,
    }
    stamp = RankerStamp(**told, run_id="", trained_at=datetime.now(UTC))
    known = stamp.model_dump(mode="json", exclude={"run_id", "trained_at"})
    return stamp.model_copy(update={"run_id": f"ranker-{layout.service}-{_digest(known)[:10]}"})


def _digest(told: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
