from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from provender.consumers.ranking_request import Scored
from provender.consumers.shadow import Histogram, ShadowLog, spearman, top_overlap

Pair = tuple[Scored, Scored]


def scored(clicks: list[float], version: int = 1, missing: int = 0, ms: float = 1.0) -> Scored:
    return Scored(
        clicks=torch.tensor(clicks, dtype=torch.float64),
        missing={f"pin_v{version}": missing},
        versions={"tests": version},
        fetch_seconds=ms / 2000,
        score_seconds=ms / 2000,
    )


def some_requests(count: int = 200, seed: int = 0) -> list[Pair]:
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        ours = generator.beta(1, 30, size=int(generator.integers(0, 40))).round(3)
        theirs = np.clip(ours + generator.normal(0, 0.01, size=len(ours)), 0, 1)
        took = generator.lognormal(1, 0.5, size=2)
        pairs.append(
            (
                scored(ours.tolist(), 1, number % 3, float(took[0])),
                scored(theirs.tolist(), 2, number % 2, float(took[1])),
            )
        )
    return pairs


def slow_spearman(ours: list[float], theirs: list[float]) -> float | None:
    """Pearson's correlation of ranks found by counting, ties at the middle of their places."""

    def ranks(scores: list[float]) -> list[float]:
        return [
            sum(other < score for other in scores) + (sum(o == score for o in scores) + 1) / 2
            for score in scores
        ]

    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1])


def slow_overlap(ours: list[float], theirs: list[float], top: int) -> float | None:
    def best(scores: list[float]) -> set[int]:
        places = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return set(places[:top])

    return len(best(ours) & best(theirs)) / min(top, len(ours)) if ours else None


def test_a_report_is_what_a_loop_over_all_requests_finds() -> None:
    pairs = some_requests()
    log = ShadowLog(top=5)
    for pair in pairs:
        log.add(*pair)
    report = log.report()
    both = [[side.clicks.tolist() for side in pair] for pair in pairs]
    ours, theirs = (np.concatenate([pair[side] for pair in both]) for side in (0, 1))
    apart = np.abs(ours - theirs)
    assert (report.requests, report.candidates) == (200, len(ours))
    assert report.difference["mean"] == pytest.approx(apart.mean())
    assert report.difference["max"] == apart.max()
    assert report.difference["p95"] == pytest.approx(np.quantile(apart, 0.95), rel=0.02)
    assert report.live.mean_score == pytest.approx(ours.mean())
    assert report.candidate.mean_score == pytest.approx(theirs.mean())
    assert report.shift == pytest.approx(theirs.mean() - ours.mean())
    for told, slow in (
        (report.rank_correlation, [slow_spearman(*pair) for pair in both]),
        (report.top_overlap, [slow_overlap(pair[0], pair[1], 5) for pair in both]),
    ):
        assert told == pytest.approx(np.mean([value for value in slow if value is not None]))
    assert report.live.missing == {"pin_v1": sum(number % 3 for number in range(200))}
    assert report.candidate.missing == {"pin_v2": 100}
    assert (report.live.versions, report.candidate.versions) == ({"tests": 1}, {"tests": 2})
    for side, timed in ((0, report.live), (1, report.candidate)):
        took = [1000 * (pair[side].fetch_seconds + pair[side].score_seconds) for pair in pairs]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            lowest = sorted(took)[math.ceil(share * len(took)) - 1]
            assert timed.milliseconds[name] == pytest.approx(lowest, rel=0.01)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.9]), st.floats(0, 1)), max_size=15))
def test_rank_correlation_and_overlap_are_those_of_a_loop(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found, slow = spearman(np.array(ours), np.array(theirs)), slow_spearman(ours, theirs)
    assert found == (None if slow is None else pytest.approx(slow, abs=1e-12))
    for top in (1, 3, 20):
        assert top_overlap(np.array(ours), np.array(theirs), top) == slow_overlap(ours, theirs, top)


def test_the_same_scores_are_no_difference() -> None:
    log = ShadowLog()
    log.add(scored([0.1, 0.2, 0.2, 0.9]), scored([0.1, 0.2, 0.2, 0.9], 2))
    report = log.report()
    assert report.difference == {"mean": 0.0, "p95": 0.0, "max": 0.0}
    assert (report.shift, report.rank_correlation, report.top_overlap) == (0.0, 1.0, 1.0)


def test_the_other_way_round_is_a_correlation_of_minus_one() -> None:
    log = ShadowLog(top=2)
    log.add(scored([0.1, 0.2, 0.3, 0.4]), scored([0.4, 0.3, 0.2, 0.1], 2))
    report = log.report()
    assert (report.rank_correlation, report.top_overlap) == (-1.0, 0.0)


def test_what_is_not_defined_is_none() -> None:
    empty = ShadowLog().report()
    assert (empty.requests, empty.shift, empty.rank_correlation, empty.top_overlap) == (
        0,
        None,
        None,
        None,
    )
    assert set(empty.difference.values()) == {None}
    log = ShadowLog()
    log.add(scored([]), scored([], 2))
    log.add(scored([0.5]), scored([0.4], 2))
    log.add(scored([0.5, 0.5]), scored([0.4, 0.3], 2))
    report = log.report()
    assert (report.requests, report.candidates, report.rank_correlation) == (3, 3, None)
    assert report.top_overlap == 1.0


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=200),
    st.floats(0.01, 1.0),
)
def test_a_quantile_is_within_a_hundredth_of_the_sorted_one(
    values: list[float], share: float
) -> None:
    histogram = Histogram(1e-9, 1.0)
    for start in range(0, len(values), 7):
        histogram.add(np.array(values[start : start + 7]))
    exact = sorted(values)[max(math.ceil(share * len(values) - 1e-9) - 1, 0)]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.01)
    assert histogram.max == max(values)
    assert histogram.mean == pytest.approx(sum(values) / len(values))


def test_values_beyond_the_edges_lie_on_them() -> None:
    histogram = Histogram(1e-3, 1.0)
    histogram.add(np.array([0.0, 1e-5, 7.0]))
    assert histogram.quantile(0.3) == 1e-3
    assert histogram.quantile(1.0) == pytest.approx(1.0)
    assert histogram.max == 7.0


def test_only_the_first_failure_is_kept() -> None:
    log = ShadowLog()
    log.failed(ValueError("first\nline"))
    log.failed(KeyError("second"))
    report = log.report()
    assert (report.failures, report.first_failure) == (2, "ValueError: first line")


def test_many_threads_lose_nothing() -> None:
    pairs = some_requests(60)
    together, alone = ShadowLog(), ShadowLog()

    def add_all(log: ShadowLog) -> None:
        for pair in pairs:
            log.add(*pair)

    threads = [threading.Thread(target=add_all, args=(together,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(4):
        add_all(alone)
    one, other = together.report(), alone.report()
    assert (one.requests, one.candidates, one.live.missing) == (
        240,
        other.candidates,
        other.live.missing,
    )
    assert one.difference["p95"] == other.difference["p95"]
    assert one.rank_correlation == pytest.approx(other.rank_correlation)
