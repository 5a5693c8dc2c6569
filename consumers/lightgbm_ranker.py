"""Example: the embeddings in a plain LightGBM ranker. Needs `pip install lightgbm`.

    ranker = LightGbmRanker.train(training, seed=0)
    scores = ranker.score(evaluation.rows)          # scores.click, scores.conversion

Two boosters over all impressions: p(click), and p(click and conversion).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.flat_features import flat_features
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Scores
from provender.consumers.training_join import TrainingSet
from provender.plugin.errors import ConfigError

SETTINGS = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "verbosity": -1}


@dataclass(frozen=True)
class LightGbmRanker:
    """Boosted trees over flat features; `boosters` are by task."""

    layout: FeatureLayout
    preprocessing: Preprocessing
    boosters: dict[str, Any]

    @classmethod
    def train(cls, training: TrainingSet, *, seed: int, rounds: int = 200) -> LightGbmRanker:
        """Train on joined impressions; rows whose label is not known (weight 0) are left out.

        Raises ConfigError where LightGBM is not installed.
        """
        lightgbm = _lightgbm()
        rows, layout = training.rows, training.layout
        preprocessing = Preprocessing.fit(layout, rows, sorted(rows.context))
        features = flat_features(layout, rows, preprocessing.context)
        labels = {"click": rows.labels["click"]}
        if "conversion" in rows.labels:
            labels["conversion"] = rows.labels["click"] * rows.labels["conversion"]
        boosters = {}
        for task, label in labels.items():
            weights = rows.weights.get(task, torch.ones(len(rows))).numpy()
            known = np.flatnonzero(weights > 0)
            taken = features.iloc[known]
            told = lightgbm.Dataset(
                taken.to_numpy(), label.numpy()[known], weight=weights[known],
                feature_name=[f"f{n}" for n in range(taken.shape[1])],
            )  # fmt: skip
            settings = {**SETTINGS, "seed": seed, "deterministic": True, "num_threads": 1}
            boosters[task] = lightgbm.train(settings, told, num_boost_round=rounds)
        return cls(layout, preprocessing, boosters)

    def score(self, batch: RankerBatch) -> Scores:
        """Score impressions or candidates."""
        if not len(batch):
            return Scores(torch.zeros(0), torch.zeros(0))
        features = flat_features(self.layout, batch, self.preprocessing.context).to_numpy()
        click = torch.from_numpy(self.boosters["click"].predict(features)).float()
        if "conversion" not in self.boosters:
            return Scores(click, torch.zeros_like(click))
        both = torch.from_numpy(self.boosters["conversion"].predict(features)).float()
        return Scores(click, (both / click.clamp(min=1e-9)).clamp(max=1))


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise ConfigError(
            "LightGBM",
            found="not installed",
            expected="the package lightgbm",
            remedy="Install it: `pip install lightgbm`.",
        ) from None
    return lightgbm
