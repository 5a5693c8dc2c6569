"""What impressions bring along themselves: keys, labels with their weights, context and past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.consumers.ranking_task import LABELS, PIN, TIME, USER, WEIGHTS, context_columns
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.instants import to_microseconds

Ints = npt.NDArray[np.int64]


class Actions(Protocol):
    """What users did, looked up as of any time: `action_log.ActionLog`, or another's own."""

    @property
    def spec(self) -> HistorySpec:
        """What rankers see of it."""

    def histories(self, users: pa.Array, times: Ints) -> History:
        """What the user of each row, (B,), did before its time in microseconds, int64 (B,)."""


def to_batch(
    layout: FeatureLayout,
    rows: pa.Table,
    columns: Mapping[str, Column],
    actions: Actions | None = None,
) -> RankerBatch:
    """Put impressions and their joined features together.

    Args:
        rows: (B,) keys, times, labels and context; what is neither is the context.
        columns: the features of the same rows, by Feast's names.
        actions: where the past of their users is found.
    """
    labels, weights = _labels(rows)
    keys = [name for name in (*layout.join_keys, USER, PIN) if name in rows.column_names]
    context = [name for name in context_columns(rows.column_names) if name not in keys]
    history = None
    if actions is not None:
        history = actions.histories(one_array(rows[USER]), times_of(rows))
    return shape_batch(
        layout,
        columns,
        rows.num_rows,
        context={name: one_array(rows[name]) for name in context},
        labels=labels,
        weights=weights,
        keys={name: one_array(rows[name]) for name in keys},
        history=history,
    )


def times_of(rows: pa.Table) -> Ints:
    """The times of impressions in microseconds since 1970-01-01 UTC, int64 (n,)."""
    return to_microseconds(rows[TIME])


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, that is not copied if it is one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _labels(rows: pa.Table) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Labels and weights float32 (B,); both 0 where a label is null."""
    labels, weights = {}, {}
    for name, weight in zip(LABELS, WEIGHTS, strict=True):
        if name not in rows.column_names:
            continue
        known = rows[name].is_valid().to_numpy()
        counts = known.astype(np.float32)
        if weight in rows.column_names:
            counts *= pc.fill_null(rows[weight].cast(pa.float32()), 0).to_numpy()
        values = pc.fill_null(rows[name].cast(pa.float32()), 0).to_numpy()
        labels[name] = torch.from_numpy(np.array(values, np.float32))
        weights[name] = torch.from_numpy(counts)
    return labels, weights
