"""Fewer negatives to train on, and the probabilities right all the same.

    sampling = NegativeSampling(share=0.1, seed=7)
    fewer = sampling.sampled(labelled)     # weights of what is kept make up for what is not

Rows with a positive of any task are all kept, each other row with the same probability. Weighted
by one over that, every sum over the rows keeps its expectation, so that a model learned from the
sample with these weights is calibrated on the whole. A learner that takes no weights predicts the
odds of the sample; :func:`corrected` turns them back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from provender.consumers.ranking_task import ID, LABELS, WEIGHTS
from provender.plugin.counter_random import mix64
from provender.plugin.errors import ConfigError, FetchError

Probabilities = TypeVar("Probabilities", Tensor, NDArray[np.floating], float)
Hashes = NDArray[np.uint64]
#: Apart from every other use of a seed.
_SALT = 0x6E656761


@dataclass(frozen=True)
class NegativeSampling:
    """Which rows without a positive are trained on: by a hash of seed and impression id alone.

    The same ones in every process, order, source and batch.

    Attributes:
        share: of them that is kept, in (0, 1].
        seed: another one keeps others.
    """

    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                "negatives",
                found=str(self.share),
                expected="a share above 0, at most 1",
                remedy="1 keeps all rows.",
            )

    def sampled(self, rows: pa.Table) -> pa.Table:
        """The rows that are kept, in their order, their weights multiplied.

        A row's label that is null does not make it a positive.

        Args:
            rows: with impression_id and a label at least; a weight that is not there is 1 where
                the label is known.

        Raises FetchError where the id or every label is missing.
        """
        if self.share == 1:
            return rows
        tasks = [name for name in LABELS if name in rows.column_names]
        if ID not in rows.column_names or not tasks:
            raise FetchError(
                "down-sampling of negatives",
                found=f"the columns {', '.join(rows.column_names)}",
                expected=f"{ID} and one of {', '.join(LABELS)}",
                remedy="Add them, or keep all rows with negatives=1.",
            )
        positive = np.zeros(len(rows), np.bool_)
        for name in tasks:
            positive |= pc.fill_null(rows[name], 0).to_numpy() > 0
        kept = np.flatnonzero(positive | (self._uniform(rows[ID]) < self.share))
        counts = pa.array(np.where(positive[kept], 1, 1 / self.share).astype(np.float32))
        fewer = rows.take(pa.array(kept))
        for name, weight in zip(LABELS, WEIGHTS, strict=True):
            if name in tasks:
                fewer = _multiplied(fewer, name, weight, counts)
        return fewer

    def _uniform(self, ids: pa.ChunkedArray) -> NDArray[np.float64]:
        """A number in [0, 1) for each id."""
        hashes = _mixed(_hashes(ids) ^ np.uint64(mix64(mix64(self.seed) ^ _SALT)))
        numbers: NDArray[np.float64] = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return numbers


def corrected(probability: Probabilities, share: float) -> Probabilities:
    """The probability on all rows, from one learned where a share of the negatives was kept.

    q = p / (p + (1 - p) / share) (He et al. 2014, section 6.3), for learners without weights; with
    the weights of :class:`NegativeSampling` nothing is to be corrected.
    """
    return probability / (probability + (1 - probability) / share)


def _multiplied(rows: pa.Table, label: str, weight: str, counts: pa.Array) -> pa.Table:
    if weight not in rows.column_names:
        return rows.append_column(weight, _known(rows[label], counts))
    place = rows.schema.get_field_index(weight)
    product = pc.multiply(rows[weight].cast(pa.float32()), counts)
    return rows.set_column(place, pa.field(weight, pa.float32()), product)


def _known(labels: pa.ChunkedArray, counts: pa.Array) -> pa.ChunkedArray:
    return pc.if_else(labels.is_valid(), counts, pa.scalar(0, pa.float32()))


def _hashes(ids: pa.ChunkedArray) -> Hashes:
    """64 bits of each id: of an integer itself, of anything else BLAKE2 of its text."""
    if pa.types.is_integer(ids.type):
        hashes: Hashes = ids.cast(pa.int64()).to_numpy().astype(np.int64).view(np.uint64)
        return hashes
    texts = ids.cast(pa.string()).to_pylist()
    digests = b"".join(hashlib.blake2b(str(t).encode(), digest_size=8).digest() for t in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _mixed(numbers: Hashes) -> Hashes:
    """splitmix64 (Steele et al. 2014), as :func:`mix64`."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
