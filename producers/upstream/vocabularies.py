"""Which row of a table a value has: learned by how frequent it is, or hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from provender.producers.upstream.declarations import CategoryColumn

Rows = NDArray[np.int64]


class Vocabulary(BaseModel):
    """Rows of values: 0 is that of all values which are not known, and of the rare ones.

    Attributes:
        values: those learned, from row 1 on; None where all are hashed.
        buckets: into so many rows, from row 1 on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[str, ...] | None = None
    buckets: int = 0

    @property
    def size(self) -> int:
        """Rows of the table."""
        return 1 + (self.buckets if self.values is None else len(self.values))

    def rows(self, texts: pa.Array) -> Rows:
        """The row of each text: int64 (n,); a null has row 0."""
        if self.values is not None:
            found = pc.index_in(texts, value_set=pa.array(self.values, pa.string()))
            return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64) + 1
        distinct = pc.dictionary_encode(texts)
        hashed = [1 + _hash(text) % self.buckets for text in distinct.dictionary.to_pylist()]
        rows = np.array([*hashed, 0], np.int64)  # the last one is that of nulls
        places = pc.fill_null(distinct.indices, -1).to_numpy(zero_copy_only=False)
        return np.asarray(rows[places])


def fit_vocabulary(column: CategoryColumn, texts: Iterable[pa.Array]) -> Vocabulary:
    """The vocabulary of a column: the most frequent first, of equally frequent the smaller one.

    Args:
        column: how it is declared.
        texts: arrays of string, of examples as they come; not looked at where all is hashed.
    """
    if column.buckets is not None:
        return Vocabulary(buckets=column.buckets)
    counted = pc.value_counts(pa.chunked_array(texts, pa.string()).drop_null())
    pairs = zip(
        counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True
    )
    ranked = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
    return Vocabulary(values=tuple(text for _, text in ranked[: column.most_values]))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
