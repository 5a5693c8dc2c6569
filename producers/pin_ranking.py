"""Pins ranked for pages or users, exactly: blocks of scores of all pins, known pairs left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from provender.producers.vectors import unit

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
#: Rows of pages or users -> their scores of all pins, (len(rows), pins) float32.
Scorer = Callable[[Ints], Floats]
#: Scores that are held at once.
_BLOCK = 2**25


class Pairs(NamedTuple):
    """Rows of pages or users, and of pins, (p,) each."""

    rows: Ints
    pins: Ints


class Ranks(NamedTuple):
    """Of pairs: how many candidates score higher, and as high (itself included), (p,) each."""

    above: Ints
    level: Ints

    def hits(self, k: int) -> NDArray[np.float64]:
        """How likely each is among the first k, over the orders that equal scores leave open."""
        return np.clip((k - self.above) / self.level, 0, 1)


def cosines(pages: Floats, pins: Floats, dim: int | None = None) -> Scorer:
    """By the cosine of the first `dim` columns of (n, d) and (q, d)."""
    own = unit(pins[:, :dim])
    return lambda rows: unit(pages[rows, :dim]) @ own.T


def inner_products(pages: Any, pins: Any) -> Scorer:
    """By inner products of (n, d) and (q, d), dense or of SciPy's sparse arrays (tf-idf)."""

    def scores(rows: Ints) -> Floats:
        found = pages[rows] @ pins.T
        return np.asarray(found.toarray() if issparse(found) else found, np.float32)

    return scores


def popularity(known: Pairs, pins: int) -> Scorer:
    """By how many known pairs a pin has, whatever the page."""
    counts = np.bincount(known.pins, minlength=pins).astype(np.float32)
    return lambda rows: np.broadcast_to(counts, (len(rows), pins)).copy()


def as_matrix(pairs: Pairs, pages: int, pins: int) -> csr_array:
    """The pairs, each once, as true cells of a sparse (pages, pins)."""
    ones = np.ones(len(pairs.rows), np.int64)
    return csr_array((ones, (pairs.rows, pairs.pins)), shape=(pages, pins)).astype(bool)


def rank(scorer: Scorer, test: Pairs, left_out: csr_array) -> Ranks:
    """The ranks of `test`'s pins for its pages among all pins.

    Of a page neither its cells of `left_out` are candidates nor its other pins in `test`.
    """
    pins = left_out.shape[1]
    passed = (left_out + as_matrix(test, *left_out.shape)).tocsr()
    above, level = np.zeros((2, len(test.rows)), np.int64)
    order = np.argsort(test.rows, kind="stable")
    step = max(1, _BLOCK // max(pins, 1))
    for start in range(0, len(order), step):
        part = order[start : start + step]
        pages, places = np.unique(test.rows[part], return_inverse=True)
        scores = scorer(pages)
        own = scores[places, test.pins[part]]
        scores[passed[pages].nonzero()] = -np.inf
        for pair, place, score in zip(part, places, own, strict=True):
            above[pair] = np.count_nonzero(scores[place] > score)
            level[pair] = 1 + np.count_nonzero(scores[place] == score)
    return Ranks(above, level)


def first(
    scorer: Scorer, pages: Ints, k: int, left_out: csr_array
) -> Iterator[tuple[Ints, Floats]]:
    """Of each page its k pins of the highest scores, without those left out, and the scores.

    The highest come first, of equal ones the lower row.
    """
    for page in pages:
        scores = scorer(np.array([page]))[0]
        scores[left_out[[page]].nonzero()[1]] = -np.inf
        found = np.lexsort((np.arange(len(scores)), -scores))[:k]
        found = found[np.isfinite(scores[found])]
        yield found, scores[found]
