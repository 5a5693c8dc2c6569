from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.consumers.delayed_feedback import LEAST_SEEN, DelayDistribution

HOUR = 3_600_000_000


@given(
    st.lists(st.integers(0, 50), max_size=20),
    st.integers(0, 60),
    st.lists(st.tuples(st.booleans(), st.integers(-5, 60)), min_size=1, max_size=10),
)
def test_weights_are_those_of_the_formula(
    delays: list[int], negatives: int, rows: list[tuple[bool, int]]
) -> None:
    known = DelayDistribution.of(np.array(delays, np.int64), len(delays) + negatives)
    labels = np.array([row[0] for row in rows])
    found = known.weights(labels, np.array([row[1] for row in rows]))
    for weight, (label, elapsed) in zip(found, rows, strict=True):
        seen = sum(delay < elapsed for delay in delays) / len(delays) if delays else 0.0
        rate = len(delays) / (len(delays) + negatives) if delays else 0.0
        if seen < LEAST_SEEN:
            expected = 0.0
        elif label:
            expected = 1 / seen
        else:
            unseen = 1 - rate * seen
            expected = 1 - rate * (1 - seen) / unseen if unseen else 0.0
        assert weight == pytest.approx(expected, abs=1e-9)


def test_weighted_labels_are_unbiased_and_what_was_seen_is_not() -> None:
    random = np.random.default_rng(3)
    rows, rate, mean = 400_000, 0.08, 30 * HOUR
    elapsed = random.integers(0, 72 * HOUR, rows)
    truth = random.random(rows) < rate
    delay = random.exponential(mean, rows).astype(np.int64)
    seen = truth & (delay < elapsed)
    # The mature rows are others than those that are weighed.
    older = random.exponential(mean, int(rows * rate)).astype(np.int64)
    weights = DelayDistribution.of(older, rows).weights(seen, elapsed)
    known = weights > 0
    estimate = np.average(seen, weights=weights)
    error = 4 * np.sqrt(rate / known.sum()) * np.sqrt((weights[seen] ** 2).mean())
    assert abs(estimate - truth[known].mean()) < error
    assert weights[known].mean() == pytest.approx(1, abs=error)
    assert seen[known].mean() < rate - 3 * error


def test_every_loss_is_unbiased_at_every_age() -> None:
    random = np.random.default_rng(4)
    rate, delays = 0.3, random.exponential(10 * HOUR, 20_000).astype(np.int64)
    known = DelayDistribution.of(delays, round(len(delays) / rate))
    for hours in (4, 10, 40):
        seen = (delays < hours * HOUR).mean()
        positive, negative = known.weights(np.array([True, False]), np.full(2, hours * HOUR))
        for one, zero in ((1.0, 0.0), (0.3, 2.0)):
            expected = known.rate * one + (1 - known.rate) * zero
            share = known.rate * seen
            assert share * positive * one + (1 - share) * negative * zero == pytest.approx(expected)


def test_without_a_mature_positive_young_rows_are_not_known() -> None:
    nothing = DelayDistribution.of(np.array([], np.int64), 0)
    assert nothing.weights(np.array([True, False]), np.array([HOUR, HOUR])).tolist() == [0, 0]
