"""Recall, distributions and same space against loops that are slow and plain to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array

from provender.plugin.errors import TrainingError
from provender.producers.linksage.quality import Quality, judge
from provender.producers.linksage.score_figures import (
    EDGES,
    Distribution,
    drawn_negatives,
    kurtosis,
    pairs_among,
)
from provender.producers.pin_ranking import (
    Pairs,
    as_matrix,
    cosines,
    first,
    inner_products,
    popularity,
    rank,
)

Cells = set[tuple[int, int]]


def rows_of(cells: Cells) -> Pairs:
    return Pairs(*np.array(sorted(cells), np.int64).reshape(-1, 2).T)


def slow_chance(scores: list[float], pin: int, out: set[int], k: int) -> float:
    """Of a pin being among the first k where the other pins that count are not in `out`."""
    above = level = 0
    for other, score in enumerate(scores):
        if other == pin or other in out:
            continue
        above += score > scores[pin]
        level += score == scores[pin]
    places = [above + ties for ties in range(level + 1)]
    return sum(place < k for place in places) / len(places)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Cells, Cells]:
    """Small whole numbers, so that scores are often equal; disjoint test and known pairs."""
    pages, pins, dim = draw(st.integers(1, 5)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    cells = [(page, pin) for page in range(pages) for pin in range(pins)]
    kind = rng.integers(0, 3, len(cells))
    kind[rng.integers(len(cells))] = 1
    test = {cell for cell, one in zip(cells, kind, strict=True) if one == 1}
    known = {cell for cell, one in zip(cells, kind, strict=True) if one == 2}
    vectors = (rng.integers(-1, 2, (rows, dim)).astype(np.float32) for rows in (pages, pins))
    return (*vectors, test, known)  # type: ignore[return-value]


@given(worlds(), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_recall_is_that_of_a_loop(world: Any, k: int) -> None:
    pages, pins, test, known = world
    scorer = inner_products(pages, pins)
    pairs = rows_of(test)
    found = rank(scorer, pairs, as_matrix(rows_of(known), len(pages), len(pins))).hits(k)
    scores = (pages @ pins.T).tolist()
    wanted = [
        slow_chance(scores[page], pin, {b for a, b in test | known if a == page}, k)
        for page, pin in sorted(test)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@given(worlds(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_first_pins_are_those_of_a_sort(world: Any, k: int) -> None:
    pages, pins, _, known = world
    left_out = as_matrix(rows_of(known), len(pages), len(pins))
    found = first(inner_products(pages, pins), np.arange(len(pages)), k, left_out)
    for page, (rows, scores) in enumerate(found):
        open_pins = [pin for pin in range(len(pins)) if (page, pin) not in known]
        wanted = sorted(open_pins, key=lambda pin: (-float(pages[page] @ pins[pin]), pin))[:k]
        assert rows.tolist() == wanted
        np.testing.assert_allclose(scores, [pages[page] @ pins[pin] for pin in wanted])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pages, pins = rng.normal(size=(30, 8)).astype("f4"), rng.normal(size=(40, 8)).astype("f4")
    test = Pairs(rng.integers(0, 30, 70), rng.integers(0, 40, 70))
    nothing = as_matrix(Pairs(*np.zeros((2, 0), np.int64)), 30, 40)
    whole = rank(cosines(pages, pins), test, nothing)
    monkeypatch.setattr("provender.producers.pin_ranking._BLOCK", 100)
    parts = rank(cosines(pages, pins), test, nothing)
    assert whole.above.tolist() == parts.above.tolist()


def test_sparse_products_are_those_of_dense_ones() -> None:
    rng = np.random.default_rng(0)
    pages, pins = rng.integers(0, 2, (5, 9)).astype("f4"), rng.integers(0, 2, (7, 9)).astype("f4")
    rows = np.array([3, 0])
    sparse = inner_products(csr_array(pages), csr_array(pins))(rows)
    assert sparse.tolist() == inner_products(pages, pins)(rows).tolist()


def test_popularity_counts_known_pairs() -> None:
    known = Pairs(np.array([0, 1, 2, 0]), np.array([2, 2, 2, 0]))
    assert popularity(known, 4)(np.array([1, 0])).tolist() == [[1, 0, 3, 0]] * 2


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=60))
@settings(max_examples=80, deadline=None)
def test_kurtosis_is_scipy_s(values: list[float]) -> None:
    found = kurtosis(np.array(values))
    if np.std(values) > 1e-6:
        assert found == pytest.approx(stats.kurtosis(values, fisher=False), rel=1e-6)
    elif len(set(values)) == 1:
        assert found is None


@pytest.mark.parametrize(
    ("values", "wanted"), [([-1.0, 1.0], 1.0), ([0, 0, 0, 1, 0, 0, 0, -1], 4.0), ([0.3] * 9, None)]
)
def test_kurtosis_of_known_shapes(values: list[float], wanted: float | None) -> None:
    assert kurtosis(np.array(values)) == (None if wanted is None else pytest.approx(wanted))


@given(st.lists(st.floats(-1.25, 1.25, width=32), min_size=1, max_size=50))
@settings(max_examples=80, deadline=None)
def test_a_histogram_is_that_of_a_loop(values: list[float]) -> None:
    found = Distribution.of(np.array(values, np.float32))
    assert found is not None
    counts = [0] * 80
    for value in values:
        value = min(1.0, max(-1.0, value))
        place = next(place for place in range(80) if value < EDGES[place + 1] or place == 79)
        counts[place] += 1
    assert list(found.counts) == counts
    assert found.below == sum(value < 0.25 for value in values) / len(values)
    assert found.count == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-6)
    at = 0.95 * (len(values) - 1)
    low, high = (sorted(values)[int(end)] for end in (np.floor(at), np.ceil(at)))
    assert found.quantiles[5] == pytest.approx(low + (high - low) * (at % 1), abs=1e-6)


def test_pairs_are_all_there_are_or_a_draw_without_a_row_and_itself() -> None:
    assert sorted(zip(*map(np.ndarray.tolist, pairs_among(5, 10, 0)), strict=True)) == list(
        combinations(range(5), 2)
    )
    low, high = pairs_among(5, 9, 0)
    assert len(low) == 9
    low, high = pairs_among(100, 4000, 3)
    assert (low != high).all()
    assert max(low.max(), high.max()) == 99
    assert pairs_among(100, 4000, 3).pins.tolist() == high.tolist()
    assert len(pairs_among(1, 10, 0).rows) == 0


def test_negatives_are_no_positives() -> None:
    positives = rows_of({(0, pin) for pin in range(9)} | {(2, 3)})
    found = drawn_negatives(np.array([0, 0, 2]), as_matrix(positives, 3, 10), 3000, 0)
    drawn = set(zip(found.rows.tolist(), found.pins.tolist(), strict=True))
    assert drawn == {(0, 9)} | {(2, pin) for pin in range(10) if pin != 3}
    assert 600 < (found.rows == 2).sum() < 1200


def planted(seed: int = 0, noise: float = 0.05) -> dict[str, Any]:
    """Pages near to their pins by the first 4 of 8 columns; two pins a page, one held out."""
    rng = np.random.default_rng(seed)
    pages = rng.normal(size=(50, 8)).astype(np.float32)
    pins = np.repeat(pages, 2, axis=0) + noise * rng.normal(size=(100, 8)).astype(np.float32)
    every = np.arange(50)
    return {
        "pages": pages,
        "pins": pins.astype(np.float32),
        "test": (every, 2 * every),
        "known": (every, 2 * every + 1),
        "dims": (2, 4),
    }


def test_planted_pairs_are_found() -> None:
    world = planted()
    scorers = {"popularity": popularity(Pairs(*world["known"]), 100)}
    found = judge(**world, baselines=scorers, ks=(1, 10))
    assert found.dims == (2, 4, 8)
    assert found.recall[8][1] == 1
    assert found.recall[2][1] < found.recall[4][1] <= 1
    assert found.loss(8, 1) == 0
    assert found.loss(2, 1) == pytest.approx(1 - found.recall[2][1])
    # Of 99 candidates, the known pin being none.
    assert found.baselines["random"] == pytest.approx({1: 1 / 99, 10: 10 / 99})
    # All held-out pins have no known pair, 49 other pins have one.
    assert found.baselines["popularity"] == {1: 0, 10: 0}
    assert found.same_space.own > 0.99
    assert found.same_space.nearer == 1
    assert found.same_space.gap < 0.1
    assert found.candidates == 100
    assert found.notes == {"test_pairs": 50, "known_too": 0}


def test_figures_are_those_of_the_vectors() -> None:
    world = planted(noise=1.0)
    found = judge(**world)
    pages, pins = (
        world[name] / np.linalg.norm(world[name], axis=1)[:, None] for name in ("pages", "pins")
    )
    own = [float(pages[a] @ pins[b]) for a, b in zip(*world["test"], strict=True)]
    assert found.positives.mean == found.same_space.own == pytest.approx(np.mean(own), abs=1e-6)
    among = [float(pages[a] @ pages[b]) for a, b in combinations(range(50), 2)]
    assert found.kurtosis[8] == pytest.approx(stats.kurtosis(among, fisher=False), rel=1e-5)
    assert found.pairwise is not None
    assert found.pairwise.count == len(among)
    short = world["pages"][:, :4] / np.linalg.norm(world["pages"][:, :4], axis=1)[:, None]
    among = [float(short[a] @ short[b]) for a, b in combinations(range(50), 2)]
    assert found.kurtosis[4] == pytest.approx(stats.kurtosis(among, fisher=False), rel=1e-5)
    apart = [float(pages[a] @ pins[b]) for a in range(50) for b in range(100) if b // 2 != a]
    assert found.negatives is not None
    assert found.negatives.mean == pytest.approx(np.mean(apart), abs=5e-3)
    assert found.negatives.below == pytest.approx(np.mean(np.array(apart) < 0.25), abs=5e-3)
    assert found.negatives_below[8] == found.negatives.below
    gap = np.linalg.norm(pages.mean(axis=0) - pins.mean(axis=0))
    assert found.same_space.gap == pytest.approx(gap, rel=1e-4)


def test_known_pairs_are_not_asked_and_pairs_are_asked_once() -> None:
    world = planted()
    pages, pins = world["test"]
    extra = [np.concatenate([pages, [0, 1]]), np.concatenate([pins, [0, 3]])]
    found = judge(**{**world, "test": tuple(extra)})
    assert found.pairs == 50
    assert found.notes["known_too"] == 1
    assert found.recall == judge(**world).recall
    with pytest.raises(TrainingError, match="50, all of them known"):
        judge(**{**world, "known": world["test"]})


def test_a_sample_of_the_test_pairs() -> None:
    found = judge(**planted(), most=20)
    assert (found.pairs, found.notes["test_pairs"]) == (20, 50)
    assert judge(**planted(), most=20).to_json() == found.to_json()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"pages": np.full((50, 8), np.nan, np.float32)}, "vectors of pages: found some that"),
        ({"pins": np.zeros((100, 7), np.float32)}, "lengths 8 and 7"),
    ],
)
def test_vectors_that_can_t_be_judged(changed: Mapping[str, Any], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        judge(**{**planted(), **changed})


def test_the_json_is_strict_and_has_what_gates_read() -> None:
    found: Quality = judge(
        **planted(), baselines={"popularity": lambda rows: np.zeros((len(rows), 100), np.float32)}
    )
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["metrics"]["quality"] == told["dims"]["8"]["recall@100"]
    assert told["metrics"]["quality_popularity"] == told["baselines"]["popularity"]["recall@100"]
    assert told["metrics"]["recall@10_4"] == told["dims"]["4"]["recall@10"]
    assert told["scores"]["negatives"]["below_0.25"] == told["metrics"]["negatives_below_0.25"]
    assert sum(told["scores"]["positives"]["histogram"]["counts"]) == 50


def test_two_pages_and_one_pin_have_no_negatives() -> None:
    ones = np.ones((2, 3), np.float32)
    found = judge(ones, ones[:1], (np.array([0, 1]), np.array([0, 0])), ([], []), ())  # type: ignore[arg-type]
    assert found.negatives is None
    assert found.same_space.nearer is None
    assert found.kurtosis == {3: None}
    json.dumps(found.to_json(), allow_nan=False)
