"""Feast's retrieval job as a stream: batches in bounded memory, and all that can be made of them.

job = store.get_historical_features(entity_df, features)
job.to_arrow()                 # as of any Feast store
for batch in job.stream():     # pyarrow record batches
job.to_parquet("train.parquet")
for batch in job.tensors():    # torch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import ibis  # type: ignore[import-untyped]
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FileSource, OnDemandFeatureView
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage

from provender.plugin.delta_tables import write_delta
from provender.plugin.feature_rows import source_uri
from provender.plugin.files import whole_file
from provender.plugin.tensor_batches import TensorBatch, to_tensors

#: Rows a batch by default: 64 MB of 256 floats each.
BATCH_ROWS = 65_536
#: Rows a chunk of a table that is asked for whole.
TABLE_ROWS = 2**20


@dataclass(frozen=True)
class Options:
    """What a retrieval is asked for beside Feast's own arguments.

    Attributes:
        dims: view name -> the first so many floats of its vectors; a nested dim.
        event_times: whether each view's event time comes along.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    event_times: bool = False


#: Makes the batches, at least one, of at most so many rows each.
Batches = Callable[[int, Options], Iterator[pa.RecordBatch]]


class ProvenderRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for, each time anew.

    Args:
        batches: yields the result in order; every batch has the same schema.
        metadata: called when it is asked for, since SQL has to be run to know its times.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        repo_path: str,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: Callable[[], RetrievalMetadata] | None = None,
        options: Options | None = None,
    ) -> None:
        self._batches = batches
        self._repo_path = repo_path
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand_feature_views or []
        # Asked for again with every batch that on-demand features are computed for.
        self._metadata = cache(metadata) if metadata else None
        self._options = options or Options()

    def at_dims(self, dims: Mapping[str, int]) -> ProvenderRetrievalJob:
        """Return the same retrieval with shorter vectors: view name -> one of its nested dims.

        Only those floats are read and moved.
        """
        return self._with(Options({**self._options.dims, **dims}, self._options.event_times))

    def with_event_times(self) -> ProvenderRetrievalJob:
        """Return the same retrieval with a column ``<view>__event_timestamp`` for each view.

        It says from when each row's value is: null where there is none.
        """
        return self._with(Options(self._options.dims, event_times=True))

    def stream(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the result in order, at most ``rows`` at a time; on-demand features are computed.

        At least one batch comes, so that the schema is known; it may be empty.
        """
        for batch in self._batches(rows, self._options):
            if not self._on_demand:
                yield batch
            else:
                yield from self._of_batch(batch).to_arrow().combine_chunks().to_batches() or [batch]

    def tensors(self, rows: int = BATCH_ROWS) -> Iterator[TensorBatch]:
        """Yield the result as torch tensors, at most ``rows`` at a time."""
        for batch in self.stream(rows):
            if batch.num_rows:
                yield to_tensors(batch)

    def to_tensor(
        self, kind: str = "torch", default_value: Any = float("nan"), timeout: int | None = None
    ) -> dict[str, Any]:
        """Return every column at once: vectors (n, dim) float32, numbers (n,), others as lists.

        What is missing is ``default_value`` in floats and vectors, and turns integers into floats.
        """
        if kind != "torch":
            return super().to_tensor(kind, default_value, timeout)
        return to_tensors(self.to_arrow(timeout=timeout)).filled(default_value)

    def to_parquet(self, path: str | Path, rows: int = BATCH_ROWS) -> int:
        """Stream the result into a Parquet file, which appears whole; return its rows."""
        batches = self.stream(rows)
        first = next(batches)
        count = 0
        with whole_file(Path(path)) as staged, _writer(staged, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)
                count += batch.num_rows
        return count

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to a saved dataset's storage."""
        source = storage.to_data_source()
        path = _local_parquet(source, self._repo_path)
        if isinstance(source, FileSource) and isinstance(source.file_format, DeltaFormat):
            if Path(source.path).exists() and not allow_overwrite:
                raise SavedDatasetLocationAlreadyExists(location=source.path)
            write_delta(source, self.to_arrow(timeout=timeout), append=False)
            return
        if path is None:
            table = ibis.memtable(self.to_arrow(timeout=timeout))
            _write_data_source(table, source, self._repo_path, "overwrite", allow_overwrite)
            return
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        self.to_parquet(path)

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are called ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that are computed on top."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for, and of which times."""
        return self._metadata() if self._metadata else None

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return pa.Table.from_batches(list(self._batches(TABLE_ROWS, self._options)))

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _with(self, options: Options) -> ProvenderRetrievalJob:
        return ProvenderRetrievalJob(
            self._batches,
            repo_path=self._repo_path,
            full_feature_names=self._full_feature_names,
            on_demand_feature_views=self._on_demand,
            metadata=self._metadata,
            options=options,
        )

    def _of_batch(self, batch: pa.RecordBatch) -> ProvenderRetrievalJob:
        """Return a job over one batch, whose ``to_arrow`` computes the on-demand features."""
        return ProvenderRetrievalJob(
            lambda rows, options: iter([batch]),
            repo_path=self._repo_path,
            full_feature_names=self._full_feature_names,
            on_demand_feature_views=self._on_demand,
            metadata=self._metadata,
        )


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file; floats of vectors do not compress, and trying costs most of the time."""
    lists = [field for field in schema if pa.types.is_list(field.type)]
    vectors = {field.name for field in lists if pa.types.is_floating(field.type.value_type)}
    if not vectors:
        return pq.ParquetWriter(path, schema)
    leaves = [f"{f.name}.list.element" if f in lists else f.name for f in schema]
    others = [leaf for leaf in leaves if leaf.partition(".list.")[0] not in vectors]
    compression = {leaf: "snappy" if leaf in others else "none" for leaf in leaves}
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=others)


def _local_parquet(source: Any, repo_path: str) -> Path | None:
    """Return the one local Parquet file that a saved dataset is, if it is one."""
    if not isinstance(source, FileSource) or "://" in source.path.removeprefix("file://"):
        return None
    path = Path(source_uri(source, repo_path))
    return path if path.suffix == ".parquet" and not path.is_dir() else None
