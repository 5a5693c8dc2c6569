from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from provender.consumers.metrics import (
    auc,
    calibration,
    log_loss,
    paired_interval,
    t_quantile,
    task_metrics,
)
from provender.plugin.errors import TrainingError

#: Coarse scores, so that ties are common.
PAIRS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda n: n / 8)), min_size=1, max_size=40
)


def test_auc_by_hand_counts_a_tie_as_half() -> None:
    # Pairs (positive, negative): .8>.1, .8>.5, .5>.1, .5=.5 -> 3.5 of 4.
    assert auc([1, 1, 0, 0], [0.8, 0.5, 0.1, 0.5]) == 3.5 / 4


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, float]]) -> None:
    positives = [score for label, score in pairs if label]
    negatives = [score for label, score in pairs if not label]
    found = auc(*zip(*pairs, strict=True))
    if not positives or not negatives:
        assert math.isnan(found)
        return
    won = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(won / (len(positives) * len(negatives)), abs=1e-12)


def test_metrics_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    scores = np.round(generator.random(500) * 0.98 + 0.01, 2)
    assert auc(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    assert log_loss(labels, scores) == pytest.approx(sklearn.metrics.log_loss(labels, scores))


def test_log_loss_and_calibration_by_hand() -> None:
    assert log_loss([1, 0], [0.25, 0.5]) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert calibration([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 1.0
    assert calibration([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]) == 2.0
    assert math.isfinite(log_loss([1, 0], [0.0, 1.0]))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0], "no positives"), ([1, 1], "no negatives"), ([], "no rows")],
)
def test_an_absent_class_gives_null_and_the_reason(labels: list[int], reason: str) -> None:
    found = task_metrics(labels, [0.5] * len(labels))
    assert found.auc is None
    assert found.reason == f"AUC is undefined with {reason}"
    assert "NaN" not in found.model_dump_json()


@pytest.mark.parametrize(
    ("labels", "scores"), [([1, 0], [0.5]), ([2, 0], [0.5, 0.5]), ([1, 0], [math.nan, 0.5])]
)
def test_what_can_not_be_measured_is_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(TrainingError):
        auc(labels, scores)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 100])
def test_t_quantile_agrees_with_scipy(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-6)


def test_paired_interval_agrees_with_scipy() -> None:
    values = [0.01, 0.012, 0.008, 0.011, 0.0095]
    found = paired_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.excludes_zero
    assert not paired_interval([-1.0, 1.0]).excludes_zero


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = paired_interval([0.5])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert not found.excludes_zero
