"""What a ranker sees of dense features and context: fitted once on training rows, then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from provender.consumers.features import FeatureLayout, RankerBatch
from provender.plugin.errors import FetchError

#: A context column with at most so many values is one-hot; numbers with more are standardised.
VOCABULARY = 32


class ContextColumn(BaseModel):
    """One context column: one-hot over ``values``, or standardised where there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    values: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def width(self) -> int:
        """How many inputs it becomes; a value never seen in training is all zeros."""
        return len(self.values) or 1

    def encode(self, column: pa.Array) -> Tensor:
        """Return (B, width) float32; raises FetchError for null or NaN, which no caller means."""
        as_numbers = None if self.values else pc.cast(column, pa.float64())
        missing = column.null_count + (
            0 if as_numbers is None else int(pc.sum(pc.is_nan(as_numbers)).as_py() or 0)
        )
        if missing:
            raise FetchError(
                f"context column {self.name}",
                found=f"{missing} rows that are null or NaN",
                expected="a value in every row",
                remedy="Fill it in where the request is made.",
            )
        if as_numbers is not None:
            numbers = torch.from_numpy(as_numbers.to_numpy(zero_copy_only=False).copy())
            return ((numbers - self.mean) / self.scale).to(torch.float32)[:, None]
        values, table = _one_hot(self.values)
        places = pc.index_in(pc.cast(column, pa.string()), values)
        known = pc.fill_null(places, len(values)).to_numpy(zero_copy_only=False)
        return table.index_select(0, torch.from_numpy(known.astype(np.int64)))


@lru_cache(maxsize=256)
def _one_hot(values: tuple[str, ...]) -> tuple[pa.Array, Tensor]:
    """The values, and a row for each and one of zeros for all others: (n + 1, n) float32."""
    return pa.array(values), torch.eye(len(values) + 1)[:, :-1].contiguous()


class Preprocessing(BaseModel):
    """The fitted transformation of a batch to the ranker's inputs; it travels in the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logged: tuple[bool, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    context: tuple[ContextColumn, ...]

    @classmethod
    def fit(
        cls, layout: FeatureLayout, batch: RankerBatch, columns: Sequence[str]
    ) -> Preprocessing:
        """Fit on training rows: counts are logged, numbers standardised over what is present."""
        logged = tuple(feature.integer for feature in layout.dense)
        dense = _logged(batch.dense, logged).numpy().astype(np.float64)
        present = batch.dense_present.numpy()
        mean, scale = [], []
        for place in range(dense.shape[1]):
            seen = dense[present[:, place], place]
            mean.append(float(seen.mean()) if len(seen) else 0.0)
            scale.append(_scale(seen))
        context = tuple(_fit_context(name, batch.context[name]) for name in columns)
        return cls(logged=logged, mean=tuple(mean), scale=tuple(scale), context=context)

    @property
    def width(self) -> int:
        """The number of inputs: every dense feature with its flag, and the context."""
        return 2 * len(self.mean) + sum(column.width for column in self.context)

    def __call__(self, batch: RankerBatch) -> Tensor:
        """Return the inputs (B, width) float32; raises FetchError for context that is absent."""
        dense = (_logged(batch.dense, self.logged) - torch.tensor(self.mean)) / torch.tensor(
            self.scale
        )
        present = batch.dense_present.to(torch.float32)
        parts = [dense * present, present]
        for column in self.context:
            if column.name not in batch.context:
                raise FetchError(
                    "request",
                    found=f"context {', '.join(sorted(batch.context)) or '(none)'}",
                    expected=f"the column {column.name}, which the ranker was trained with",
                    remedy="Pass it along with the request.",
                )
            parts.append(column.encode(batch.context[column.name]))
        return torch.cat(parts, dim=1)


def _logged(dense: Tensor, logged: Sequence[bool]) -> Tensor:
    counts = torch.tensor(logged, dtype=torch.bool)
    return torch.where(counts, torch.log1p(dense.clamp(min=0)), dense)


def _scale(values: np.ndarray) -> float:
    spread = float(values.std()) if len(values) else 0.0
    return spread if spread > 1e-6 else 1.0


def _fit_context(name: str, column: pa.Array) -> ContextColumn:
    values = sorted(str(value) for value in pc.unique(pc.drop_null(column)).to_pylist())
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if len(values) <= VOCABULARY or not numeric:
        counts = pc.value_counts(pc.cast(column, pa.string())).to_pylist()
        common = sorted(counts, key=lambda one: (-one["counts"], str(one["values"])))[:VOCABULARY]
        kept = sorted(str(one["values"]) for one in common if one["values"] is not None)
        return ContextColumn(name=name, values=tuple(kept))
    numbers = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return ContextColumn(name=name, mean=float(np.nanmean(numbers)), scale=_scale(numbers))
