"""Point-in-time joins through Feast's historical retrieval, as tensors to train on.

    training = training_join(store, impressions, "ranker_transra")
    for batch in training.batches(4096, seed=0, epoch=0): ...

All rows are in memory at once; `training_stream.TrainingStream` is for more than fit there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from feast import FeatureStore

from provender.consumers.example_rows import Actions, times_of, to_batch
from provender.consumers.feature_join import FeatureJoin, check_keys, empty_columns, time_column
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.used_runs import Runs, UsedRuns
from provender.plugin.online_rows import EPOCH, MICROSECOND

#: Rows asked of Feast at once: what bounds the memory that its join needs beside the result.
CHUNK_ROWS = 250_000


@dataclass(frozen=True)
class TrainingSet:
    """Joined rows, in the order and number of the impressions they were asked for.

    Attributes:
        times: (n,) of the impressions, in microseconds since 1970-01-01 UTC.
        runs: view -> the runs that its vectors came from; those that they can have come from
            where the offline store does not tell; none where they lie in files without manifests.
    """

    layout: FeatureLayout
    rows: RankerBatch
    times: npt.NDArray[np.int64]
    runs: Runs = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def coverage(self) -> dict[str, float]:
        """Share of the rows that have a vector, by view."""
        return {view: float(mask.double().mean()) for view, mask in self.rows.present.items()}

    def window(self) -> tuple[datetime, datetime]:
        """Times of the first and the last impression; of none at all, 1970."""
        first, last = (self.times.min(), self.times.max()) if len(self.times) else (0, 0)
        return EPOCH + int(first) * MICROSECOND, EPOCH + int(last) * MICROSECOND

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[RankerBatch]:
        """All rows once, shuffled by seed and epoch; the last batch may be smaller."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield self.rows.take(order[start : start + batch_size])


def training_join(
    store: FeatureStore,
    impressions: pa.Table,
    service: str | FeatureLayout,
    *,
    backfills: bool = False,
    actions: Actions | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> TrainingSet:
    """Join each impression at its time t with the features of a service as they were known then.

    A value counts iff its event time is <= t and at most its view's ttl before t (inclusive). What
    was written (created_timestamp) after t counts only with `backfills`: say so where history was
    computed afterwards, as in a first run on old logs.

    Args:
        store: a feature store, of which only public methods are used.
        impressions: the service's key columns and event_timestamp (timestamp with zone); labels,
            null where not known, and their weights; columns beyond these are the context.
        service: the registered feature service, or a layout of registered views.
        backfills: whether values written after t count.
        actions: where the past of each row's user is found; without it rows have no history.
        chunk_rows: rows a request to Feast.

    Raises:
        ConfigError: the service is not registered or can't be read.
        FetchError: a key column is absent or has nulls, or the store lost or doubled rows.
        FetchError, SnapshotError: a vector has another length than declared.
    """
    layout = service
    if isinstance(layout, str):
        layout = FeatureLayout.of_service(store, layout)
    check_keys(impressions, layout)
    columns = empty_columns(layout, impressions.num_rows)
    join, used = FeatureJoin(store, layout, backfills), UsedRuns(store, layout)
    for start in range(0, impressions.num_rows, chunk_rows):
        joined = join.fill(columns, impressions.slice(start, chunk_rows), start)
        for spec in layout.embeddings:
            if time_column(spec) in joined.column_names:
                used.saw(spec.view_name, joined[time_column(spec)])
    rows = to_batch(layout, impressions, columns, actions)
    joined_rows = TrainingSet(layout, rows, times_of(impressions))
    return replace(joined_rows, runs=used.runs(*joined_rows.window()))
