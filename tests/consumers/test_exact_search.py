from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.consumers.exact_search import NONE, ExactSearch
from provender.plugin.errors import FetchError
from provender.plugin.nearest import Metric, nearest_batch

METRICS: list[Metric] = ["inner_product", "cosine", "l2", "l1"]


def oracle(vectors: Any, query: Any, k: int, metric: str) -> list[int]:
    """All distances in float64, one at a time; equals by place."""
    rows, one = vectors.astype(np.float64), np.asarray(query, np.float64)
    far = []
    for row in rows:
        if metric == "l2":
            far.append(float(np.sqrt(((row - one) ** 2).sum())))
        elif metric == "l1":
            far.append(float(np.abs(row - one).sum()))
        else:
            product = float((row * one).sum())
            length = float(np.sqrt((row * row).sum()) * np.sqrt((one * one).sum()))
            cosine = product / length if length else 0.0
            far.append(1 - min(max(cosine, -1), 1) if metric == "cosine" else -product)
    return sorted(range(len(rows)), key=lambda place: (far[place], place))[:k]


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_table_equals_a_search_in_float64(metric: Metric, data: st.DataObject) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, dim = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
    vectors = generator.standard_normal((count, dim)).astype(np.float32)
    if data.draw(st.booleans(), label="few distinct"):
        vectors = vectors[generator.integers(0, max(1, count // 4), count)]
    if data.draw(st.booleans(), label="some zero"):
        vectors[generator.random(count) < 0.3] = 0
    vectors *= np.float32(data.draw(st.sampled_from([1.0, 1e-3, 1e4])))
    queries = generator.standard_normal((5, dim))
    queries[0] = vectors[0]
    k = data.draw(st.integers(1, count + 3))
    found = ExactSearch(vectors, metric).search(queries, k)
    assert found.rows.tolist() == [oracle(vectors, each, k, metric) for each in queries]


@pytest.mark.parametrize("metric", METRICS[:3])
def test_a_table_of_several_blocks_equals_the_search_in_chunks(metric: Metric) -> None:
    """Rows beyond the sample, queries beyond a block, and many that are nearly equal."""
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((20_000, 12)).astype(np.float32)
    vectors[9_000:12_000] = vectors[0] * (1 + 1e-7 * generator.standard_normal((3_000, 1)))
    vectors[15_000:15_300] = vectors[1]
    queries = np.concatenate([vectors[:3], generator.standard_normal((140, 12))])
    found = ExactSearch(vectors, metric).search(queries, 200)
    expected = nearest_batch(queries, [(np.arange(20_000), vectors)], 200, metric)
    assert found.rows.tolist() == [each.keys for each in expected]
    assert found.distances.tolist() == [each.distances.tolist() for each in expected]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_vectors_beyond_float32_squares_are_right_too(scale: float) -> None:
    generator = np.random.default_rng(4)
    vectors = (generator.standard_normal((50, 3)) * scale).astype(np.float32)
    queries = generator.standard_normal((4, 3))
    for metric in METRICS:
        found = ExactSearch(vectors, metric).search(queries, 5)
        expected = nearest_batch(queries, [(np.arange(50), vectors)], 5, metric)
        assert found.rows.tolist() == [each.keys for each in expected]


def test_a_query_of_zeros_orders_by_place() -> None:
    vectors = np.random.default_rng(5).standard_normal((20, 3)).astype(np.float32)
    for metric in ("inner_product", "cosine"):
        assert ExactSearch(vectors, metric).search(np.zeros((1, 3)), 4).rows.tolist() == [
            [0, 1, 2, 3]
        ]


def test_candidates_that_are_too_many_are_dropped_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provender.consumers.exact_search._HELD", 1)
    monkeypatch.setattr("provender.consumers.exact_search._ROWS", 512)
    monkeypatch.setattr("provender.consumers.exact_search._SAMPLE", 16)
    generator = np.random.default_rng(6)
    vectors = generator.standard_normal((9_000, 4)).astype(np.float32)
    queries = generator.standard_normal((6, 4))
    found = ExactSearch(vectors, "inner_product").search(queries, 30)
    expected = nearest_batch(queries, [(np.arange(9_000), vectors)], 30, "inner_product")
    assert found.rows.tolist() == [each.keys for each in expected]


def test_nothing_to_search_finds_nothing() -> None:
    search = ExactSearch(np.empty((0, 3), np.float32), "l2")
    assert search.search(np.zeros((2, 3)), 4).rows.shape == (2, 0)
    two = ExactSearch(np.eye(3, dtype=np.float32)[:2], "l2")
    assert two.search(np.zeros((0, 3)), 4).rows.shape == (0, 2)
    assert NONE not in two.search(np.zeros((1, 3)), 9).rows


@pytest.mark.parametrize(
    ("queries", "k"), [(np.zeros((1, 3)), 0), (np.zeros((1, 4)), 1), ([[np.nan] * 3], 1)]
)
def test_what_cannot_be_searched_is_refused(queries: Any, k: int) -> None:
    search = ExactSearch(np.ones((2, 3), np.float32), "l2")
    with pytest.raises(FetchError, match="nearest vectors: found"):
        search.search(queries, k)
