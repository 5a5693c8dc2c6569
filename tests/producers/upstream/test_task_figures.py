"""Figures by task: what they are beside slow loops and scikit-learn, and where there are none."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from provender.producers.upstream.task_figures import (
    Floats,
    TaskFigures,
    auc,
    probability_figures,
    ranking_figures,
)

#: (label, score, weight), scores often alike.
ROWS = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(0, 8).map(lambda n: n / 8), st.sampled_from([0.5, 1, 2, 3])
    ),
    min_size=1,
    max_size=40,
)


def columns(rows: list[tuple[int, float, float]]) -> tuple[Floats, Floats, Floats]:
    labels, scores, weight = np.array(rows, np.float64).T
    return labels, scores, weight


def slow_auc(labels: Floats, scores: Floats, weight: Floats) -> float | None:
    """Over all pairs of a positive and a negative: which is higher, halves where they are level."""
    won = total = 0.0
    for i, positive in enumerate(labels):
        for j, negative in enumerate(labels):
            if positive == 1 and negative == 0:
                pair = weight[i] * weight[j]
                total += pair
                won += pair * (1.0 if scores[i] > scores[j] else 0.5 * (scores[i] == scores[j]))
    return won / total if total else None


@given(ROWS)
def test_the_auc_is_that_of_all_pairs(rows: list[tuple[int, float, float]]) -> None:
    found, wanted = auc(*columns(rows)), slow_auc(*columns(rows))
    if wanted is None:
        assert found is None
    else:
        assert found == pytest.approx(wanted)


@given(ROWS)
def test_ranking_tells_of_order_alone(rows: list[tuple[int, float, float]]) -> None:
    labels, scores, weight = columns(rows)
    found = ranking_figures(labels, scores, weight)
    assert found == TaskFigures(len(rows), int(sum(labels)), auc(labels, scores, weight))
    assert ranking_figures(labels, np.exp(3 * scores) - 9, weight) == found


@given(ROWS)
def test_probabilities_by_loops(rows: list[tuple[int, float, float]]) -> None:
    labels, predicted, weight = columns(rows)
    found = probability_figures(labels, predicted, weight)
    total = sum(weight)
    losses = (
        w * -math.log(min(max(p if y else 1 - p, 1e-7), 1 - 1e-7))
        for y, p, w in zip(labels, predicted, weight, strict=True)
    )
    assert found.log_loss == pytest.approx(sum(losses) / total)
    expected = sum(w * p for p, w in zip(predicted, weight, strict=True))
    observed = sum(w for y, w in zip(labels, weight, strict=True) if y)
    assert found.calibration == (pytest.approx(expected / observed) if observed else None)
    assert (found.rows, found.positives) == (len(rows), sum(labels))
    assert found.auc == auc(labels, predicted, weight)


@given(ROWS)
def test_bins_divide_the_rows_by_prediction(rows: list[tuple[int, float, float]]) -> None:
    labels, predicted, weight = columns(rows)
    bins = probability_figures(labels, predicted, weight).bins
    assert 1 <= len(bins) <= 10
    total = weight.sum()
    assert sum(one.weight for one in bins) == pytest.approx(total)
    assert sum(one.weight * one.predicted for one in bins) == pytest.approx(weight @ predicted)
    assert sum(one.weight * one.observed for one in bins) == pytest.approx(weight @ labels)
    means = [one.predicted for one in bins]
    assert all(low <= high + 1e-12 for low, high in pairwise(means))
    # No bin is larger than a tenth by more than the row that crosses its edge.
    assert all(one.weight <= total / 10 + weight.max() + 1e-9 for one in bins)


def test_bins_are_tenths() -> None:
    """Rows by hand: 30, in any order, of weight 2; the k-th bin has predictions 3k to 3k + 2."""
    order = np.random.default_rng(0).permutation(30)
    predicted, labels = order / 30.0, (order % 3 == 0).astype(float)
    bins = probability_figures(labels, predicted, np.full(30, 2.0)).bins
    for place, one in enumerate(bins):
        assert one.weight == pytest.approx(6)
        assert one.predicted == pytest.approx((3 * place + 1) / 30)
        assert one.observed == pytest.approx(1 / 3)
    assert len(bins) == 10


def test_bins_of_short_numbers_are_tenths_too() -> None:
    predicted = (np.arange(1_000) / 1_000).astype(np.float32)
    labels = (np.arange(1_000) % 2).astype(np.float32)
    bins = probability_figures(labels, predicted, np.ones(1_000, np.float32)).bins
    assert [one.weight for one in bins] == [100.0] * 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_scikit_learn_has_it(dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(1)
    predicted = rng.random(5_000).astype(dtype)
    labels = (rng.random(5_000) < predicted).astype(dtype)
    weight = rng.choice([1, 5], 5_000).astype(dtype)
    found = probability_figures(labels, predicted, weight)
    wanted = log_loss(labels, predicted.astype(np.float64), sample_weight=weight)
    assert found.log_loss == pytest.approx(wanted, rel=1e-5)
    assert found.calibration == pytest.approx(1, abs=0.06)
    assert all(one.observed == pytest.approx(one.predicted, abs=0.08) for one in found.bins)


def test_weights_are_as_many_rows() -> None:
    rng = np.random.default_rng(2)
    predicted, labels = rng.random(50), (rng.random(50) < 0.4).astype(float)
    times = rng.integers(1, 5, 50)
    weighed = probability_figures(labels, predicted, times.astype(float))
    repeated = probability_figures(
        labels.repeat(times), predicted.repeat(times), np.ones(times.sum())
    )
    assert weighed.rows == 50
    assert weighed.auc == pytest.approx(repeated.auc)
    assert weighed.log_loss == pytest.approx(repeated.log_loss)
    assert weighed.calibration == pytest.approx(repeated.calibration)


def test_certain_and_wrong_is_finite() -> None:
    found = probability_figures(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.ones(2))
    assert found.log_loss == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert found.auc == 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_kind(label: float) -> None:
    found = probability_figures(np.full(3, label), np.array([0.2, 0.4, 0.9]), np.ones(3))
    assert found.auc is None
    assert found.calibration == (pytest.approx(0.5) if label else None)
    assert found.log_loss is not None
    assert len(found.bins) == 3


def test_no_rows() -> None:
    none = np.empty(0)
    assert probability_figures(none, none, none) == TaskFigures(0, 0, None)
    assert ranking_figures(none, none, none) == TaskFigures(0, 0, None)


def test_plain_values() -> None:
    found = probability_figures(np.array([0.0, 1.0]), np.array([0.25, 0.75]), np.ones(2)).to_json()
    assert found["bins"] == (
        {"weight": 1.0, "predicted": 0.25, "observed": 0.0},
        {"weight": 1.0, "predicted": 0.75, "observed": 1.0},
    )
    assert (found["rows"], found["positives"], found["auc"], found["calibration"]) == (2, 1, 1, 1)
