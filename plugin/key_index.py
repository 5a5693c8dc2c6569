"""Entity keys as dense numbers, whatever their type and however many columns they have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.instants import to_nanoseconds

Ranks = npt.NDArray[np.int64]

#: The rank of a key that is null or not known.
NO_RANK = -1
_LARGEST = pa.scalar(2**63 - 1, pa.uint64())


class KeyIndex:
    """The distinct keys of a table, each with a number from 0 on.

    Args:
        columns: one normalized array a join key, each of length n (:func:`normalized`).

    Attributes:
        ranks: int64 (n,), each row's number; NO_RANK where any part of its key is null.
        size: how many distinct keys there are.
    """

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self._values: list[pa.Array] = []
        self._pairs: list[pa.Array] = []
        first, *others = [self._encoded(column) for column in columns]
        ranks, self.size = first
        for part, count in others:
            encoded = pc.dictionary_encode(_combined(ranks, part, count))
            self._pairs.append(encoded.dictionary)
            ranks, self.size = _dense(encoded), len(encoded.dictionary)
        self.ranks = ranks

    @property
    def types(self) -> list[pa.DataType]:
        """The normalized type of each key column."""
        return [values.type for values in self._values]

    def find(self, columns: Sequence[pa.Array]) -> Ranks:
        """Return the ranks of other rows' keys, int64 (m,); NO_RANK where this table lacks one."""
        first, *others = [
            _ranks_in(values, column) for values, column in zip(self._values, columns, strict=True)
        ]
        ranks = first
        for part, values, pairs in zip(others, self._values[1:], self._pairs, strict=True):
            ranks = _ranks_in(pairs, _combined(ranks, part, len(values)))
        return ranks

    def _encoded(self, column: pa.Array) -> tuple[Ranks, int]:
        encoded = pc.dictionary_encode(column)
        self._values.append(encoded.dictionary)
        return _dense(encoded), len(encoded.dictionary)


def normalized(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a key column in the one form in which equal keys are equal.

    Integers of every width become int64, and so do floats, which pandas makes of integers with
    nulls: NaN and fractions are no key. Text becomes string, times nanoseconds. A column of
    nulls alone stays without a type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        return normalized(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return _from_floats(column)
    if pa.types.is_uint64(kind):
        # No key that is kept as int64 is that large.
        return pc.if_else(pc.less_equal(column, _LARGEST), column, None).cast(pa.int64())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.int64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        missing = pc.is_null(column).to_numpy(zero_copy_only=False)
        return pa.array(to_nanoseconds(column), mask=missing)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    return column


def _from_floats(column: pa.Array) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    return pa.array(whole, mask=~(np.isfinite(values) & (whole == values)))


def _ranks_in(values: pa.Array, column: pa.Array) -> Ranks:
    if pa.types.is_null(values.type) or pa.types.is_null(column.type):
        return np.full(len(column), NO_RANK, np.int64)
    found = pc.index_in(column, value_set=values, skip_nulls=True)
    return _filled(found)


def _dense(encoded: pa.DictionaryArray) -> Ranks:
    return _filled(encoded.indices)


def _filled(ranks: pa.Array) -> Ranks:
    filled = pc.fill_null(ranks, NO_RANK) if ranks.null_count else ranks
    return np.asarray(filled.to_numpy(), dtype=np.int64)


def _combined(left: Ranks, right: Ranks, count: int) -> pa.Array:
    """Return one number a pair of ranks, null where either is missing."""
    missing = (left == NO_RANK) | (right == NO_RANK)
    return pa.array(left * count + right, mask=missing)
