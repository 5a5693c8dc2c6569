"""Vectors as an embedding view's dtype stores them online, and how far that is from the truth.

| dtype | bytes a vector | error of an element v, at most |
|---|---|---|
| float32 | 4 dim | none |
| float16 | 2 dim | 2^-11 of its magnitude, or 2^-25 below 2^-14 |
| int8 | 4 + dim | max over the vector of the magnitudes / 254 |

int8 keeps one float32 scale a vector, max|v| / 127, and each element as the nearest multiple of
it. tests/plugin/test_packing.py measures both errors against these bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from provender.plugin.spec import Dtype

Vectors = npt.NDArray[np.float32]

#: The largest magnitude that float16 holds.
HALF_MAX = 65504.0


def stored_dtype(dtype: Dtype, dim: int) -> np.dtype[np.void]:
    """The structured dtype of one stored vector: "values", and for int8 "scale" before it."""
    if dtype == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (dim,))])
    return np.dtype([("values", "<f2" if dtype == "float16" else "<f4", (dim,))])


def quantize(vectors: Vectors, dtype: Dtype) -> npt.NDArray[np.void]:
    """(n, dim) float32 to (n,) stored vectors; the caller has refused NaN, Inf and overflow."""
    rows, dim = vectors.shape
    if dtype == "float32":
        stored: npt.NDArray[Any] = np.ascontiguousarray(vectors, dtype="<f4")
        return stored.view(stored_dtype(dtype, dim)).reshape(rows)
    packed = np.empty(rows, dtype=stored_dtype(dtype, dim))
    if dtype == "float16":
        packed["values"] = vectors
        return packed
    scale = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)
    packed["scale"] = scale
    steps = vectors / np.where(scale > 0, scale, np.float32(1))[:, None]
    packed["values"] = np.clip(np.rint(steps), -127, 127)
    return packed


def dequantize(stored: npt.NDArray[np.void], dim: int | None = None) -> Vectors:
    """(n,) stored vectors to contiguous (n, dim) float32, or to their prefix of `dim`."""
    values = stored["values"][:, :dim]
    vectors: Vectors = np.ascontiguousarray(values, dtype=np.float32)
    if stored.dtype.names is not None and "scale" in stored.dtype.names:
        vectors *= stored["scale"][:, None]
    return vectors
