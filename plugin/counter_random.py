"""Random numbers by counter (Salmon et al. 2011): what is drawn depends on who draws, not on when.

A walker has a key, and its draw number c is a hash of both: no state is kept, so that blocks,
shards and orders of walkers change nothing, on CPU and GPU alike. The hash is lowbias32 (Wellons
2018) on int32, the widest integers that all devices multiply fast; its last step is left out, as
only the high bits are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B9
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
_MASK64 = (1 << 64) - 1


def mix64(number: int) -> int:
    """The hash splitmix64 (Steele et al. 2014) of an integer, as one of 64 bits without sign."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK64
    return number ^ (number >> 31)


def walker_keys(seed: int, hashes: Tensor, walks: Tensor) -> Tensor:
    """A key for each walk of each start: int32 (n, w); the walks of a start all differ.

    Args:
        seed: any integer.
        hashes: int64 (n,), of the starts' own keys.
        walks: int64 (w,), numbers of walks.
    """
    salted = hashes.bitwise_xor(_signed(mix64(seed), 64))
    keys = (salted ^ (salted >> 32)).to(torch.int32)
    keys = _finished(keys.add_(_signed(_GOLDEN, 32)))
    numbered = keys[:, None] + (walks.to(torch.int32) * _signed(_GOLDEN, 32))[None, :]
    return _finished(numbered)


def draw(keys: Tensor, counter: int, out: Tensor, work: Tensor) -> Tensor:
    """Draw number `counter` of each key into `out`: int32, uniform, the high bits best.

    Args:
        keys: int32, of any shape.
        counter: which draw, from 0.
        out: int32 of the same shape, not `keys`.
        work: another such.
    """
    torch.add(keys, _signed((counter + 1) * _GOLDEN & 0xFFFFFFFF, 32), out=out)
    return _mixed(out, work)


def _mixed(x: Tensor, work: Tensor) -> Tensor:
    _fold(x, 16, work).mul_(_signed(_FIRST, 32))
    return _fold(x, 15, work).mul_(_signed(_SECOND, 32))


def _finished(x: Tensor) -> Tensor:
    work = torch.empty_like(x)
    return _fold(_mixed(x, work), 16, work)


def _fold(x: Tensor, bits: int, work: Tensor) -> Tensor:
    """x ^= x >> bits, with zeros shifted in: torch's own shift repeats the sign."""
    torch.bitwise_right_shift(x, bits, out=work)
    return x.bitwise_xor_(work.bitwise_and_((1 << (32 - bits)) - 1))


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >= 1 << (bits - 1) else number
