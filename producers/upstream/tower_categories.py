"""Categories of users and pins as of a time: bags of values, as codes of the column's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from provender.producers.upstream.declarations import CategoryColumn
from provender.producers.upstream.inputs import Bag
from provender.producers.upstream.timed_rows import Ints, TimedRows
from provender.producers.upstream.tower_numbers import timed_column
from provender.producers.upstream.tower_set import TowerSet

#: Codes by row, as `codes` (v,) and where each row's begin, int64 (m + 1,).
CodeBags = tuple[NDArray[np.integer], Ints]


@dataclass(frozen=True, eq=False)
class CategoryValues:
    """A column of an entity: its newest values before.

    Attributes:
        declared: how the column is declared.
        rows: when values became known.
        codes, offsets: the values of each entry, as places in `texts`; entry e's begin at
            offsets[e]. An entry without values stands at the end.
        texts: string, the distinct values.
    """

    declared: CategoryColumn
    rows: TimedRows
    codes: NDArray[np.integer]
    offsets: Ints
    texts: pa.Array

    @classmethod
    def open(
        cls, tower_set: TowerSet, entity: str, name: str, declared: CategoryColumn, count: int
    ) -> CategoryValues:
        """The column of `count` users or pins."""
        rows, lists = timed_column(tower_set, entity, "category", name, count)
        texts, codes, offsets = encoded(lists)
        return cls(declared, rows, codes, np.append(offsets, offsets[-1]), texts)

    def read(self, ids: Ints, times: Ints) -> CodeBags:
        """The codes of each entity as of its time (microseconds)."""
        newest, known = self.rows.newest(ids, times)
        entries = np.where(known, newest, len(self.offsets) - 2)
        low, lengths = self.offsets[entries], self.offsets[entries + 1] - self.offsets[entries]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], lengths)
        return self.codes[places], offsets


def encoded(lists: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.integer], Ints]:
    """Lists of text as distinct texts, the codes of all values, and where each list's begin.

    Nulls, of lists and in lists, are no values.
    """
    kept = pa.chunked_array(
        [_without_nulls(chunk) for chunk in lists.chunks], pa.list_(pa.string())
    ).combine_chunks()
    lengths = pc.list_value_length(kept).to_numpy(zero_copy_only=False)
    values = pc.dictionary_encode(kept.flatten())
    codes = values.indices.to_numpy(zero_copy_only=False)
    return values.dictionary, codes, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _without_nulls(lists: pa.ListArray) -> pa.ListArray:
    """The same lists less their null elements; null lists are empty."""
    values = lists.flatten()
    known = values.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    kept = np.concatenate([[0], np.cumsum(known)])[np.concatenate([[0], ends])]
    return pa.ListArray.from_arrays(
        pa.array(kept, pa.int32()), values.drop_null().cast(pa.string())
    )


def bag(codes: NDArray[Any], offsets: Ints, rows: Ints) -> Bag:
    """Bags of table rows: those of codes, by `rows` (one for each distinct text)."""
    values = rows[codes] if len(codes) else np.empty(0, np.int64)
    return Bag(torch.from_numpy(values), torch.from_numpy(offsets.astype(np.int64)))
