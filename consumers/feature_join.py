"""Features of a layout as they were known at the time of each row, asked of any offline store.

provender's own store keeps the rows' order and streams; Feast promises neither the order nor the
number of the rows it gives back, so with other stores each row carries its number there and back.
Vectors go from Arrow straight into arrays, never through pandas.

Legend of shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from torch.utils.dlpack import from_dlpack

from provender.consumers.features import Column, FeatureLayout
from provender.consumers.ranking_task import TIME
from provender.plugin.errors import FetchError, ProvenderError
from provender.plugin.instants import to_nanoseconds
from provender.plugin.offline_store import ProvenderOfflineStoreConfig
from provender.plugin.retrieval_job import ProvenderRetrievalJob
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec

_ROW = "provender_row"
Columns = dict[str, Column]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FeatureJoin:
    """A layout's features beside rows with its keys and times.

    Attributes:
        store: a feature store, of which only public methods are used.
        backfills: whether values written after a row's time count.
    """

    store: FeatureStore
    layout: FeatureLayout
    backfills: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the store anew: one that is open holds locks and connections."""
        return {**self.__dict__, "store": self.store.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "store": FeatureStore(config=state["store"])})

    @property
    def streams(self) -> bool:
        """Whether the store gives rows back in order and in parts."""
        return isinstance(self.store.config.offline_store, ProvenderOfflineStoreConfig)

    def parts(self, rows: pa.Table, size: int) -> Iterator[Columns]:
        """The features of rows, `size` at a time but for the last; see `check_keys` for the rows.

        Raises:
            FetchError: the store gave no answer, or lost or doubled rows.
            FetchError, SnapshotError: a vector has another length than declared.
        """
        if not self.streams:
            whole = empty_columns(self.layout, rows.num_rows)
            self.fill(whole, rows, 0)
            for start in range(0, rows.num_rows, size):
                yield {name: _part(one, start, start + size) for name, one in whole.items()}
            return
        batches = self._explained(lambda: self._job(_frame(rows, self.layout)).stream(size))
        while (batch := self._explained(lambda: next(batches, None))) is not None:
            if batch.num_rows:
                yield {
                    **{
                        f"{spec.view_name}__{VECTOR_COLUMN}": _vectors(batch, spec)
                        for spec in self.layout.embeddings
                    },
                    **{one.column: _numbers(batch[one.column]) for one in self.layout.dense},
                }

    def fill(self, columns: Mapping[str, Column], rows: pa.Table, start: int) -> pa.Table:
        """Write the features of rows into columns from place `start` on; return what was joined."""
        frame = _frame(rows, self.layout)
        frame = frame.append_column(_ROW, pa.array(np.arange(frame.num_rows)))
        job = self._explained(
            lambda: self._job(frame if self.streams else frame.to_pandas()).to_arrow()
        )
        places = _places(job, rows.num_rows) + start
        for spec in self.layout.embeddings:
            _fill_vectors(columns, job, spec, places)
            _fill_ages(columns, job, spec, places)
        for feature in self.layout.dense:
            _fill_numbers(columns, job, feature.column, places)
        return job

    def _job(self, frame: Any) -> Any:
        job = self.store.get_historical_features(
            entity_df=frame,
            features=[
                each for key in self.layout.join_keys for each in self.layout.references(key)
            ],
            full_feature_names=True,
            filter_by_created_timestamp=not self.backfills,
        )
        return job.with_event_times() if isinstance(job, ProvenderRetrievalJob) else job

    def _explained(self, answer: Callable[[], Answer]) -> Answer:
        try:
            return answer()
        except ProvenderError:
            raise
        except Exception as error:  # Each offline store raises its own; the user gets one line.
            raise FetchError(
                f"training join of {self.layout.service}",
                found=str(error)[:300],
                expected="an answer of the offline store",
                remedy="See that the views' files exist and `feast apply` has run.",
            ) from error


