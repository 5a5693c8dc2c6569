"""Point-in-time joins through Feast's historical retrieval, as tensors to train on.

    training = training_join(store, impressions, "ranker_transra")
    for batch in training.batches(4096, seed=0, epoch=0): ...

Feast promises neither the order nor the number of the rows it gives back, so each row carries its
number there and back again. Vectors go from Arrow straight into one tensor, never through pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from feast import FeatureStore

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.consumers.ranking_task import KEYS, LABELS, TIME
from provender.consumers.used_runs import Runs, UsedRuns
from provender.plugin.errors import FetchError, ProvenderError
from provender.plugin.instants import to_nanoseconds
from provender.plugin.offline_store import ProvenderOfflineStoreConfig
from provender.plugin.online_rows import EPOCH, MICROSECOND
from provender.plugin.retrieval_job import ProvenderRetrievalJob
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec

#: Rows asked of Feast at once: what bounds the memory that its join needs beside the result.
CHUNK_ROWS = 250_000
_ROW = "provender_row"


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
    chunk_rows: int = CHUNK_ROWS,
) -> TrainingSet:
    """Join each impression at its time t with the features of a service as they were known then.

    A value counts iff its event time is <= t and at most its view's ttl before t (inclusive). What
    was written (created_timestamp) after t counts only with `backfills`: say so where history was
    computed afterwards, as in a first run on old logs.

    Args:
        store: a feature store, of which only public methods are used.
        impressions: the service's key columns and event_timestamp (timestamp with zone); columns
            beyond the keys and labels are the context.
        service: the registered feature service, or a layout of registered views.
        backfills: whether values written after t count.
        chunk_rows: rows a request to Feast.

    Raises:
        ConfigError: the service is not registered or can't be read.
        FetchError: a key column is absent or has nulls, or the store lost or doubled rows.
        FetchError, SnapshotError: a vector has another length than declared.
    """
    layout = service
    if isinstance(layout, str):
        layout = FeatureLayout.of_service(store, layout)
    _check_keys(impressions, layout)
    columns = _empty_columns(layout, impressions.num_rows)
    used = UsedRuns(store, layout)
    for start in range(0, impressions.num_rows, chunk_rows):
        part = impressions.slice(start, chunk_rows)
        joined = _retrieve(store, part, layout, backfills=backfills)
        places = _places(joined, part.num_rows) + start
        for spec in layout.embeddings:
            _fill_vectors(columns, joined, spec, places)
            _fill_ages(columns, joined, spec, places)
            if _time_of(spec) in joined.column_names:
                used.saw(spec.view_name, joined[_time_of(spec)])
        for feature in layout.dense:
            _fill_numbers(columns, joined, feature.column, places)
    names = [name for name in impressions.column_names if name not in (*KEYS, *LABELS)]
    context = {name: _one_array(impressions[name]) for name in names}
    labels = {
        name: torch.from_numpy(impressions[name].to_numpy().astype(np.float32))
        for name in LABELS
        if name in impressions.column_names
    }
    rows = shape_batch(layout, columns, impressions.num_rows, context=context, labels=labels)
    times = impressions[TIME].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    joined_rows = TrainingSet(layout, rows, times)
    return replace(joined_rows, runs=used.runs(*joined_rows.window()))


def _check_keys(impressions: pa.Table, layout: FeatureLayout) -> None:
    for key in (*layout.join_keys, TIME):
        found = None
        if key not in impressions.column_names:
            found = f"no column {key!r}"
        elif impressions[key].null_count:
            found = f"{impressions[key].null_count} nulls in {key!r}"
        elif key == TIME and getattr(impressions[key].type, "tz", None) is None:
            found = f"{key!r} of type {impressions[key].type}"
        if found is not None:
            raise FetchError(
                "training join",
                found=found,
                expected=f"{', '.join(layout.join_keys)} and {TIME} with its zone, in every row",
                remedy="Give each row the keys that the feature service needs.",
            )


def _empty_columns(layout: FeatureLayout, rows: int) -> dict[str, Column]:
    columns = {
        f"{spec.view_name}__{VECTOR_COLUMN}": Column(
            np.zeros((rows, spec.dim), dtype=np.float32),
            np.zeros(rows, dtype=np.bool_),
            np.full(rows, np.nan),
        )
        for spec in layout.embeddings
    }
    for feature in layout.dense:
        columns[feature.column] = Column(np.zeros(rows), np.zeros(rows, dtype=np.bool_))
    return columns


def _retrieve(
    store: FeatureStore, part: pa.Table, layout: FeatureLayout, *, backfills: bool
) -> pa.Table:
    keys = part.select([*layout.join_keys, TIME])
    # Microseconds: Feast's DuckDB can't compare pandas' nanoseconds with a snapshot's own times.
    place = keys.schema.get_field_index(TIME)
    times = keys[TIME].cast(pa.timestamp("us", tz="UTC"))
    frame = keys.set_column(place, TIME, times)
    frame = frame.append_column(_ROW, pa.array(np.arange(frame.num_rows)))
    ours = isinstance(store.config.offline_store, ProvenderOfflineStoreConfig)
    references = [each for key in layout.join_keys for each in layout.references(key)]
    try:
        job = store.get_historical_features(
            entity_df=frame if ours else frame.to_pandas(),
            features=references,
            full_feature_names=True,
            filter_by_created_timestamp=not backfills,
        )
        if isinstance(job, ProvenderRetrievalJob):
            job = job.with_event_times()
        return job.to_arrow()
    except ProvenderError:
        raise
    except Exception as error:  # Each offline store raises its own; the user gets one line.
        raise FetchError(
            f"training join of {layout.service}",
            found=str(error)[:300],
            expected="an answer of the offline store",
            remedy="See that the views' files exist and `feast apply` has run.",
        ) from error


def _places(joined: pa.Table, rows: int) -> npt.NDArray[np.int64]:
    """Where each returned row belongs; refuses an answer that is not each row exactly once."""
    places: npt.NDArray[np.int64] = joined[_ROW].to_numpy().astype(np.int64)
    counts = np.bincount(places, minlength=rows)
    if len(places) != rows or len(counts) != rows or not (counts == 1).all():
        raise FetchError(
            "training join",
            found=f"{len(places)} rows, {int((counts == 0).sum())} of those asked for not there",
            expected=f"{rows} rows, each once",
            remedy="Use an offline store that keeps every entity row: duckdb, not dask or ray.",
        )
    return places


def _fill_vectors(
    columns: Mapping[str, Column],
    joined: pa.Table,
    spec: EmbeddingSpec,
    places: npt.NDArray[np.int64],
) -> None:
    name = f"{spec.view_name}__{VECTOR_COLUMN}"
    target, start = columns[name], 0
    for chunk in joined[name].chunks:
        rows = places[start : start + len(chunk)]
        start += len(chunk)
        present = chunk.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.unique(pc.list_value_length(chunk).drop_null()).to_pylist()
        if lengths not in ([], [spec.dim]):
            raise FetchError(
                f"embedding view {spec.view_name}",
                found=f"vectors of {sorted(lengths)} floats",
                expected=f"{spec.dim} floats each",
                remedy="Write the snapshots again, or declare a new version with their dim.",
            )
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        target.values[rows[present]] = flat.reshape(-1, spec.dim)
        target.present[rows] = present


def _fill_ages(
    columns: Mapping[str, Column],
    joined: pa.Table,
    spec: EmbeddingSpec,
    places: npt.NDArray[np.int64],
) -> None:
    """Say how old each vector was, where the offline store tells from when it is."""
    name = _time_of(spec)
    ages = columns[f"{spec.view_name}__{VECTOR_COLUMN}"].age_seconds
    if ages is None or name not in joined.column_names:
        return
    nanoseconds = to_nanoseconds(joined[TIME]) - to_nanoseconds(joined[name])
    known = pc.is_valid(joined[name]).to_numpy()
    ages[places] = np.where(known, nanoseconds / 1e9, np.nan)


def _time_of(spec: EmbeddingSpec) -> str:
    return f"{spec.view_name}__event_timestamp"


def _fill_numbers(
    columns: Mapping[str, Column], joined: pa.Table, name: str, places: npt.NDArray[np.int64]
) -> None:
    array = _one_array(joined[name])
    columns[name].present[places] = array.is_valid().to_numpy(zero_copy_only=False)
    columns[name].values[places] = array.cast(pa.float64()).fill_null(0).to_numpy()


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
