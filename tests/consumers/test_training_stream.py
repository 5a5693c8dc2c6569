from __future__ import annotations

import json
import math
from copy import deepcopy
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from feast import FeatureStore
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from provender.consumers.features import RankerBatch
from provender.consumers.training_join import training_join
from provender.consumers.training_stream import TrainingStream
from provender.plugin.errors import CheckpointError, ConfigError, FetchError
from tests.consumers.kitchen import OURS, hours
from tests.consumers.stream_world import Clock, numbers, same, shown, tensors_of
from tests.consumers.test_training_join import newest

SMALL: dict[str, Any] = {"pool_rows": 16, "batch_size": 5}


def times_of(table: pa.Table) -> dict[int, datetime]:
    numbers, times = (table[name].to_pylist() for name in ("number", "event_timestamp"))
    return dict(zip(numbers, times, strict=True))


@pytest.fixture
def ours(kitchen: Any) -> FeatureStore:
    if kitchen.stores != OURS:
        pytest.skip("any store has the same order")
    store: FeatureStore = kitchen.store()
    return store


@pytest.mark.parametrize("backfills", [False, True])
def test_each_row_has_what_a_loop_over_all_values_finds(
    kitchen: Any, store: FeatureStore, backfills: bool
) -> None:
    table = shown(57)
    rows = {row["number"]: row for row in table.to_pylist()}
    stream = TrainingStream(store, table, "rich", backfills=backfills, actions=Clock(), **SMALL)
    dense = [feature.column for feature in stream.layout.dense]
    seen = 0
    for batch in stream:
        seen += len(batch)
        for place, number in enumerate(batch.context["number"].to_pylist()):
            row = rows[number]
            time = row["event_timestamp"]
            for entity in ("user", "pin"):
                key, view = row[f"{entity}_id"], f"{entity}_test_v1"
                assert batch.keys[f"{entity}_id"][place].as_py() == key
                vector = newest(kitchen.rows[f"{entity}_vectors"], key, time, backfills=backfills)
                assert bool(batch.present[view][place]) == (vector is not None)
                assert batch.vectors[view][place].tolist() == (vector or [0.0] * 4)
                counts = newest(kitchen.rows[f"{entity}_counters"], key, time, backfills=backfills)
                for name, value in zip(("clicks", "rate"), counts or (None, None), strict=True):
                    column = dense.index(f"{entity}_counters__{name}")
                    assert bool(batch.dense_present[place, column]) == (value is not None)
                    assert batch.dense[place, column] == (value or 0)
            for task in ("click", "conversion"):
                weight = row["click_weight"] if task == "click" else 1.0
                known = row[task] is not None
                assert batch.labels[task][place] == (row[task] or 0)
                assert batch.weights[task][place] == pytest.approx(weight if known else 0)
            assert batch.history is not None
            assert batch.history.items[place].tolist() == [row["user_id"]]
            hour = int(time.timestamp()) // 3600 % 1000
            assert batch.history.age_seconds[place].tolist() == [hour]
    assert seen == 57


def test_batches_are_those_of_the_join_in_memory(store: FeatureStore) -> None:
    stream = TrainingStream(store, shown(40), "rich", in_order=True, actions=Clock(), **SMALL)
    table = shown(40).sort_by([("event_timestamp", "ascending"), ("impression_id", "ascending")])
    whole = training_join(store, table, "rich", actions=Clock()).rows
    start = 0
    for batch in stream:
        assert same(batch, whole.take(torch.arange(start, start + len(batch))))
        start += len(batch)
    assert start == 40