def check_keys(impressions: pa.Table, layout: FeatureLayout) -> None:
    """Raise FetchError unless every row has the layout's keys and a time with its zone."""
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


def empty_columns(layout: FeatureLayout, rows: int) -> Columns:
    """Columns of so many rows in which nothing is present yet."""
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


def time_column(spec: EmbeddingSpec) -> str:
    """The column of a joined table that says from when a view's values are, where it is there."""
    return f"{spec.view_name}__event_timestamp"


def _frame(rows: pa.Table, layout: FeatureLayout) -> pa.Table:
    keys = rows.select([*layout.join_keys, TIME])
    # Microseconds: Feast's DuckDB can't compare pandas' nanoseconds with a snapshot's own times.
    place = keys.schema.get_field_index(TIME)
    times = keys[TIME].cast(pa.timestamp("us", tz="UTC"), safe=False)
    return keys.set_column(place, TIME, times)


def _part(column: Column, start: int, end: int) -> Column:
    ages = column.age_seconds
    part = None if ages is None else ages[start:end]
    return Column(column.values[start:end], column.present[start:end], part)


def _vectors(batch: pa.RecordBatch, spec: EmbeddingSpec) -> Column:
    """A view's vectors, all rows at once: the memory that Arrow holds where none is missing."""
    array = batch[f"{spec.view_name}__{VECTOR_COLUMN}"]
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values = _floats(array, spec)
    if len(values) < len(present):
        some = values
        values = np.zeros((len(present), spec.dim), dtype=np.float32)
        values[present] = some
    name = time_column(spec)
    nanoseconds = to_nanoseconds(batch[TIME]) - to_nanoseconds(batch[name])
    known = batch[name].is_valid().to_numpy(zero_copy_only=False)
    return Column(values, present, np.where(known, nanoseconds / 1e9, np.nan))


def _floats(array: pa.Array, spec: EmbeddingSpec) -> npt.NDArray[np.float32]:
    """The vectors that are there, (present, dim)."""
    lengths = pc.unique(pc.list_value_length(array).drop_null()).to_pylist()
    if lengths not in ([], [spec.dim]):
        raise FetchError(
            f"embedding view {spec.view_name}",
            found=f"vectors of {sorted(lengths)} floats",
            expected=f"{spec.dim} floats each",
            remedy="Write the snapshots again, or declare a new version with their dim.",
        )
    flat = array.flatten()
    if flat.type == pa.float32() and len(flat) and not flat.null_count:
        # Arrow's memory itself, which nobody else holds; NumPy would get it as read-only.
        shared: npt.NDArray[np.float32] = from_dlpack(flat).numpy()
        return shared.reshape(-1, spec.dim)
    values = flat.to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float32).reshape(-1, spec.dim)


def _numbers(array: pa.Array) -> Column:
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return Column(array.cast(pa.float64()).fill_null(0).to_numpy(), present)


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
        target.values[rows[present]] = _floats(chunk, spec)
        target.present[rows] = present


def _fill_ages(
    columns: Mapping[str, Column],
    joined: pa.Table,
    spec: EmbeddingSpec,
    places: npt.NDArray[np.int64],
) -> None:
    """Say how old each vector was, where the offline store tells from when it is."""
    name = time_column(spec)
    ages = columns[f"{spec.view_name}__{VECTOR_COLUMN}"].age_seconds
    if ages is None or name not in joined.column_names:
        return
    nanoseconds = to_nanoseconds(joined[TIME]) - to_nanoseconds(joined[name])
    known = pc.is_valid(joined[name]).to_numpy()
    ages[places] = np.where(known, nanoseconds / 1e9, np.nan)


def _fill_numbers(
    columns: Mapping[str, Column], joined: pa.Table, name: str, places: npt.NDArray[np.int64]
) -> None:
    column = _numbers(joined[name].combine_chunks())
    columns[name].present[places] = column.present
    columns[name].values[places] = column.values
