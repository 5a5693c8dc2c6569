"""The vectors of one entity type, by key: what refreshes hand to each other and snapshots hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from provender.plugin.errors import CheckpointError
from provender.producers.mapped_rows import BLOCK, gathered

#: Of vectors in a row group, at most.
_GROUP_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Vectors:
    """`keys` (n,), int64 or string, sorted and unique; `vectors` float32 (n, dim), in order."""

    keys: pa.Array[Any]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.keys) != len(self.vectors):
            raise ValueError(f"{len(self.keys)} keys, vectors of shape {self.vectors.shape}")

    @property
    def dim(self) -> int:
        """The length of one vector."""
        return int(self.vectors.shape[1])


def unit(rows: ArrayLike) -> NDArray[np.float32]:
    """The rows of (n, d) at norm 1, as float32; rows of zeros stay."""
    given = np.asarray(rows, np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", given, given, dtype=np.float64))[:, None]
    return np.asarray(given / np.where(norms > 0, norms, 1).astype(np.float32), np.float32)


def save_vectors(folder: Path, vectors: Mapping[str, Vectors]) -> None:
    """Write the vectors of every entity type into an existing folder, one Parquet file each."""
    for entity, rows in vectors.items():
        # No two vectors are alike; and whoever writes a group or reads one holds it in memory.
        pq.write_table(
            to_table(rows),
            folder / f"{entity}.parquet",
            row_group_size=max(1, _GROUP_BYTES // (4 * rows.dim)),
            use_dictionary=False,
        )


def load_vectors(folder: Path, scratch: Path | None = None) -> dict[str, Vectors]:
    """Read back what :func:`save_vectors` wrote, by entity type; raises CheckpointError.

    With a `scratch` folder the vectors are mapped from files in it and not in memory.
    """
    try:
        return {path.stem: _load(path, scratch) for path in sorted(folder.glob("*.parquet"))}
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(
            f"vectors in {folder}",
            found=str(error),
            expected="the Parquet files that the run wrote",
            remedy="Remove the run's folder; its refresh is then warm-started from its snapshots.",
        ) from None


def _load(path: Path, scratch: Path | None) -> Vectors:
    """The vectors of one file, decoded in blocks."""
    with pq.ParquetFile(path) as file:
        keys = file.read(columns=["key"])["key"].combine_chunks()
        dim = file.schema_arrow.field("vector").type.list_size
        blocks = (
            batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
            for batch in file.iter_batches(BLOCK, columns=["vector"])
        )
        return Vectors(keys, gathered(blocks, len(keys), dim, scratch))


def to_table(rows: Vectors) -> pa.Table:
    """The columns `key` and `vector`, a list of fixed size."""
    flat = pa.array(rows.vectors.reshape(-1))
    return pa.table({"key": rows.keys, "vector": pa.FixedSizeListArray.from_arrays(flat, rows.dim)})


def from_table(table: pa.Table) -> Vectors:
    """The vectors of a table as `to_table` makes one."""
    listed = table["vector"].combine_chunks()
    vectors = listed.flatten().to_numpy(zero_copy_only=False).reshape(-1, listed.type.list_size)
    return Vectors(table["key"].combine_chunks(), vectors)
