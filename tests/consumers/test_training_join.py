from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from feast import FeatureStore

from provender.consumers.training_join import training_join
from provender.plugin.errors import ConfigError, FetchError, ProvenderError

TTL = timedelta(days=3)
T0 = datetime(2026, 3, 1, tzinfo=UTC)
MICRO = 1 / 3.6e9  # hours

#: (user, pin, hour): ttl edges, ties, corrections, futures, unknown keys and a duplicate, unsorted.
ASKED = [
    (1, 11, 50),  # between a value and its correction five hours later
    (2, 10, 1),
    (1, 10, 0),  # exactly at the event time
    (1, 10, -1),  # before anything was known
    (1, 11, 53),  # exactly at the correction's created time
    (1, 11, 53 - MICRO),
    (2, 12, 72),  # exactly ttl after the only value
    (2, 12, 72 + MICRO),
    (9, 99, 30),  # nobody, nothing
    (9, 11, 30),
    (1, 11, 50),  # a duplicate
    (1, 11, 500),
    (2, 12, 71.5),
    (1, 11, 48),
]


def newest(rows: list[Any], key: int, time: datetime, *, backfills: bool) -> Any:
    """The value that Feast's rule gives, by looking at every row."""
    usable = [
        row
        for row in rows
        if row[0] == key and row[1] <= time <= row[1] + TTL and (backfills or row[2] <= time)
    ]
    return max(usable, key=lambda row: (row[1], row[2]))[3] if usable else None


@pytest.mark.parametrize("backfills", [False, True])
@pytest.mark.parametrize("chunk_rows", [1000, 3])
def test_each_row_has_what_a_loop_over_all_values_finds(
    kitchen: Any,
    store: FeatureStore,
    impressions: Callable[..., pa.Table],
    backfills: bool,
    chunk_rows: int,
) -> None:
    table = impressions(ASKED, click=[0] * len(ASKED), place=[str(n) for n in range(len(ASKED))])
    found = training_join(store, table, "rich", backfills=backfills, chunk_rows=chunk_rows)
    assert len(found) == len(ASKED)
    assert found.rows.context["place"].to_pylist() == [str(n) for n in range(len(ASKED))]
    names = [feature.column for feature in found.layout.dense]
    for row, (user, pin, hour) in enumerate(ASKED):
        time = table["event_timestamp"][row].as_py()
        assert abs(time - (T0 + timedelta(hours=hour))) <= timedelta(microseconds=1)
        for entity, key in (("user", user), ("pin", pin)):
            view = f"{entity}_test_v1"
            vector = newest(kitchen.rows[f"{entity}_vectors"], key, time, backfills=backfills)
            assert bool(found.rows.present[view][row]) == (vector is not None), (row, view)
            expected = vector or [0.0] * 4
            assert found.rows.vectors[view][row].tolist() == expected, (row, view)
            counts = newest(kitchen.rows[f"{entity}_counters"], key, time, backfills=backfills)
            for name, value in zip(("clicks", "rate"), counts or (None, None), strict=True):
                place = names.index(f"{entity}_counters__{name}")
                assert bool(found.rows.dense_present[row, place]) == (value is not None)
                assert found.rows.dense[row, place] == (value or 0)


