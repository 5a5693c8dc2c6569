"""The past in requests, many requests in one read, and reads that come too late or not at all."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from feast import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.consumers.features import Column, RankerBatch
from provender.consumers.fetch_metrics import AGES, FetchMetrics
from provender.consumers.fetch_request import Request
from provender.consumers.micro_batches import MicroBatcher
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.user_history import Action, HistorySpec
from provender.plugin.errors import (
    ConfigError,
    FetchError,
    FetchTimeoutError,
    OnlineStoreError,
)
from provender.plugin.online_rows import OnlineRows
from provender.plugin.online_store import ProvenderOnlineStore
from tests.consumers.kitchen import OURS, Kitchen, hours, stocked

NOW = hours(60)
SPEC = HistorySpec(length=3, kinds=("click", "save"))


class WatchedStore(ProvenderOnlineStore):
    """Notes which keys of which view were read; its reads wait while `open` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, list[Any]]] = []
        self.open, self.broken = threading.Event(), False
        self.ended = threading.Semaphore(0)
        self.open.set()

    def read_columns(
        self, config: Any, view: Any, keys: Any, *others: Any, **options: Any
    ) -> OnlineRows:
        (values,) = keys.values()
        self.reads.append((getattr(view, "feature_view", view).name, list(values.tolist())))
        if self.broken:
            raise OnlineStoreError("store", found="no answer", expected="one", remedy="Wait.")
        self.open.wait()
        try:
            return super().read_columns(config, view, keys, *others, **options)
        finally:
            self.ended.release()


@pytest.fixture
def served(tmp_path: Path) -> FeatureStore:
    store = stocked(tmp_path / "kitchen", OURS).store()
    store.materialize(hours(-1), NOW)
    return store


@pytest.fixture
def watched() -> Iterator[WatchedStore]:
    store = WatchedStore()
    yield store
    store.open.set()


@pytest.fixture
def fetcher(served: FeatureStore, watched: WatchedStore) -> OnlineFetcher:
    return OnlineFetcher(served, "rich", now=NOW, history=SPEC, online=watched)


def equal(one: RankerBatch, other: RankerBatch) -> bool:
    """To the last bit, with the past."""
    a, b = one.history, other.history
    assert a is not None
    assert b is not None
    tensors = [
        (one.vectors[view], other.vectors[view]) for view in one.vectors.keys() | other.vectors
    ]
    tensors += [(one.present[view], other.present[view]) for view in one.present]
    tensors += [
        (one.age_seconds[v].nan_to_num(-1), other.age_seconds[v].nan_to_num(-1))
        for v in one.vectors
    ]
    tensors += [(one.dense, other.dense), (one.dense_present, other.dense_present)]
    tensors += [(a.items, b.items), (a.kinds, b.kinds), (a.age_seconds, b.age_seconds)]
    tensors += [(a.vectors[view], b.vectors[view]) for view in a.vectors.keys() | b.vectors]
    tensors += [(a.present[view], b.present[view]) for view in a.present]
    keys = [(one.keys[name], other.keys[name]) for name in one.keys]
    keys += [(one.context[name], other.context[name]) for name in one.context]
    same = all(torch.equal(x, y) for x, y in tensors) and one.versions == other.versions
    return same and all(x.equals(y) for x, y in [*keys, (a.keys, b.keys)])


def did(pin: Any, hour: float, kind: str = "click") -> Action:
    return Action(pin, kind, hours(hour))


def test_the_latest_actions_before_the_request_come_with_their_pins_vectors(
    fetcher: OnlineFetcher, watched: WatchedStore
) -> None:
    past = [did(10, 1), did(99, 3), did(11, 59.5, "save"), did(11, 5), did(12, 60), did(12, 61)]
    history = fetcher.fetch(1, [12, 10], history=past).history
    assert history is not None
    assert history.items.tolist() == [[0, 0, 1]] * 2
    assert history.kinds.tolist() == [[1, 0, 0]] * 2
    assert history.age_seconds.tolist() == [[1800.0, 55 * 3600.0, 57 * 3600.0]] * 2
    assert history.keys.to_pylist() == [11, 99]
    assert history.present["pin_test_v1"].tolist() == [True, False]
    alone = fetcher.fetch(1, [11]).vectors["pin_test_v1"]
    assert torch.equal(history.vectors["pin_test_v1"], torch.cat([alone, torch.zeros(1, 4)]))
    # One read a view: candidates and past together, each key once.
    assert watched.reads[:4] == [
        ("user_test_v1", [1]),
        ("user_counters", [1]),
        ("pin_test_v1", [12, 10, 11, 99]),
        ("pin_counters", [12, 10, 11, 99]),
    ]


