from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import torch
from feast import FeatureStore

from provender.consumers.features import FeatureLayout
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import RankerConfig
from provender.consumers.training_join import training_join
from provender.plugin.errors import ProvenderError, VersionError

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def hours(number: float) -> datetime:
    return T0 + timedelta(hours=number)


@pytest.fixture
def served(store: FeatureStore) -> FeatureStore:
    """The store with all that was known 60 hours in, materialized."""
    store.materialize(hours(-1), hours(60))
    return store


@pytest.mark.parametrize("hour", [60.0, 71.5, 72.0])
def test_online_and_offline_give_the_same_bits_for_the_same_instant(
    served: FeatureStore, impressions: Callable[..., pa.Table], hour: float
) -> None:
    pins = [12, 10, 99, 11, 10]
    for user in (1, 2, 9):
        asked = impressions([(user, pin, hour - 1e-3) for pin in pins])
        offline = training_join(served, asked, "rich").rows
        now = asked["event_timestamp"][0].as_py()
        online = OnlineFetcher(served, "rich", now=now).fetch(user, pins)
        for view in ("user_test_v1", "pin_test_v1"):
            assert torch.equal(offline.present[view], online.present[view])
            assert torch.equal(offline.vectors[view], online.vectors[view])
        assert torch.equal(offline.dense, online.dense)
        assert torch.equal(offline.dense_present, online.dense_present)


def test_rows_come_in_the_order_asked_with_duplicates_and_the_missing_marked(
    served: FeatureStore,
) -> None:
    batch = OnlineFetcher(served, "rich", now=hours(60)).fetch(1, [11, 99, 10, 11])
    assert batch.present["pin_test_v1"].tolist() == [True, False, True, True]
    assert batch.present["user_test_v1"].tolist() == [True] * 4
    vectors = batch.vectors["pin_test_v1"]
    assert torch.equal(vectors[0], vectors[3])
    assert not torch.equal(vectors[0], vectors[2])
    assert vectors[1].tolist() == [0.0] * 4
    ages = batch.age_seconds["pin_test_v1"].tolist()
    assert ages[0] == 12 * 3600
    assert ages[2] == 60 * 3600
    assert math.isnan(ages[1])


def test_a_value_past_its_ttl_or_from_the_future_is_missing(served: FeatureStore) -> None:
    def present(hour: float) -> list[bool]:
        found = OnlineFetcher(served, "rich", now=hours(hour)).fetch(1, [10, 11])
        mask: list[bool] = found.present["pin_test_v1"].tolist()
        return mask

    assert present(72) == [True, True]
    assert present(72 + 1e-3) == [False, True]
    assert present(48 + 72) == [False, True]
    assert present(47) == [True, False]
    assert OnlineFetcher(served, "rich").fetch(1, [10]).present["pin_test_v1"].tolist() == [False]


def test_no_candidates_give_an_empty_batch(served: FeatureStore) -> None:
    batch = OnlineFetcher(served, "rich", now=hours(60)).fetch(1, [])
    assert len(batch) == 0
    assert batch.vectors["pin_test_v1"].shape == (0, 4)


def test_context_is_one_value_for_all_or_one_each(served: FeatureStore) -> None:
    fetcher = OnlineFetcher(served, "plain", now=hours(60))
    given = {"position": [3, 4], "surface": "home", "day": pa.array([1.5, 2.5])}
    context = fetcher.fetch(1, [10, 11], given).context
    assert {name: column.to_pylist() for name, column in context.items()} == {
        "position": [3, 4],
        "surface": ["home", "home"],
        "day": [1.5, 2.5],
    }


@pytest.mark.parametrize(
    ("user", "pins", "context"),
    [
        (1, [10], {"position": math.nan}),
        (1, [10], {"position": None}),
        (1, [10, 11], {"position": [1]}),
        (1, [10, 11], {"position": [1, "a"]}),
        (None, [10], {}),
        (1, [None], {}),
        (1, [10.5], {}),
        ("one", [10], {}),
    ],
)
def test_requests_that_mean_nothing_are_refused(
    served: FeatureStore, user: Any, pins: list[Any], context: dict[str, Any]
) -> None:
    with pytest.raises(ProvenderError) as caught:
        OnlineFetcher(served, "plain", now=hours(60)).fetch(user, pins, context)
    assert "\n" not in str(caught.value)


class Served:
    """What a fetcher needs to know of a ranker."""

    def __init__(self, layout: FeatureLayout) -> None:
        self.layout, self.config = layout, RankerConfig()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"space": "elsewhere"},
        {"dim": 8},
        {"producer": "someone"},
        {"name": "user_other"},
    ],
)
def test_a_ranker_of_another_version_is_refused(
    store: FeatureStore, change: dict[str, Any]
) -> None:
    layout = FeatureLayout.of_service(store, "rich")
    user, pin = layout.embeddings
    other = layout.model_copy(update={"embeddings": (user.model_copy(update=change), pin)})
    ranker: Any = Served(other)
    with pytest.raises(VersionError) as caught:
        OnlineFetcher(store, "rich", ranker=ranker)
    assert str(next(iter(change.values()))) in str(caught.value)


def test_a_ranker_is_served_with_another_freshness_but_not_with_other_features(
    store: FeatureStore,
) -> None:
    layout = FeatureLayout.of_service(store, "rich")
    user, pin = layout.embeddings
    fresher = user.model_copy(update={"ttl": timedelta(hours=1)})
    ranker: Any = Served(layout.model_copy(update={"embeddings": (fresher, pin)}))
    OnlineFetcher(store, "rich", ranker=ranker)
    with pytest.raises(VersionError):
        OnlineFetcher(store, "plain", ranker=ranker)
