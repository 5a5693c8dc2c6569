"""All rows of a registered embedding view with both their times, through Feast's offline store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

from provender.plugin.embedding_view import spec_of
from provender.plugin.errors import ConfigError, SnapshotError
from provender.plugin.key_index import NO_RANK, normalized
from provender.plugin.retrieval_job import ProvenderRetrievalJob
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec

Ints = npt.NDArray[np.int64]
#: Bytes of vectors that are pulled at once.
_BATCH_BYTES = 2**26


def rows_between(
    store: FeatureStore, view: FeatureView, start: datetime, end: datetime
) -> Iterator[pa.RecordBatch]:
    """All rows of a view between two times, ends included; at least one batch, it may be empty."""
    source: Any = view.batch_source
    job = get_offline_store_from_config(store.config.offline_store).pull_all_from_table_or_query(
        store.config,
        source,
        [spec_of(view).join_key],
        [VECTOR_COLUMN],
        source.timestamp_field,
        source.created_timestamp_column,
        start,
        end,
    )
    if isinstance(job, ProvenderRetrievalJob):
        return job.stream(max(1, _BATCH_BYTES // (4 * spec_of(view).dim)))
    table = job.to_arrow()  # Feast's own stores have no other way.
    return iter(table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)])


def key_numbers(thing: str, spec: EmbeddingSpec, found: pa.Array, keys: pa.Array) -> Ints:
    """The place in `keys` of each key of a view, NO_RANK for those that are not there: int64 (n,).

    Args:
        thing: what an error names.
        spec: the view's declaration.
        found: (n,) keys as the view has them.
        keys: int64 or string, each once; integers ascend.

    Raises ConfigError for keys of another type.
    """
    wanted = normalized(found)
    if wanted.type != keys.type and len(wanted) and not pa.types.is_null(wanted.type):
        raise ConfigError(
            thing,
            found=f"keys of type {wanted.type}",
            expected=f"{keys.type}, as the world declares those of {spec.entity}",
            remedy="Correct the entity's type in the world, or in the feature repo.",
        )
    if not len(wanted) or not len(keys):
        return np.full(len(wanted), NO_RANK, np.int64)
    if pa.types.is_integer(keys.type) and not wanted.null_count:
        held, asked = keys.to_numpy(), wanted.to_numpy()
        places = np.minimum(np.searchsorted(held, asked), len(held) - 1)
        return np.where(held[places] == asked, places, NO_RANK)
    places = pc.index_in(wanted, value_set=keys, skip_nulls=True)
    return np.asarray(pc.fill_null(places, NO_RANK).to_numpy(zero_copy_only=False), np.int64)


def whole_vectors(
    spec: EmbeddingSpec, column: pa.Array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The vectors (v, dim) that are there and finite, and which rows have one: bool (n,).

    Raises SnapshotError for a vector of another length than declared.
    """
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False)
    if (lengths != spec.dim).any():
        raise SnapshotError(
            f"embedding view {spec.view_name}",
            found=f"a vector of {lengths[lengths != spec.dim][0]} floats",
            expected=f"{spec.dim}, as declared",
            remedy="Correct the source's files, or declare a new version.",
        )
    flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32, copy=False).reshape(-1, spec.dim)
    finite = np.isfinite(vectors).all(axis=1)
    whole = valid.copy()
    whole[valid] = finite
    return vectors[finite], whole