def test_of_equal_times_kind_and_pin_decide_and_the_order_given_does_not(
    fetcher: OnlineFetcher,
) -> None:
    past = [did(12, 5, "save"), did(11, 5), did(10, 5, "save"), did(12, 4)]
    one, other = (fetcher.fetch(1, [10], history=each) for each in (past, past[::-1]))
    assert equal(one, other)
    assert one.history is not None
    named = [one.history.keys[item].as_py() for item in one.history.items[0].tolist()]
    assert (named, one.history.kinds[0].tolist()) == ([11, 10, 12], [0, 1, 1])


def test_no_past_is_an_empty_one_and_no_spec_none(
    served: FeatureStore, fetcher: OnlineFetcher
) -> None:
    empty = fetcher.fetch(1, [10, 11]).history
    assert empty is not None
    assert empty.items.tolist() == [[-1] * 3] * 2
    assert empty.vectors["pin_test_v1"].shape == (0, 4)
    assert (
        OnlineFetcher(served, "rich", now=NOW).fetch(1, [10], history=[did(10, 1)]).history is None
    )


@pytest.mark.parametrize(
    ("past", "told"),
    [
        ([did(10, 1), did(10, 1, "share")], "history, action 1: found the kind 'share'"),
        ([Action(10, "click", datetime(2026, 3, 1))], "without a zone"),
        ([did("10", 1)], "'10'"),
        ([did(None, 1)], "None"),
        ([did(1.5, 1)], "1.5"),
        ([did(1, 1), did("a", 1)], "several types"),
    ],
)
def test_actions_that_mean_nothing_are_refused(
    fetcher: OnlineFetcher, past: list[Action], told: str
) -> None:
    with pytest.raises(FetchError, match=told):
        fetcher.fetch(1, [10], history=past)


def test_unknown_users_no_candidates_very_many_and_duplicates(fetcher: OnlineFetcher) -> None:
    unknown = fetcher.fetch(777, [10, 11], history=[did(10, 1)])
    assert not unknown.present["user_test_v1"].any()
    assert not unknown.vectors["user_test_v1"].any()
    none = fetcher.fetch(1, [], {"place": "home"}, [did(10, 1)])
    assert (len(none), none.context["place"].to_pylist()) == (0, [])
    assert none.keys["pin_id"].type == pa.int64()
    assert none.history is not None
    assert none.history.items.shape == (0, 3)
    pins = [10, 11, *range(1_000, 10_996), 10, 10]
    many = fetcher.fetch(1, pins, {"position": list(range(10_000))}, [did(11, 1)])
    assert len(many) == 10_000
    assert torch.nonzero(many.present["pin_test_v1"]).flatten().tolist() == [0, 1, 9_998, 9_999]
    assert torch.equal(many.vectors["pin_test_v1"][0], many.vectors["pin_test_v1"][9_999])
    assert many.keys["pin_id"].to_pylist() == pins
    with pytest.raises(FetchError, match="context rate: found null or NaN"):
        fetcher.fetch(1, [10, 11], {"rate": [0.5, math.nan]})


