"""What an evaluation tells: the share of the lift that vectors keep, and plain values."""

from __future__ import annotations

import json

import pytest

from provender.producers.upstream.task_figures import Bin, TaskFigures
from provender.producers.upstream.tower_quality import TOWERS, VECTORS, TowerQuality, lift_kept


@pytest.mark.parametrize(
    ("towers", "vectors", "floor", "kept"),
    [
        (0.75, 0.7, 0.55, 0.75),
        (0.75, 0.75, 0.55, 1.0),
        (0.75, 0.55, 0.55, 0.0),
        (0.75, 0.35, 0.55, -1.0),
        (0.75, 0.85, 0.55, 1.5),
        (0.55, 0.6, 0.55, None),
        (0.5, 0.6, 0.55, None),
        (None, 0.6, 0.5, None),
        (0.7, None, 0.5, None),
        (0.7, 0.6, None, None),
    ],
)
def test_the_share_of_the_lift(
    towers: float | None, vectors: float | None, floor: float | None, kept: float | None
) -> None:
    assert lift_kept(towers, vectors, floor) == (None if kept is None else pytest.approx(kept))


def test_everything_as_json() -> None:
    one = TaskFigures(9, 2, 0.7, 0.3, 1.1, (Bin(9.0, 0.2, 0.25),))
    quality = TowerQuality(
        tasks={"click": {TOWERS: one, VECTORS: TaskFigures(9, 2, 0.6)}},
        lift_kept={"click": 0.5},
        recall={"8 dims": {10: 0.1, 100: 0.4}},
        pairs=3,
        candidates=70,
        notes={"rows": 9},
    )
    assert json.loads(json.dumps(quality.to_json())) == {
        "format": 1,
        "tasks": {
            "click": {
                TOWERS: {
                    "rows": 9,
                    "positives": 2,
                    "auc": 0.7,
                    "log_loss": 0.3,
                    "calibration": 1.1,
                    "bins": [{"weight": 9.0, "predicted": 0.2, "observed": 0.25}],
                },
                VECTORS: {
                    "rows": 9,
                    "positives": 2,
                    "auc": 0.6,
                    "log_loss": None,
                    "calibration": None,
                    "bins": [],
                },
            }
        },
        "lift_kept": {"click": 0.5},
        "recall": {"8 dims": {"recall@10": 0.1, "recall@100": 0.4}},
        "pairs": 3,
        "candidates": 70,
        "notes": {"rows": 9},
    }