def test_an_epoch_is_every_row_once_and_mixes_days(ours: FeatureStore) -> None:
    stream = TrainingStream(ours, shown(203), "plain", pool_rows=64, batch_size=16)
    first, second = numbers(stream), numbers(stream)
    assert len(stream) == len(first) == 13
    assert [len(batch) for batch in first] == [16] * 12 + [11]
    for epoch in (first, second):
        assert sorted(chain(*epoch)) == list(range(203))
    assert first != second
    stream.set_epoch(0)
    assert numbers(stream) == first
    days = times_of(shown(203))
    assert all(len({days[number].date() for number in batch}) > 1 for batch in first[:-1])
    other = TrainingStream(ours, shown(203), "plain", pool_rows=64, batch_size=16, seed=1)
    assert numbers(other) != first


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(1, 90),
    st.integers(1, 20),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(8, 40),
    st.booleans(),
    st.integers(0, 3),
)
def test_ranks_and_workers_see_every_row_once_in_the_same_order(
    ours: FeatureStore,
    rows: int,
    batch_size: int,
    ranks: int,
    workers: int,
    pool_rows: int,
    in_order: bool,
    epoch: int,
) -> None:
    assume(rows >= ranks and (batch_size > 1 or not rows % ranks))
    seen: list[int] = []
    counts = set()
    for rank in range(ranks):
        stream = TrainingStream(
            ours, shown(rows), "plain", batch_size=batch_size, pool_rows=pool_rows,
            rank=rank, ranks=ranks, in_order=in_order,
        )  # fmt: skip
        alone = numbers(batch for _, batch in stream._examples(0, epoch, 0, 1))
        each = [
            numbers(batch for _, batch in stream._examples(0, epoch, worker, workers))
            for worker in range(workers)
        ]
        # As a DataLoader takes turns.
        turns = [each[no % workers][no // workers] for no in range(len(alone))]
        assert turns == alone
        assert sum(map(len, each)) == len(alone) == len(stream)
        counts.add(len(alone))
        seen += chain(*alone)
    assert sorted(seen) == list(range(rows))
    assert len(counts) == 1
    if in_order:
        times = times_of(shown(rows))
        assert [times[number] for number in seen] == sorted(times.values())


def test_it_goes_on_after_every_batch_bit_for_bit(ours: FeatureStore) -> None:
    def made() -> TrainingStream:
        return TrainingStream(ours, shown(43), "rich", actions=Clock(), **SMALL)

    whole = made()
    wanted = [list(whole), list(whole)]
    for stopped in range(len(wanted[0]) + 1):
        first = made()
        going = iter(first)
        for _ in range(stopped):
            next(going)
        state = json.loads(json.dumps(first.state_dict()))
        second = made()
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == len(wanted[0]) - stopped
        assert all(same(a, b) for a, b in zip(rest, wanted[0][stopped:], strict=True))
        assert all(same(a, b) for a, b in zip(second, wanted[1], strict=True))


def test_workers_make_the_same_batches_and_the_state_counts_what_came_out(
    ours: FeatureStore,
) -> None:
    stream = TrainingStream(ours, shown(43), "rich", **SMALL)
    wanted = [list(stream), list(stream)]
    stream.set_epoch(0)
    for epoch in wanted:
        assert all(same(a, b) for a, b in zip(stream.loader(workers=2), epoch, strict=True))
    stream.set_epoch(0)
    going = stream.loader(workers=2)
    for _ in range(3):
        next(going)
    again = TrainingStream(ours, shown(43), "rich", **SMALL)
    again.load_state_dict(stream.state_dict())
    del going
    rest = list(again.loader(workers=3))
    assert all(same(a, b) for a, b in zip(rest, wanted[0][3:], strict=True))
    assert all(same(a, b) for a, b in zip(again.loader(), wanted[1], strict=True))


def test_a_worker_in_a_new_process_has_the_store_too(ours: FeatureStore) -> None:
    stream = TrainingStream(ours, shown(20), "rich", **SMALL)
    copy = deepcopy(stream)  # as another process gets it, opened anew
    assert all(same(a, b) for a, b in zip(copy, stream, strict=True))


def test_an_epoch_that_was_left_begins_anew(ours: FeatureStore) -> None:
    stream = TrainingStream(ours, shown(43), "plain", **SMALL)
    first = next(iter(stream))
    assert same(first, next(iter(stream)))


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"batch_size": 6}, {"in_order": True}, {"pool_rows": 32}]
)
def test_the_state_of_another_stream_is_refused(ours: FeatureStore, other: dict[str, Any]) -> None:
    state = TrainingStream(ours, shown(43), "plain", **SMALL).state_dict()
    stream = TrainingStream(ours, shown(43), "plain", **{**SMALL, **other})
    with pytest.raises(CheckpointError, match="as this stream has it"):
        stream.load_state_dict(state)
    with pytest.raises(CheckpointError, match="found rows 42"):
        stream.load_state_dict({**stream.state_dict(), "rows": 42})


