"""Several vectors of one entity as one: the mean of those of all refreshes, the newest most."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.instants import instant
from provender.producers.vectors import Vectors

_DAY = 86_400 * 10**9
#: A sum that has decayed to this share says nothing any more, and is dropped.
_LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class DecayedSums:
    """Sums of vectors, each halved with every half-life since its refresh.

    Attributes:
        keys: (n,) ascending and unique.
        sums: float32 (n, dim), as of `times`.
        times: int64 (n,), nanoseconds since 1970 of the newest vector in the sum.
    """

    keys: pa.Array[Any]
    sums: NDArray[np.float32]
    times: NDArray[np.int64]

    @classmethod
    def none(cls, keys: pa.Array[Any], dim: int) -> DecayedSums:
        """Of no vectors yet, with keys of a type."""
        empty = np.empty((0, dim), np.float32)
        return cls(keys.slice(0, 0), empty, np.empty(0, np.int64))

    def after(self, vectors: Vectors, as_of: datetime, half_life_days: float) -> DecayedSums:
        """With the vectors of one more refresh."""
        now = instant(as_of)
        share = np.exp2(-(now - self.times) / _DAY / half_life_days).astype(np.float32)
        place = pc.index_in(vectors.keys, value_set=self.keys).fill_null(-1).to_numpy()
        known = place >= 0
        fresh = np.array(vectors.vectors, np.float32)
        fresh[known] += share[place[known], None] * self.sums[place[known]]
        kept = share > _LEAST
        kept[place[known]] = False
        keys = pa.concat_arrays([self.keys.filter(pa.array(kept)), vectors.keys])
        sums = np.concatenate([self.sums[kept], fresh])
        times = np.concatenate([self.times[kept], np.full(len(fresh), now)])
        order = pc.sort_indices(keys)
        rows = order.to_numpy()
        return DecayedSums(keys.take(order), sums[rows], times[rows])

    def means(self, keys: pa.Array[Any]) -> Vectors:
        """The means of entities that there are sums of, of norm 1."""
        rows = self.sums[pc.index_in(keys, value_set=self.keys).to_numpy()]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return Vectors(keys, rows / np.maximum(norms, 1e-12))

    def save(self, path: Path) -> None:
        """Write them as one Parquet file."""
        flat = pa.FixedSizeListArray.from_arrays(pa.array(self.sums.ravel()), self.sums.shape[1])
        pq.write_table(
            pa.table({"key": self.keys, "sum": flat, "time": self.times}),
            path,
            use_dictionary=False,
        )

    @classmethod
    def load(cls, path: Path) -> DecayedSums:
        """Read back what `save` wrote; raises OSError or ArrowException."""
        table = pq.read_table(path).combine_chunks()
        listed = table["sum"].combine_chunks()
        flat = listed.flatten().to_numpy(zero_copy_only=False)
        return cls(
            table["key"].combine_chunks(),
            flat.reshape(len(table), listed.type.list_size),
            table["time"].to_numpy(),
        )