REQUESTS = st.lists(
    st.builds(
        lambda user, pins, acts: Request(
            user, pins, {"place": "home"}, [did(pin, hour, kind) for pin, hour, kind in acts]
        ),
        st.sampled_from([1, 2, 9]),
        st.lists(st.sampled_from([10, 11, 12, 99]), max_size=5),
        st.lists(
            st.tuples(
                st.sampled_from([10, 11, 98]),
                st.integers(0, 62),
                st.sampled_from(["click", "save"]),
            ),
            max_size=5,
        ),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineFetcher, WatchedStore]:
    """One store for all examples of a property."""
    made = Kitchen(tmp_path_factory.mktemp("lasting"))
    for entity, keys in (("user", (1, 2)), ("pin", (10, 11, 12))):
        made.write(entity, [(k, hours(24), hours(24), [k / 7] * 4) for k in keys])
        rows = [(k, hours(24), hours(24), (k, k / 9)) for k in keys]
        made.write(entity, rows, vectors=False)
    store, watched = made.store(), WatchedStore()
    store.materialize(hours(-1), NOW)
    return OnlineFetcher(store, "rich", now=NOW, history=SPEC, online=watched), watched


@settings(max_examples=40, deadline=None)
@given(requests=REQUESTS)
def test_requests_together_get_what_they_get_alone_by_one_read_a_view(
    lasting: tuple[OnlineFetcher, WatchedStore], requests: list[Request]
) -> None:
    fetcher, watched = lasting
    watched.reads.clear()
    together = fetcher.fetch_many(requests)
    views = [view for view, _ in watched.reads]
    assert len(views) == len(set(views)) == 4
    assert all(len(keys) == len(set(keys)) for _, keys in watched.reads)
    for one, request in zip(together, requests, strict=True):
        assert equal(one, fetcher.fetch(*request))


def test_no_requests_and_those_whose_keys_do_not_fit(fetcher: OnlineFetcher) -> None:
    assert fetcher.fetch_many([]) == []
    with pytest.raises(FetchError):
        fetcher.fetch_many([Request(1, [10]), Request("one", [10])])


def test_async_gives_the_same_and_leaves_the_loop_free(
    fetcher: OnlineFetcher, watched: WatchedStore
) -> None:
    expected = fetcher.fetch(1, [10, 11], {"place": "a"}, [did(11, 1)])

    async def go() -> RankerBatch:
        watched.open.clear()
        asked = asyncio.ensure_future(
            fetcher.fetch_async(1, [10, 11], {"place": "a"}, [did(11, 1)])
        )
        while not watched.reads:
            await asyncio.sleep(0)  # The read waits, and the loop goes round.
        watched.open.set()
        return await asked

    watched.reads.clear()
    assert equal(asyncio.run(go()), expected)


def test_micro_batches_read_once_for_all_and_refuse_each_alone(
    fetcher: OnlineFetcher, watched: WatchedStore
) -> None:
    expected = [fetcher.fetch(user, [10, 12], {"place": "a"}) for user in (1, 2)]
    watched.reads.clear()

    async def go() -> tuple[Any, ...]:
        full = MicroBatcher(fetcher, most_delay_seconds=3600, most_requests=2)
        one = full.fetch(1, [10, 12], {"place": "a"})
        bad = full.fetch(1, [10, None], {"place": "a"})
        return await asyncio.gather(
            one, bad, full.fetch(2, [10, 12], {"place": "a"}), return_exceptions=True
        )

    one, bad, two = asyncio.run(go())
    assert isinstance(bad, FetchError)
    assert equal(one, expected[0])
    assert equal(two, expected[1])
    assert len(watched.reads) == 4

    async def alone() -> RankerBatch:
        return await MicroBatcher(fetcher, most_delay_seconds=0.001).fetch(
            1, [10, 12], {"place": "a"}
        )

    assert equal(asyncio.run(alone()), expected[0])


def test_micro_batches_tell_all_of_them_what_went_wrong(
    fetcher: OnlineFetcher, watched: WatchedStore
) -> None:
    watched.broken = True

    async def go() -> list[Any]:
        batcher = MicroBatcher(fetcher, most_requests=3)
        asked = [batcher.fetch(user, [10]) for user in (1, 2, 3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(each) for each in asyncio.run(go())] == [OnlineStoreError] * 3
    with pytest.raises(ConfigError):
        MicroBatcher(fetcher, most_requests=0)


def limited(served: FeatureStore, watched: WatchedStore, **options: Any) -> OnlineFetcher:
    return OnlineFetcher(
        served, "rich", now=NOW, history=SPEC, online=watched, timeout_seconds=0.05, **options
    )


def sync(fetcher: OnlineFetcher) -> RankerBatch:
    return fetcher.fetch(1, [10, 11], {"place": "a"}, [did(11, 1)])


def not_sync(fetcher: OnlineFetcher) -> RankerBatch:
    return asyncio.run(fetcher.fetch_async(1, [10, 11], {"place": "a"}, [did(11, 1)]))


@pytest.mark.parametrize("ask", [sync, not_sync])
def test_a_late_read_is_an_error_or_all_missing_and_changes_nothing_afterwards(
    served: FeatureStore, watched: WatchedStore, ask: Callable[[OnlineFetcher], RankerBatch]
) -> None:
    metrics = FetchMetrics()
    strict = limited(served, watched)
    lenient = limited(served, watched, fallback="missing", metrics=metrics)
    patient = OnlineFetcher(served, "rich", now=NOW, history=SPEC, online=watched)
    expected = ask(patient)
    watched.open.clear()
    with pytest.raises(FetchTimeoutError, match=r"no answer in 0\.05 seconds"):
        ask(strict)
    fallen = ask(lenient)
    kept = fallen.take(torch.arange(2))
    assert not any(mask.any() for mask in fallen.present.values())
    assert not any(vectors.any() for vectors in fallen.vectors.values())
    assert not fallen.dense_present.any()
    assert fallen.versions == {}
    assert fallen.history is not None
    assert expected.history is not None
    assert torch.equal(fallen.history.items, expected.history.items)
    assert not fallen.history.present["pin_test_v1"].any()
    assert fallen.keys["pin_id"].to_pylist() == [10, 11]
    while watched.ended.acquire(blocking=False):
        pass
    watched.open.set()
    assert watched.ended.acquire(timeout=20)  # A late read has ended.
    assert equal(fallen, kept)
    assert equal(ask(patient), expected)
    assert value(metrics, "provender_fetch_timeouts_total", service="rich") == 1
    labels = {"service": "rich", "reason": "timeout"}
    assert value(metrics, "provender_fetch_fallbacks_total", **labels) == 1


def test_stuck_reads_do_not_make_later_requests_wait(
    served: FeatureStore, watched: WatchedStore
) -> None:
    fetcher = limited(served, watched, fallback="missing")
    watched.open.clear()
    callers = [threading.Thread(target=sync, args=(fetcher,)) for _ in range(200)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(20)
        assert not each.is_alive()


def test_an_online_store_out_of_reach_falls_back_as_well_but_a_bad_request_never(
    served: FeatureStore, watched: WatchedStore
) -> None:
    metrics = FetchMetrics()
    lenient = OnlineFetcher(
        served, "rich", now=NOW, online=watched, fallback="missing", metrics=metrics
    )
    watched.broken = True
    batch = lenient.fetch(1, [10, 11])
    assert not batch.present["pin_test_v1"].any()
    labels = {"service": "rich", "reason": "unreachable"}
    assert value(metrics, "provender_fetch_fallbacks_total", **labels) == 1
    with pytest.raises(FetchError):
        lenient.fetch(1, [None])
    with pytest.raises(OnlineStoreError):
        OnlineFetcher(served, "rich", now=NOW, online=watched).fetch(1, [10])


@pytest.mark.parametrize(
    "options", [{"timeout_seconds": 0}, {"timeout_seconds": math.nan}, {"fallback": "zero"}]
)
def test_settings_that_mean_nothing_are_refused(
    served: FeatureStore, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        OnlineFetcher(served, "rich", **options)


def value(metrics: FetchMetrics, name: str, **labels: str) -> float | None:
    found: float | None = metrics.registry.get_sample_value(name, labels)
    return found


def test_what_was_read_is_counted_by_view_with_its_age(served: FeatureStore) -> None:
    metrics = FetchMetrics()
    fetcher = OnlineFetcher(served, "rich", now=NOW, history=SPEC, metrics=metrics)
    fetcher.fetch(1, [10, 11, 99, 10], history=[did(98, 1)])
    fetcher.fetch_many([Request(1, [10]), Request(7, [11])])

    def of(name: str, view: str, **labels: str) -> float | None:
        return value(metrics, f"provender_fetch_{name}", service="rich", view=view, **labels)

    # Keys, not rows: pin 10 was twice in the first request.
    assert (of("keys_total", "pin_test_v1"), of("missing_total", "pin_test_v1")) == (6, 2)
    assert (of("keys_total", "user_test_v1"), of("missing_total", "user_test_v1")) == (3, 1)
    assert of("keys_total", "pin_counters") == 6
    # Pin 10 is from hour 0, pin 11 and user 1 from hour 48, looked at in hour 60.
    assert of("age_seconds_bucket", "pin_test_v1", le="43200.0") == 2
    assert of("age_seconds_bucket", "pin_test_v1", le="86400.0") == 2
    assert of("age_seconds_bucket", "pin_test_v1", le="259200.0") == 4
    assert of("age_seconds_count", "pin_test_v1") == 4
    assert of("age_seconds_sum", "pin_test_v1") == 2 * (60 + 12) * 3600
    assert of("age_seconds_count", "user_test_v1") == 2
    assert value(metrics, "provender_fetch_requests_total", service="rich") == 3
    assert value(metrics, "provender_fetch_seconds_count", service="rich") == 2
    labels = {"service": "rich", "family": "tests", "version": "1"}
    assert value(metrics, "provender_fetch_versions_total", **labels) == 3
    assert b'provender_fetch_keys_total{service="rich",view="pin_test_v1"} 6.0' in (
        metrics.exposition()
    )


def test_metrics_may_go_where_others_are() -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    FetchMetrics(registry).timed_out("rich")
    assert registry.get_sample_value("provender_fetch_timeouts_total", {"service": "rich"}) == 1


def test_the_time_of_a_request_is_its_own(served: FeatureStore) -> None:
    fetcher = OnlineFetcher(served, "rich", history=SPEC)
    started = datetime.now(NOW.tzinfo)
    history = fetcher.fetch(1, [10], history=[Action(10, "click", started)]).history
    assert history is not None
    assert 0 < history.age_seconds[0, 0] < timedelta(minutes=10).total_seconds()


@given(st.lists(st.sampled_from([0.0, 59.0, 60.0, 61.0, 3600.0, 1e9]), max_size=8))
def test_ages_are_counted_up_to_the_edges_of_their_bins(ages: list[float]) -> None:
    metrics, known = FetchMetrics(), np.array(ages, np.float64)
    column = Column(np.zeros((len(ages), 2), np.float32), np.ones(len(ages), np.bool_), known)
    metrics.read("s", {"v": column})
    for edge in (*AGES, math.inf):
        le = "+Inf" if edge == math.inf else str(edge)
        found = value(metrics, "provender_fetch_age_seconds_bucket", service="s", view="v", le=le)
        assert (found or 0.0) == sum(age <= edge for age in ages)
