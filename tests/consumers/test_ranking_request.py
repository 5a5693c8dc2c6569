from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import torch
from feast import FeatureStore

from provender.consumers.features import FeatureLayout
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig
from provender.consumers.ranking_request import rank
from provender.plugin.errors import FetchError

T0 = datetime(2026, 3, 1, tzinfo=UTC)
NOW = T0 + timedelta(hours=60)
PINS = [10, 11, 99, 12, 11]
CONTEXT = {"surface": "home"}


@pytest.fixture
def served(store: FeatureStore) -> tuple[OnlineFetcher, Ranker]:
    """A ranker of random weights with an open gate, over what is materialized."""
    store.materialize(T0 - timedelta(hours=1), NOW)
    layout = FeatureLayout.of_service(store, "rich")
    rows = OnlineFetcher(store, "rich", now=NOW).fetch(1, [10, 11, 12], CONTEXT)
    torch.manual_seed(0)
    config = RankerConfig(query="pin_test_v1", head_width=8, attention_heads=2)
    ranker = Ranker(config, layout, Preprocessing.fit(layout, rows, ["surface"]))
    assert ranker.head is not None
    torch.nn.init.ones_(ranker.head.gate)
    return OnlineFetcher(store, "rich", ranker=ranker, now=NOW), ranker


def test_candidates_come_best_first_with_what_was_missing(
    served: tuple[OnlineFetcher, Ranker],
) -> None:
    fetcher, ranker = served
    answer = rank(fetcher, ranker, 1, PINS, CONTEXT)
    assert sorted(answer.pins, key=str) == sorted(PINS, key=str)
    assert answer.scores == sorted(answer.scores, reverse=True)
    assert answer.missing == {"user_test_v1": 0, "pin_test_v1": 1}
    alone = {pin: rank(fetcher, ranker, 1, [pin], CONTEXT).scores[0] for pin in PINS}
    for pin, score in zip(answer.pins, answer.scores, strict=True):
        assert score == pytest.approx(alone[int(pin)], rel=1e-5)


def test_an_unknown_user_is_answered(served: tuple[OnlineFetcher, Ranker]) -> None:
    answer = rank(*served, 777, PINS, CONTEXT)
    assert answer.missing["user_test_v1"] == len(PINS)
    assert all(math.isfinite(score) for score in answer.scores)


def test_no_candidates_are_an_empty_answer(served: tuple[OnlineFetcher, Ranker]) -> None:
    answer = rank(*served, 1, [], CONTEXT)
    assert (answer.pins, answer.scores) == ([], [])


def test_equal_scores_keep_the_order_of_the_request(
    served: tuple[OnlineFetcher, Ranker],
) -> None:
    strangers = [905, 901, 903]
    assert rank(*served, 1, strangers, CONTEXT).pins == strangers


def test_candidates_that_are_the_same_have_one_score_wherever_they_stand(
    served: tuple[OnlineFetcher, Ranker],
) -> None:
    # Strangers are the same to a ranker without learned rows: there is nothing to tell them by.
    pins = [11, 901, 10, 902, 11, 12, 903] * 9 + [11, 904]
    answer = rank(*served, 1, pins, CONTEXT)
    once: dict[int, float] = {}
    for pin, score in zip(answer.pins, answer.scores, strict=True):
        assert score == once.setdefault(min(int(pin), 901), score)
    assert len(set(answer.scores)) == 4
    strangers = [pin for pin in answer.pins if int(pin) > 900]
    assert strangers == [pin for pin in pins if pin > 900]
    one_by_one = {"surface": "home", "position": list(range(len(pins)))}
    assert rank(*served, 1, pins, one_by_one).pins == answer.pins, "a column that nobody reads"


def test_context_that_is_absent_or_nan_is_refused(served: tuple[OnlineFetcher, Ranker]) -> None:
    for context in ({}, {"surface": pa.array([None] * 5)}, {"surface": math.nan}):
        with pytest.raises(FetchError):
            rank(*served, 1, PINS, context)
