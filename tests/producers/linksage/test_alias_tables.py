"""Alias tables give each place the share of its weight, to the last bit that they hold."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from provender.producers.linksage.alias_tables import UNIT, alias_tables

WEIGHTS = st.one_of(st.floats(2.0**-20, 2.0**20, width=32), st.integers(1, 5).map(float))
ROWS = st.lists(st.lists(WEIGHTS, max_size=12), min_size=1, max_size=6)


@given(ROWS)
@example([[3, 1, 3, 5]])  # the rest of the rounding makes one mean weight more than its equal
@example([[0.5, 0.5, 1, 1]])  # a heavy place is used up without a rest
def test_shares(rows: list[list[float]]) -> None:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    weights = np.array([weight for row in rows for weight in row], np.float32)
    keep, alias = alias_tables(offsets, weights)
    assert keep.dtype == np.int32
    assert ((keep >= 0) & (keep <= UNIT)).all()
    for first, row in zip(offsets.tolist(), rows, strict=False):
        chance = [Fraction(0)] * len(row)
        for place in range(len(row)):
            here, other = int(keep[first + place]), int(alias[first + place]) - first
            chance[place] += Fraction(here, UNIT * len(row))
            chance[other] += Fraction(UNIT - here, UNIT * len(row))
        assert sum(chance) == (1 if row else 0)
        total = sum(Fraction(weight) for weight in row)
        for found, weight in zip(chance, row, strict=True):
            assert abs(found - Fraction(weight) / total) <= Fraction(3, 2 * UNIT * len(row))


@given(ROWS, ROWS)
def test_a_row_does_not_depend_on_the_others(
    rows: list[list[float]], more: list[list[float]]
) -> None:
    def tables(given: list[list[float]]) -> list[list[tuple[int, int]]]:
        offsets = np.cumsum([0, *map(len, given)]).astype(np.int64)
        keep, alias = alias_tables(offsets, np.array([w for row in given for w in row], np.float32))
        return [
            [(int(keep[p]), int(alias[p]) - first) for p in range(first, end)]
            for first, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]

    assert tables(more + rows)[len(more) :] == tables(rows)
