"""Which rows of a batch are the same to a ranker: each is scored once, so equal ones stay equal.

Legend of shapes: B rows, N distinct rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from provender.consumers.features import RankerBatch

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
#: Bytes of each part that are looked at first.
_WORD = 8
#: Odd, so that no bit of what was multiplied is lost: the golden ratio of 64 bits.
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Distinct(NamedTuple):
    """The distinct rows of a batch.

    Attributes:
        firsts: int64 (N,), where each is first, ascending.
        places: int64 (B,), the place of each row's like in `firsts`.
    """

    firsts: Ints
    places: Ints


def distinct_rows(
    batch: RankerBatch, context: Collection[str] = (), join_keys: Collection[str] = ()
) -> Distinct | None:
    """Tell rows apart by every bit that a ranker reads; None where no two are the same.

    A matrix product treats the rows at the edge of a block otherwise than the rest, so rows that
    are the same can get scores that differ in their last bit, and then stand in any order.

    Args:
        batch: the rows.
        context: the columns that are read.
        join_keys: those whose entities have learned rows; of others only features are read.
    """
    columns = [batch.context[name] for name in context if name in batch.context]
    columns += [batch.keys[name] for name in join_keys if name in batch.keys]
    suspects = _suspects(_parts(batch, columns), len(batch))
    if not len(suspects):
        return None
    of_suspects = _numbered([part[suspects] for part in _parts(batch, columns)])
    first = np.arange(len(batch))
    _, firsts = np.unique(of_suspects, return_index=True)
    first[suspects] = suspects[firsts[of_suspects]]
    kept, places = np.unique(first, return_inverse=True)
    return None if len(kept) == len(batch) else Distinct(kept, places)


def _suspects(parts: Iterable[Bytes], rows: int) -> Ints:
    """The rows that may be like another, for all that the first word of each part tells.

    It tells nearly all apart, and vectors are not read whole: those left are.
    """
    told = np.zeros(rows, np.uint64)
    alike = np.ones(rows, np.bool_)
    for part in parts:
        word = np.zeros((rows, _WORD), np.uint8)
        word[:, : part.shape[1]] = part[:, :_WORD]
        words = word.view(np.uint64)[:, 0]
        if (words == words[:1]).all():  # What is the user's is the same for all candidates.
            continue
        told = told * _ODD + words
        order = told.argsort()
        same = told[order[1:]] == told[order[:-1]]
        if not same.any():
            return np.zeros(0, np.int64)
        alike[order] = np.append(same, False) | np.append(False, same)
    return np.flatnonzero(alike) if rows > 1 else np.zeros(0, np.int64)


def _parts(batch: RankerBatch, columns: Sequence[pa.Array]) -> Iterator[Bytes]:
    """Everything that a ranker reads, as bytes (B, bytes)."""
    tensors: list[torch.Tensor] = [*batch.vectors.values(), batch.dense, batch.dense_present]
    tensors += [mask[:, None] for mask in batch.present.values()]
    if batch.history is not None:
        tensors += [batch.history.items, batch.history.kinds, batch.history.age_seconds]
    for tensor in tensors:
        yield _bytes_of(tensor.numpy())
    for column in columns:
        yield _bytes_of(_codes(column)[:, None])


def _bytes_of(array: npt.NDArray[np.generic]) -> Bytes:
    plain = np.ascontiguousarray(array)
    width = plain.shape[1] * plain.itemsize
    return plain.view(np.uint8) if width else np.zeros((len(plain), 0), np.uint8)


def _codes(column: pa.Array) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = column.dictionary_encode().indices.to_numpy()
    return codes


def _numbered(parts: Sequence[Bytes]) -> Ints:
    """Number the distinct rows of bytes (n, any) side by side: int64 (n,)."""
    joined = np.concatenate(parts, axis=1)
    _, numbers = np.unique(joined.view(f"V{joined.shape[1]}")[:, 0], return_inverse=True)
    return numbers
