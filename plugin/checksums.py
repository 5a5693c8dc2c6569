"""The checksum of an online row: a multilinear hash over 32-bit words, all rows at once.

h = sum over words of word * multiplier, modulo 2^64, with odd multipliers of 64 bits. Any change
within one word changes the hash for certain; changes of several, down to one sign bit each, escape
with a chance of 2^-32 at most. It guards against rot and mix-ups, not against an adversary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

#: Multipliers before those of the payload: key, event time, created time, layout with length.
HEAD = 4


def row_checksums(
    keys: Words,
    event_us: Ints,
    created_us: Ints,
    layout: int,
    data: npt.NDArray[np.uint8],
    offsets: Ints,
) -> Ints:
    """The checksums of n rows of one layout.

    Args:
        keys: (n,) one word a key, from :func:`key_words`.
        event_us: (n,) microseconds.
        created_us: (n,) microseconds.
        layout: the layout's id.
        data: (bytes,) the payloads one after the other, each a multiple of 8 bytes and not empty.
        offsets: (n + 1,) where each payload begins, and the last ends.

    Returns:
        (n,) int64.
    """
    sizes = np.diff(offsets)
    if not len(sizes):
        return np.empty(0, dtype=np.int64)
    words = data.view("<u4")
    widest = int(sizes.max()) // 4
    numbers = multipliers(HEAD + widest)
    body = numbers[HEAD:]
    if (sizes == sizes[0]).all():
        rows = words.reshape(len(sizes), widest)
        sums: Words = np.einsum("ij,j->i", rows, body, dtype=np.uint64)
    else:
        starts = offsets[:-1] // 4
        places = np.arange(len(words)) - np.repeat(starts, sizes // 4)
        sums = np.add.reduceat(words * body[places], starts)
    heads = (keys, event_us.view(np.uint64), created_us.view(np.uint64))
    for head, multiplier in zip(heads, numbers, strict=False):
        sums += head * multiplier
    sums += (np.uint64(layout << 32) ^ sizes.view(np.uint64)) * numbers[3]
    return sums.view(np.int64)


def key_words(keys: Ints | Sequence[bytes]) -> Words:
    """(n,) one uint64 a key: a whole number itself, or length and CRC-32 of its bytes."""
    if isinstance(keys, np.ndarray):
        return keys.view(np.uint64)
    words = (len(key) << 32 | zlib.crc32(key) for key in keys)
    return np.fromiter(words, dtype=np.uint64, count=len(keys))


def multipliers(count: int) -> Words:
    """(count,) odd uint64 numbers; fewer are the first of more."""
    return _stream(max(1024, 1 << (count - 1).bit_length()))[:count]


@lru_cache(maxsize=8)
def _stream(count: int) -> Words:
    """SplitMix64 (Steele et al. 2014) from seed zero, made odd; any prefix of it is the same."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
