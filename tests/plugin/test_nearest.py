from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from provender.plugin.errors import FetchError
from provender.plugin.nearest import Chunk, metric_of, nearest, nearest_batch

Formula = Callable[[np.ndarray, np.ndarray], float]


def cosine(q: np.ndarray, v: np.ndarray) -> float:
    norms = math.sqrt(float((v * v).sum())) * math.sqrt(float(q @ q))
    return 1 - min(max(float((v * q).sum()) / norms, -1), 1) if norms else 1.0


FORMULAS: dict[str, Formula] = {
    "l2": lambda q, v: math.sqrt(float(((v - q) ** 2).sum())),
    "l1": lambda q, v: float(np.abs(v - q).sum()),
    "inner_product": lambda q, v: 0.0 - float((v * q).sum()),
    "cosine": cosine,
}


def by_hand(
    query: np.ndarray, keys: Sequence[Any], vectors: np.ndarray, k: int, metric: str
) -> tuple[list[Any], list[float]]:
    """Every distance in float64, one pair after the other, then all of them sorted."""
    rows = np.asarray(vectors, dtype=np.float64)
    pairs = [(FORMULAS[metric](query, v), key) for v, key in zip(rows, keys, strict=True)]
    best = sorted(pairs)[:k]
    return [key for _, key in best], [distance for distance, _ in best]


def cut(keys: Any, vectors: np.ndarray, places: Sequence[int]) -> list[Chunk]:
    bounds = [0, *sorted(places), len(keys)]
    return [(keys[a:b], vectors[a:b]) for a, b in pairwise(bounds)]


#: Few distinct numbers give many ties; sizes far apart break bounds that are relative to nothing.
few = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0])
wild = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60
)
tiny = st.sampled_from([0.0, 2.0**-100, -(2.0**-100), 2.0**-60, 2.0**60, 1.0])


@settings(max_examples=300)
@given(st.data(), st.sampled_from(sorted(FORMULAS)), st.sampled_from([few, wild, tiny]))
def test_equals_sorting_every_distance(
    data: st.DataObject, metric: str, floats: st.SearchStrategy[float]
) -> None:
    rows, dim = data.draw(st.integers(0, 30)), data.draw(st.integers(1, 6))
    vectors = data.draw(arrays(np.float32, (rows, dim), elements=floats))
    queries = data.draw(arrays(np.float64, (data.draw(st.integers(1, 3)), dim), elements=floats))
    keys: list[Any] = data.draw(st.permutations(range(rows)))
    if data.draw(st.booleans()):
        keys = [f"key {key}" for key in keys]
    k = data.draw(st.integers(1, 8))
    chunks = cut(keys, vectors, data.draw(st.lists(st.integers(0, rows), max_size=3)))
    for query, found in zip(queries, nearest_batch(queries, chunks, k, metric), strict=True):
        expected_keys, expected = by_hand(query, keys, vectors, k, metric)
        assert found.distances.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert found.keys == expected_keys or found.distances.tolist() != expected


@pytest.mark.parametrize("metric", sorted(FORMULAS))
@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_equals_sorting_every_distance_of_many(metric: str, spread: float) -> None:
    """At a spread of 1e-5 around a point, float32 scores alone order most rows wrongly."""
    rng = np.random.default_rng(3)
    center = rng.standard_normal(96)
    vectors = (center + spread * rng.standard_normal((5000, 96))).astype(np.float32)
    queries = center + spread * rng.standard_normal((70, 96))
    keys = rng.permutation(5000)
    found = nearest_batch(queries, cut(keys, vectors, [2000, 2001, 4000]), 50, metric)
    for query, each in list(zip(queries, found, strict=True))[::10]:
        expected_keys, expected = by_hand(query, keys.tolist(), vectors, 50, metric)
        assert each.keys == expected_keys
        np.testing.assert_allclose(each.distances, expected, rtol=1e-9, atol=1e-13)


def test_the_distances_are_those_of_pgvector() -> None:
    """select '[1,2,3]' <-> '[4,6,3]', <=>, <#>, <+>."""
    chunk = ([7], np.array([[4, 6, 3]], dtype=np.float32))
    expected = {"L2": 5.0, "cosine": 1 - 25 / math.sqrt(14 * 61), "inner_product": -25, "L1": 7.0}
    for metric, distance in expected.items():
        found = nearest([1, 2, 3], [chunk], 3, metric)
        assert found.keys == [7]
        assert found.distances.tolist() == pytest.approx([distance], rel=1e-15)


def test_ties_are_ordered_by_key_whatever_the_chunks() -> None:
    vectors = np.ones((6, 3), dtype=np.float32)
    keys = ["f", "ä", "b", "Z", "e", "日"]
    for places in ([], [1], [2, 4], [1, 2, 3, 4, 5]):
        for metric in FORMULAS:
            found = nearest(np.ones(3), cut(keys, vectors, places), 4, metric)
            assert found.keys == sorted(keys, key=str.encode)[:4]
            assert len(set(found.distances.tolist())) == 1


def test_a_zero_vector_is_at_right_angles_to_all() -> None:
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 0]], dtype=np.float32)
    found = nearest([2, 0], [(np.arange(4), vectors)], 4, "cosine")
    assert found.keys == [1, 0, 3, 2]
    assert found.distances.tolist() == [0, 1, 1, 2]
    found = nearest([0, 0], [(np.arange(4), vectors)], 3, "cosine")
    assert (found.keys, found.distances.tolist()) == ([0, 1, 2], [1, 1, 1])


@pytest.mark.parametrize("metric", sorted(FORMULAS))
def test_a_vector_with_a_nan_is_last(metric: str) -> None:
    vectors = np.array([[np.nan, 1], [1, 1], [5, 5]], dtype=np.float32)
    chunks = cut(np.array([1, 2, 3]), vectors, [1])
    assert sorted(nearest([1, 1], chunks, 2, metric).keys) == [2, 3]
    last = nearest([1, 1], chunks, 3, metric)
    assert last.keys[2] == 1
    assert np.isnan(last.distances[2])


def test_keys_may_be_an_arrow_array() -> None:
    chunk = (pa.array(["a", "b"]), np.eye(2, dtype=np.float32))
    assert nearest([0, 1], [chunk], 1).keys == ["b"]


@pytest.mark.parametrize("name", [None, "L2", "l2", "EUCLIDEAN", "l2_norm"])
def test_the_names_of_feasts_stores(name: str | None) -> None:
    assert metric_of(name) == "l2"
    assert metric_of("COSINE") == "cosine"
    for other in ("inner_product", "IP", "dot", "DOT_PRODUCT"):
        assert metric_of(other) == "inner_product"


@pytest.mark.parametrize(
    ("query", "k", "metric", "says"),
    [
        ([1.0, 2.0], 0, "l2", "found k = 0; expected at least 1"),
        ([1.0, 2.0], 1, "hamming", "expected one of l2, cosine, inner_product, l1"),
        ([1.0, np.nan], 1, "l2", "expected finite floats"),
        ([1.0], 1, "l2", "found a query of 1 floats; expected 2"),
    ],
)
def test_what_can_not_be_is_refused(query: list[float], k: int, metric: str, says: str) -> None:
    with pytest.raises(FetchError, match=says):
        nearest(query, [([1], np.ones((1, 2), np.float32))], k, metric)


def test_no_rows_no_neighbours() -> None:
    found = nearest([1.0, 2.0], [], 5)
    assert (found.keys, found.distances.tolist()) == ([], [])
    assert nearest_batch(np.zeros((0, 2)), [([1], np.ones((1, 2), np.float32))], 5) == []
