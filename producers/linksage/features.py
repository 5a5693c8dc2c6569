"""Texts and images of pages and pins as vectors: one space for all texts, one for all images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NodeFeatures:
    """What n nodes of one type show, in the order of their keys.

    `keys` (n,) ascending, int64 or string; `text` (n, a), rows of norm 1, zero where a node has
    none; `images` (m, b), rows of norm 1; `image_offsets` (n + 1,): the images of node i are
    ``images[image_offsets[i] : image_offsets[i + 1]]``, the largest first; `image_sizes` (m,).
    a or b is 0 where no node of any type has texts or images. The arrays may be mapped from files.
    """

    keys: pa.Array[Any]
    text: Vectors
    images: Vectors
    image_offsets: NDArray[np.int64]
    image_sizes: Vectors

    def __len__(self) -> int:
        return len(self.keys)

    def mean_images(self) -> Vectors:
        """Each node's mean image weighted by size, (n, b) of norm 1; zero where it has none.

        Where all sizes of a node are zero its images count alike.
        """
        return self._means

    @cached_property
    def _means(self) -> Vectors:
        from scipy.sparse import csr_array

        counts = np.diff(self.image_offsets)
        owners = np.repeat(np.arange(len(counts)), counts)
        total = np.bincount(owners, self.image_sizes, minlength=len(counts))
        weights = np.where(total[owners] > 0, self.image_sizes, 1).astype(np.float32)
        shape = (len(counts), len(self.images))
        places = np.arange(len(self.images))
        sums = csr_array((weights, places, self.image_offsets), shape=shape) @ self.images
        return unit(sums)


@dataclass(frozen=True, eq=False)
class Features:
    """Of a whole page set.

    `targets` (pins, t) are the given vectors of pins as they were given, rows of NaN where a pin
    has none; None where no pin has one. `report` tells of what could not be used (JSON-able).
    """

    pages: NodeFeatures
    pins: NodeFeatures
    targets: Vectors | None
    report: Mapping[str, Any] = field(default_factory=dict)


def unit(rows: Vectors) -> Vectors:
    """The rows of (n, d) at norm 1, as float32; rows of zeros stay."""
    rows = np.asarray(rows, np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
