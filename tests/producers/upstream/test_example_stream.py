"""The stream of examples: every row once, in an order that is told by seed and epoch, resumable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import log, nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.example_order import POOL, pools
from provender.plugin.read_ahead import read_ahead
from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.example_files import ExampleFile
from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.feature_tables import describe, flat
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.tower_numbers import number_names
from tests.producers.upstream.test_tower_features import DECLARED, same
from tests.producers.upstream.tower_world import (
    DAY,
    HOUR,
    T0,
    Event,
    Example,
    World,
    view_vectors,
    write_set,
)

SOURCES = TowerSources.model_validate(DECLARED)
USERS, PINS, ROWS = 40, 30, 600
VIEWS = {
    f"{entity}_x_v1": view_vectors(
        f"{entity}_x", entity, [(n, T0, [float(n), 1.0]) for n in range(0, count, 2)]
    )
    for entity, count in (("user", USERS), ("pin", PINS))
}
ID_ROWS = {"user": np.arange(USERS), "pin": np.arange(PINS)}


def world(rows: int = ROWS) -> World:
    """Examples whose weights number them in the order of the file."""
    dice = np.random.default_rng(5)
    times = np.sort(T0 + dice.integers(0, 20 * 24, rows) * HOUR // 2 + np.arange(rows))
    shown = [
        Example(
            time=int(time),
            source=row % 2,
            user=int(dice.integers(USERS)),
            pin=int(dice.integers(PINS)),
            labels=[(0, None), (1, 0), (None, 1)][row % 3],
            weight=float(row),
            position=[None, 1.0, 2.0][row % 3],
            surface=["home"] if row % 5 else None,
        )
        for row, time in enumerate(times)
    ]
    events = [Event(each.user, each.time, row % 3, each.pin) for row, each in enumerate(shown)]
    empty: list[Any] = []
    columns = {
        ("user", "number", "score"): [(n, T0, float(n)) for n in range(0, USERS, 2)],
        ("user", "category", "likes"): empty,
        ("pin", "category", "topic"): [(n, T0, ["a", "b"]) for n in range(0, PINS, 3)],
    }
    return World(USERS, PINS, events, shown, columns=columns, group=23)


def opened(folder: Path, batch_size: int = 32, rows: int = ROWS, seed: int = 1) -> ExampleStream:
    tower_set = write_set(folder, world(rows))
    reader = FeatureReader.open(tower_set, SOURCES, VIEWS, ID_ROWS)
    return ExampleStream(tower_set, reader, reader.fit(0), batch_size, seed)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> ExampleStream:
    return opened(tmp_path_factory.mktemp("stream") / "set")


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.weight.int().tolist() for batch in batches]


def flattened(batches: Sequence[Sequence[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


# Order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [False, True])
def test_every_row_once_in_full_batches(stream: ExampleStream, in_order: bool) -> None:
    rows = numbers(stream.batches(0, in_order=in_order))
    assert sorted(flattened(rows)) == list(range(ROWS))
    assert [len(batch) for batch in rows] == [32] * 18 + [24]
    assert stream.count(0) == len(rows)
    assert len(stream) == ROWS
    if in_order:
        assert flattened(rows) == list(range(ROWS))


def test_the_order_is_told_by_seed_and_epoch(stream: ExampleStream, tmp_path: Path) -> None:
    first = flattened(numbers(stream.batches(0)))
    assert first == flattened(numbers(stream.batches(0)))
    assert first != flattened(numbers(stream.batches(1)))
    other = opened(tmp_path / "seed", seed=2)
    assert first != flattened(numbers(other.batches(0)))
    smaller = opened(tmp_path / "size", batch_size=7)
    assert first == flattened(numbers(smaller.batches(0)))


@pytest.mark.parametrize("in_order", [False, True])
def test_resumed_it_goes_on_as_it_would_have(stream: ExampleStream, in_order: bool) -> None:
    whole = list(stream.batches(3, in_order=in_order))
    for start in (0, 1, 5, 6, 17, 18, 19):
        rest = list(stream.batches(3, start, in_order=in_order))
        assert len(rest) == len(whole) - start
        for left, right in zip(rest, whole[start:], strict=True):
            assert same(left.users, right.users)
            assert same(left.pins, right.pins)
            assert same(left.cross, right.cross)
            assert torch.equal(left.weight, right.weight)


@given(
    st.lists(st.integers(1, 9), max_size=30), st.integers(0, 3), st.integers(0, 3), st.booleans()
)
@settings(max_examples=50)
def test_pools_cover_all_and_are_skipped(
    rows: list[int], seed: int, epoch: int, in_order: bool
) -> None:
    held = np.array(rows, np.int64)
    starts = np.concatenate([[0], np.cumsum(held)])

    def order(start: int) -> list[int]:
        found: list[int] = []
        for pool in pools(held, seed, epoch, in_order=in_order, start=start):
            assert len(pool.groups) <= POOL
            lying = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in pool.groups])
            found += lying[pool.rows(lying // 3)].tolist()
        return found

    whole = order(0)
    assert sorted(whole) == list(range(sum(rows)))
    assert whole == sorted(whole) or not in_order
    for start in range(0, sum(rows) + 2, 5):
        assert order(start) == whole[start:]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 3))
@settings(max_examples=50)
def test_rows_of_one_user_and_time_stay_together(users: list[int], seed: int) -> None:
    given = np.array(users, np.int64)
    for pool in pools(np.array([len(given)]), seed, 0, in_order=False):
        rows = pool.rows(given)
        met = [user for user, _ in groupby(given[rows].tolist())]
        assert sorted(met) == sorted(set(users))
        for user in met:
            own = rows[given[rows] == user].tolist()
            assert own == sorted(own)


def test_the_order_stays_what_it_was() -> None:
    """A run is resumed by it, whatever has been updated since."""
    (pool,) = pools(np.array([3, 2, 4]), 7, 1, in_order=False)
    rows = pool.rows(np.array([0, 1, 2, 3, 4, 4, 6, 7, 8]))
    assert (pool.groups.tolist(), rows.tolist()) == ([2, 1, 0], [7, 2, 8, 0, 1, 6, 4, 5, 3])


def test_only_the_groups_of_a_pool_are_read(
    stream: ExampleStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, ...]] = []
    read = ExampleFile.read

    def counted(self: ExampleFile, groups: Sequence[int], columns: Any = None) -> pa.Table:
        reads.append(tuple(groups))
        return read(self, groups, columns)

    monkeypatch.setattr(ExampleFile, "read", counted)
    batches = stream.batches(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert [len(groups) for groups in reads] == [POOL]
    reads.clear()
    list(stream.batches(0))
    assert sorted(group for groups in reads for group in groups) == list(range(-(-ROWS // 23)))
    reads.clear()
    list(stream.batches(0, 18))
    assert len(reads) == 1


def test_no_examples(tmp_path: Path) -> None:
    stream = opened(tmp_path / "set", rows=0)
    assert stream.count(0) == 0
    assert list(stream.batches(0)) == list(stream.batches(0, in_order=True)) == []


# Batches --------------------------------------------------------------------------------------


def test_a_batch_is_its_examples(stream: ExampleStream) -> None:
    shown = world().examples
    counts = Counter(each.pin for each in shown)
    features = stream.features
    for batch in list(stream.batches(2))[::6]:
        rows = [shown[number] for number in batch.weight.int().tolist()]
        user_id, pin_id = batch.user_id.numpy(), batch.pin_id.numpy()
        assert user_id[batch.user].tolist() == [each.user for each in rows]
        assert pin_id[batch.pin].tolist() == [each.pin for each in rows]
        assert batch.source.tolist() == [each.source for each in rows]
        assert batch.labels.tolist() == [[label or 0 for label in each.labels] for each in rows]
        assert batch.known.tolist() == [[x is not None for x in each.labels] for each in rows]
        hours = {(each.user, each.time // HOUR) for each in rows}
        assert len(batch.users) == len(user_id) == len(hours)
        assert len(batch.pins) == len({(each.pin, each.time // DAY) for each in rows})
        shares = [log(counts[pin] / ROWS) for pin in pin_id]
        np.testing.assert_allclose(batch.log_q.numpy(), shares, rtol=1e-6)
        for place, each in enumerate(rows):
            alone = features.users(np.array([each.user]), np.array([each.time]))
            assert torch.equal(batch.users.numbers[batch.user[place]], alone.numbers[0])
            alone = features.pins(np.array([each.pin]), np.array([each.time]))
            assert torch.equal(batch.pins.numbers[batch.pin[place]], alone.numbers[0])


def test_pins_without_examples_have_no_share(tmp_path: Path) -> None:
    tower_set = write_set(tmp_path / "set", World(examples=[Example(T0, 0, 0, 2)], pins=4))
    assert ExampleFile(tower_set).log_q.tolist() == [-np.inf, -np.inf, 0, -np.inf]


def test_a_sample_is_spread_over_the_file(stream: ExampleStream) -> None:
    file = ExampleFile(stream.features.reader.tower_set)
    rows = file.sample(100, 4)["weight"].to_numpy()
    assert (rows // 6 == np.arange(100)).all()
    assert rows.tolist() == file.sample(100, 4)["weight"].to_pylist()
    assert rows.tolist() != file.sample(100, 5)["weight"].to_pylist()
    assert len(set((rows % 6).tolist())) == 6
    assert file.sample(ROWS, 4)["weight"].to_pylist() == list(range(ROWS))


def test_fitted_is_told_by_the_examples(stream: ExampleStream) -> None:
    reader = stream.features.reader
    assert reader.fit(0) == stream.features.fitted
    assert reader.fit(0).hash == reader.fit(0).hash


# The thread -----------------------------------------------------------------------------------


def alive() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("read-ahead")]


def test_what_is_raised_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise KeyError("no more")

    found = []
    with pytest.raises(KeyError, match="no more"):
        for item in read_ahead(items()):
            found.append(item)
    assert found == [1, 2, 3]
    assert not alive()


def test_an_early_stop_ends_the_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert not alive()
    assert len(made) <= 4
    assert list(read_ahead(iter([]))) == []
    assert list(read_ahead(iter(range(50)), 4)) == list(range(50))


# For people and for trees ---------------------------------------------------------------------


def test_coverage(stream: ExampleStream) -> None:
    shown = world().examples
    described = describe(stream.features.fitted, stream.features.reader)
    rows = {(row.tower, row.feature): row for row in described}
    share = np.mean([each.user % 2 == 0 and each.time // HOUR * HOUR > T0 for each in shown])
    assert rows["user", "number_score"].coverage == pytest.approx(share)
    assert rows["user", "count_clicks"].coverage == 1
    assert rows["user", "category_likes"].coverage == 0
    topics = np.mean([each.pin % 3 == 0 and each.time // DAY * DAY > T0 for each in shown])
    assert rows["pin", "category_topic"].coverage == pytest.approx(topics)
    assert rows["pin", "category_topic"].form == "8 rows"
    share = np.mean([each.pin % 2 == 0 for each in shown])
    assert rows["pin", "view_pin_x_v1"].coverage == pytest.approx(share)
    assert rows["cross", "context_position"].coverage == pytest.approx(2 / 3)
    assert rows["cross", "category_surface"].coverage == pytest.approx(4 / 5)
    assert rows["user", "sequence"].form == "last 3"
    assert 0 < rows["user", "sequence"].coverage < 1
    assert rows["user", "sequence_view_pin_x_v1"].coverage == pytest.approx(0.5, abs=0.1)
    assert rows["user", "id"].coverage == 1


def test_flat(stream: ExampleStream) -> None:
    batch = next(stream.batches(0))
    features = stream.features
    names, matrix = flat(features, batch.users, batch.pins, batch.cross, batch.user, batch.pin)
    assert len(set(names)) == len(names)
    assert matrix.shape == (32, len(names))
    assert matrix.dtype == np.float32
    user, pin = batch.user_id[batch.user].tolist(), batch.pin_id[batch.pin].tolist()
    by_name = dict(zip(names, matrix.T.tolist(), strict=True))
    first = [float(each) if each % 2 == 0 else nan for each in user]
    np.testing.assert_array_equal(by_name["user_user_x_v1_0"], first)
    products = [u * p + 1 if u % 2 == p % 2 == 0 else nan for u, p in zip(user, pin, strict=True)]
    np.testing.assert_array_equal(by_name["user_x_v1 x pin_x_v1"], products)
    assert by_name["cross_context_position"] == batch.cross.numbers[:, 0].tolist()
    assert by_name["user_count_clicks"] == batch.users.numbers[batch.user, 0].tolist()
    surface = np.array(by_name["cross_category_surface"])
    assert (surface[~np.isnan(surface)] == 1).all()
    bags = batch.cross.categories["surface"].offsets.diff() > 0
    assert (~np.isnan(surface)).tolist() == bags.tolist()


# Context --------------------------------------------------------------------------------------


def test_the_context_of_some_rows_is_hidden(tmp_path: Path) -> None:
    shown = opened(tmp_path / "set")
    tower_set, reader = shown.features.reader.tower_set, shown.features.reader
    names = number_names(reader.cross.numbers)
    place, flag = names.index("context_position"), names.index("context_position_missing")

    def columns(share: float, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stream = ExampleStream(
            tower_set, reader, shown.features.fitted, 32, 1, context_dropout=share
        )
        batches = list(stream.batches(epoch, in_order=True))
        rest = [n for n in range(len(names)) if n not in (place, flag)]
        whole = torch.cat([each.cross.numbers for each in batches])
        surfaces = torch.cat([each.cross.categories["surface"].offsets.diff() for each in batches])
        return whole[:, [place, flag]], whole[:, rest], surfaces

    given, pairs, surfaces = columns(0.0)
    none, same, nowhere = columns(1.0)
    assert (none == torch.tensor([0.0, 1.0])).all()
    assert not nowhere.any()
    assert torch.equal(pairs, same)
    some, same, somewhere = columns(0.5)
    assert torch.equal(pairs, same)
    hidden = (surfaces > 0) & (somewhere == 0)
    share = float(hidden.sum() / (surfaces > 0).sum())
    assert 0.35 < share < 0.65
    assert torch.equal(some[~hidden & (surfaces > 0)], given[~hidden & (surfaces > 0)])
    assert torch.equal(columns(0.5)[2], somewhere)
    assert not torch.equal(columns(0.5, epoch=1)[2], somewhere)