def test_what_was_written_later_changes_nothing(kitchen: Any) -> None:
    table = shown(60)
    early = table.filter(pa.compute.less(table["event_timestamp"], pa.scalar(hours(72))))

    def batches() -> list[RankerBatch]:
        stream = TrainingStream(kitchen.store(), early, "rich", **SMALL)
        return list(stream)

    before = batches()
    for name, rows in list(kitchen.rows.items()):
        entity, _, kind = name.partition("_")
        later = [(row[0], hours(72), hours(72), row[3]) for row in rows]
        # Values that say they are older, but were written later, are garbage too.
        old = [(row[0], hours(10), hours(80), row[3]) for row in rows]
        kitchen.write(entity, [*rows, *later, *old], vectors=kind == "vectors")
    assert all(same(a, b) for a, b in zip(batches(), before, strict=True))
    assert any(float(batch.present["user_test_v1"].sum()) for batch in before)


def test_negatives_are_kept_by_share_with_their_weights(ours: FeatureStore) -> None:
    table = shown(400)
    stream = TrainingStream(ours, table, "plain", negatives=0.25, seed=3)
    rows = {row["number"]: row for row in table.to_pylist()}
    kept: list[int] = []
    for batch in stream:
        for place, number in enumerate(batch.context["number"].to_pylist()):
            kept.append(number)
            row = rows[number]
            times = 1 if 1 in (row["click"], row["conversion"]) else 4
            weight = 0 if row["click"] is None else row["click_weight"] * times
            assert batch.weights["click"][place] == pytest.approx(weight)
    positives = {no for no, row in rows.items() if 1 in (row["click"], row["conversion"])}
    assert positives <= set(kept)
    assert 0 < len(kept) - len(positives) < 0.4 * (400 - len(positives))


def test_nothing_is_an_empty_epoch(store: FeatureStore) -> None:
    stream = TrainingStream(store, shown(0), "rich", **SMALL)
    assert len(stream) == 0
    assert list(stream) == []
    assert len(stream.sample(10)) == 0


def test_a_sample_is_spread_over_the_times(ours: FeatureStore) -> None:
    stream = TrainingStream(ours, shown(200), "rich", **SMALL)
    sample = stream.sample(21)
    assert len(sample) == 21
    assert (np.diff(sample.times) >= 0).all()
    assert sample.window() == stream.window()
    assert len(stream.sample(1000)) == 200


def test_ages_are_told_where_the_store_tells(ours: FeatureStore) -> None:
    row = shown(1).set_column(
        3, "event_timestamp", pa.array([hours(60)], pa.timestamp("us", "UTC"))
    )
    row = row.set_column(1, "user_id", pa.array([1])).set_column(2, "pin_id", pa.array([11]))
    batch = next(iter(TrainingStream(ours, row, "rich")))
    assert batch.age_seconds["user_test_v1"].tolist() == [12 * 3600]
    missing = row.set_column(1, "user_id", pa.array([99]))
    batch = next(iter(TrainingStream(ours, missing, "rich")))
    assert math.isnan(batch.age_seconds["user_test_v1"][0])


def test_the_folder_goes_with_the_stream(ours: FeatureStore, tmp_path: Path) -> None:
    stream = TrainingStream(ours, shown(20), "plain")
    folder = stream.impressions.path.parent
    assert folder.exists()
    list(stream.loader(workers=1))
    assert folder.exists()
    del stream
    assert not folder.exists()
    kept = TrainingStream(ours, shown(20), "plain", work=tmp_path)
    assert kept.impressions.path == tmp_path / "impressions.parquet"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["pin_id"]), "no column 'pin_id'"),
        (lambda t: t.set_column(1, "user_id", pa.nulls(9, pa.int64())), "9 nulls in 'user_id'"),
        (lambda t: t.drop_columns(["event_timestamp"]), "event_timestamp among them"),
    ],
)
def test_rows_without_keys_are_refused_before_training(
    ours: FeatureStore, change: Any, said: str
) -> None:
    with pytest.raises(FetchError, match=said):
        TrainingStream(ours, change(shown(9)), "rich")


def test_numbers_that_can_not_be_are_refused(ours: FeatureStore) -> None:
    for wrong in ({"pool_rows": 1}, {"batch_size": 0}, {"rank": 1}, {"negatives": 0.0}):
        options: dict[str, Any] = wrong
        with pytest.raises(ConfigError):
            TrainingStream(ours, shown(9), "plain", **options)
    assert tensors_of(next(iter(TrainingStream(ours, shown(9), "plain"))))
