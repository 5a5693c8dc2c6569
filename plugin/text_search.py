"""Keyword search in the text features of rows: all words of the query, in any order.

A text's rank is the share of its words that are words of the query, between 0 and 1; words are
runs of letters, digits and underscores, compared without case. A row has the best rank of its
texts. It is a plain scan, for tables that fit one machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, without case."""
    return [word.casefold() for word in _WORD.findall(text)]


def text_rank(query: frozenset[str], text: str) -> float:
    """The share of the text's words that the query has; 0 where one of the query's is missing."""
    words = words_of(text)
    if not query or not query <= set(words):
        return 0.0
    return sum(word in query for word in words) / len(words)


def text_ranks(
    query: frozenset[str], columns: Sequence[npt.NDArray[np.object_]], rows: int
) -> npt.NDArray[np.float64]:
    """(n,) the best rank of each row's texts; what is no text has the rank 0."""
    best = np.zeros(rows)
    for column in columns:
        ranks = [_rank(query, value) for value in column]
        best = np.maximum(best, np.array(ranks, dtype=np.float64))
    return best


def _rank(query: frozenset[str], value: Any) -> float:
    return text_rank(query, value) if isinstance(value, str) else 0.0