def test_a_value_written_later_is_another_one_with_backfills(
    store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    table = impressions([(1, 11, 50)])
    known = training_join(store, table, "rich").rows.vectors["user_test_v1"]
    corrected = training_join(store, table, "rich", backfills=True).rows.vectors["user_test_v1"]
    assert not torch.equal(known, corrected)


def test_an_empty_question_has_an_empty_answer(
    store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    found = training_join(store, impressions([]), "rich")
    assert len(found) == 0
    assert found.rows.vectors["pin_test_v1"].shape == (0, 4)
    assert list(found.batches(8, seed=0, epoch=0)) == []


def test_batches_are_the_rows_once_in_an_order_of_seed_and_epoch(
    store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    rows = [(1, 11, float(n)) for n in range(23)]
    found = training_join(store, impressions(rows, click=[n % 2 for n in range(23)]), "rich")

    def order(seed: int, epoch: int) -> list[int]:
        wanted = found.rows.vectors["user_test_v1"]
        taken = list(found.batches(5, seed=seed, epoch=epoch))
        assert [len(batch) for batch in taken] == [5, 5, 5, 5, 3]
        assert sum(len(batch.labels["click"]) for batch in taken) == 23
        vectors = torch.cat([batch.vectors["user_test_v1"] for batch in taken])
        assert torch.equal(vectors.sort(0).values, wanted.sort(0).values)
        return [int(label) for batch in taken for label in batch.labels["click"]]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


class ForgetfulStore:
    """A store that loses or doubles rows, as some of Feast's offline stores do."""

    def __init__(self, store: FeatureStore, rows: list[int]) -> None:
        self._store, self._rows = store, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_historical_features(self, **asked: Any) -> Any:
        table = self._store.get_historical_features(**asked).to_arrow().take(self._rows)

        class Job:
            def to_arrow(self) -> pa.Table:
                return table

        return Job()


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 2, 2]])
def test_a_store_that_loses_or_doubles_rows_is_refused(
    store: FeatureStore, impressions: Callable[..., pa.Table], rows: list[int]
) -> None:
    asked = impressions([(1, 10, 1), (1, 11, 2), (2, 10, 3)])
    forgetful: Any = ForgetfulStore(store, rows)
    with pytest.raises(FetchError, match=f"{len(rows)} rows"):
        training_join(forgetful, asked, "rich")


def test_a_store_may_answer_in_any_order(
    store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    asked = impressions([(1, 10, 1), (1, 11, 30), (2, 10, 3)])
    shuffled: Any = ForgetfulStore(store, [2, 0, 1])
    one, two = (training_join(each, asked, "rich").rows for each in (store, shuffled))
    assert torch.equal(one.vectors["pin_test_v1"], two.vectors["pin_test_v1"])
    assert torch.equal(one.dense, two.dense)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(["pin_id"]), "no column 'pin_id'"),
        (lambda t: t.set_column(1, "user_id", pa.array([None], pa.int64())), "1 nulls"),
        (
            lambda t: t.set_column(
                3, "event_timestamp", t["event_timestamp"].cast(pa.timestamp("us"))
            ),
            "of type timestamp",
        ),
    ],
)
def test_rows_without_their_keys_are_refused(
    store: FeatureStore,
    impressions: Callable[..., pa.Table],
    change: Callable[[pa.Table], pa.Table],
    said: str,
) -> None:
    with pytest.raises(FetchError, match=said):
        training_join(store, change(impressions([(1, 10, 1)])), "rich")


def test_an_unknown_service_is_refused_with_the_known_ones(
    store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    with pytest.raises(ConfigError, match="one of plain, rich"):
        training_join(store, impressions([(1, 10, 1)]), "poor")


def test_vectors_of_another_length_are_refused(
    kitchen: Any, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    kitchen.write("user", [(1, T0, T0, [1.0, 2.0])])
    with pytest.raises(ProvenderError, match=r"vectors? of.* \[?2\]?( floats)?; expected 4 floats"):
        training_join(store, impressions([(1, 10, 1)]), "rich")


def test_a_file_that_is_gone_is_one_line(
    kitchen: Any, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    (kitchen.folder / "vectors" / "user.parquet").unlink()
    with pytest.raises(ProvenderError) as caught:
        training_join(store, impressions([(1, 10, 1)]), "rich")
    assert "\n" not in str(caught.value)


def test_a_vector_with_a_nan_counts_as_missing(
    kitchen: Any, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    kitchen.write("user", [(1, T0, T0, [1.0, float("nan"), 2.0, 3.0])])
    found = training_join(store, impressions([(1, 10, 1)]), "rich").rows
    assert not found.present["user_test_v1"][0]
    assert np.array_equal(found.vectors["user_test_v1"].numpy(), np.zeros((1, 4)))


def test_the_ages_of_vectors_are_those_of_serving(
    kitchen: Any, store: FeatureStore, impressions: Callable[..., pa.Table]
) -> None:
    asked = impressions([(1, 10, 30), (1, 11, 60), (9, 99, 60)])
    ages = training_join(store, asked, "rich", backfills=True).rows.age_seconds["pin_test_v1"]
    if "provender" in kitchen.stores:
        assert ages[:2].tolist() == [30 * 3600, 12 * 3600]
        assert math.isnan(ages[2])
    else:
        # Feast's own stores do not tell from when a value is.
        assert ages.isnan().all()
