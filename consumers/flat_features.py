"""A batch as one flat table of named numbers, as trees and linear models want it.

What is missing is NaN: trees learn where it belongs. Trees can't multiply two columns, so the
geometry of vectors that share a space is worked out for them.

Legend of shapes: B rows, L past actions of a row at most, D the dim of a view.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.geometry import pair_geometry, past_dots, past_geometry
from provender.consumers.preprocessing import ContextColumn
from provender.consumers.ranking_task import PIN
from provender.consumers.user_history import History
from provender.plugin.spec import EmbeddingSpec

PAIR, PAST = ("dot", "cosine", "minus_distance"), ("max_dot", "mean_dot", "recent_dot")
#: After so long an action counts 1/e of a new one in `recent_dot`.
MEMORY_SECONDS = 86_400.0


@torch.no_grad()
def flat_features(
    layout: FeatureLayout,
    batch: RankerBatch,
    context: tuple[ContextColumn, ...] = (),
    *,
    coordinates: bool = True,
) -> pd.DataFrame:
    """Return float32 columns: dense features, context, geometry, and the vectors themselves.

    Args:
        context: columns as a :class:`Preprocessing` fitted them.
        coordinates: whether each number of each vector is a column.
    """
    found: dict[str, Tensor] = {}
    for place, feature in enumerate(layout.dense):
        found[feature.column] = _known(batch.dense[:, place], batch.dense_present[:, place])
    for column in context:
        encoded = column.encode(batch.context[column.name])
        names = [f"{column.name}={value}" for value in column.values] or [column.name]
        found |= dict(zip(names, encoded.unbind(1), strict=True))
    for left, right in combinations(layout.embeddings, 2):
        if (left.space, left.dim) == (right.space, right.dim):
            found |= _pair(batch, left.view_name, right.view_name)
    if batch.history is not None:
        for spec in layout.embeddings:
            if spec.join_key == PIN:
                found |= _past(batch, batch.history, spec)
    if coordinates:
        for spec in layout.embeddings:
            view = spec.view_name
            vectors = _known(batch.vectors[view], batch.present[view][:, None])
            found |= {f"{view}[{n}]": numbers for n, numbers in enumerate(vectors.unbind(1))}
    columns = {name: numbers.numpy().astype(np.float32) for name, numbers in found.items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(batch)))


def _known(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, torch.nan)


def _pair(batch: RankerBatch, left: str, right: str) -> dict[str, Tensor]:
    both = batch.present[left] & batch.present[right]
    told = pair_geometry(batch.vectors[left], batch.vectors[right], both)
    named = zip(PAIR, _known(told, both[:, None]).unbind(1), strict=True)
    return {f"{left}~{right}:{name}": numbers for name, numbers in named}


def _past(batch: RankerBatch, history: History, spec: EmbeddingSpec) -> dict[str, Tensor]:
    view = spec.view_name
    dots = past_dots(batch.vectors[view], history.vectors[view], history.items)
    there = torch.cat([history.present[view], torch.zeros(1, dtype=torch.bool)])
    known = there[history.items] & batch.present[view][:, None]  # -1 takes the last, which is none.
    memory = torch.exp(-history.age_seconds / MEMORY_SECONDS).clamp(min=1e-6)
    told = _known(past_geometry(dots, known, memory), known.any(1, keepdim=True))
    found = dict(zip((f"past~{view}:{name}" for name in PAST), told.unbind(1), strict=True))
    return found | {f"past~{view}:actions": known.sum(1).float()}
