"""Features of users, pins and pairs against loops over plain lists, and that none looks ahead."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import inf, isnan, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.feature_reader import FeatureReader, declared_views
from provender.producers.upstream.inputs import Bag, Gathered, Inputs
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_numbers import number_names
from provender.producers.upstream.view_vectors import ViewVectors
from tests.producers.upstream.tower_world import (
    ALWAYS_OR_TIME,
    DAY,
    EVENTS,
    HOUR,
    T0,
    TIMES,
    Event,
    World,
    events,
    examples,
    view_vectors,
    write_set,
)

CONTEXT = {
    "numbers": {"position": {"column": "position", "scale": "none"}},
    "categories": {"surface": {"column": "surface"}},
}
DECLARED: dict[str, Any] = {
    "sources": {
        "shown": {
            "table": "t",
            "user": "u",
            "pin": "p",
            "time": "t",
            "id": "i",
            "context": CONTEXT,
            "labels": {"click": {"table": "e", "match": {"id": "i"}, "time": "t", "within": "1h"}},
        },
        "bought": {
            "table": "t",
            "user": "u",
            "pin": "p",
            "time": "t",
            "labels": {"buy": "always"},
            "negatives": 1,
        },
    },
    "features": {
        "user": {
            "as_of": "hour",
            "counts": {
                "clicks": {"events": ["click"]},
                "clicks_2d": {"events": ["click"], "days": 2},
                "clicks_1d": {"events": ["click"], "days": 1},
                "all_half": {"events": ["impression", "click", "save"], "days": 0.5},
            },
            "recency": {"click": {"events": ["click"]}},
            "numbers": {"score": {"column": "s", "table": "t", "key": "k", "scale": "none"}},
            "categories": {"likes": {"column": "c", "table": "t", "key": "k"}},
            "views": ["user_x_v1"],
            "ids": {},
            "sequence": {"events": ["save", "click"], "length": 3, "views": ["pin_x_v1"]},
        },
        "pin": {
            "counts": {"seen_2d": {"events": ["impression", "save"], "days": 2}},
            "categories": {"topic": {"column": "c", "table": "t", "key": "k", "buckets": 7}},
            "views": ["pin_x_v1"],
        },
        "pair": {
            "counts": {"met": {"events": ["impression", "click"]}},
            "recency": {"saved": {"events": ["save"]}},
        },
    },
}
SOURCES = TowerSources.model_validate(DECLARED)
ROWS = {"user": np.array([2, -1, 0]), "pin": np.array([5, 4, -1, 1])}
WORDS = ["a", "b", "c"]

Rows = list[tuple[int, int, Any]]


def column(ids: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Rows]:
    """Rows of a column, one an id and time."""
    row = st.tuples(st.integers(0, ids - 1), ALWAYS_OR_TIME, values)
    return st.lists(row, max_size=8, unique_by=lambda row: row[:2])


SCORES = column(3, st.sampled_from([0.0, 1.5, -2.0, None, nan, inf]))
BAGS = st.none() | st.lists(st.sampled_from([*WORDS, None]), max_size=3)
WORLDS = st.builds(
    lambda events, examples, since, score, likes, topic: World(
        events=events,
        examples=examples,
        since=since,
        columns={
            ("user", "number", "score"): score,
            ("user", "category", "likes"): likes,
            ("pin", "category", "topic"): topic,
        },
    ),
    st.lists(events(), max_size=25),
    st.lists(examples(), min_size=1, max_size=6),
    st.lists(st.none() | TIMES, min_size=4, max_size=4),
    SCORES,
    column(3, BAGS),
    column(4, BAGS),
)
SNAPSHOTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6, unique=True
)


def vectors(entity: str, held: list[tuple[int, int]]) -> tuple[list[Any], ViewVectors]:
    """A vector for each (number, day) that is held, which tells both."""
    rows = [(number, T0 + day * DAY, [float(number), float(day)]) for number, day in held]
    return rows, view_vectors(f"{entity}_x", entity, rows)


def opened(folder: Path, world: World, views: dict[str, ViewVectors]) -> FeatureReader:
    return FeatureReader.open(write_set(folder, world), SOURCES, views, ROWS)


def asked(count: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, count - 1), TIMES), min_size=1, max_size=5)


def columns_of(asked: list[tuple[int, int]]) -> tuple[Any, Any]:
    ids, times = np.array(asked, np.int64).T
    return np.ascontiguousarray(ids), np.ascontiguousarray(times)


# The oracle -----------------------------------------------------------------------------------


def count(rows: list[Event], kinds: tuple[str, ...], time: int, days: float | None = None) -> int:
    since = -inf if days is None else time - days * DAY
    return sum(EVENTS[each.event] in kinds and since <= each.time < time for each in rows)


def minutes(times: list[int], time: int) -> float:
    before = [each for each in times if each < time]
    return (time - max(before)) / 60e6 if before else nan


def newest(rows: Rows, number: int, time: int) -> Any:
    held = [(when, value) for of, when, value in rows if of == number and when < time]
    return max(held, key=lambda each: each[0])[1] if held else None


def vector(rows: list[Any], number: int, time: int) -> list[float] | None:
    held = [(when, value) for of, when, value in rows if of == number and when <= time]
    return max(held)[1] if held else None


def of_user(world: World, number: int, time: int) -> list[float]:
    mine = [each for each in world.events if each.user == number]
    first, _ = world.spans("user")[number]
    score = newest(list(world.columns["user", "number", "score"]), number, time)
    return [
        count(mine, ("click",), time),
        count(mine, ("click",), time, 2),
        count(mine, ("click",), time, 1),
        minutes([each.time for each in mine if each.event == 1], time),
        count(mine, EVENTS, time, 0.5),
        (time - first) / 60e6 if first is not None and first < time else nan,
        nan if score is None or not np.isfinite(score) else score,
    ]


def of_pin(world: World, number: int, time: int) -> list[float]:
    mine = [each for each in world.events if each.pin == number]
    first = world.since[number] if world.since else None
    first = world.spans("pin")[number][0] if first is None else first
    return [
        count(mine, ("impression", "save"), time, 2),
        (time - first) / 60e6 if first is not None and first < time else nan,
    ]


def of_pair(world: World, user: int, pin: int, time: int) -> list[float]:
    mine = [each for each in world.events if (each.user, each.pin) == (user, pin)]
    saves = [each.time for each in mine if each.event == 2]
    return [count(mine, ("impression", "click"), time), minutes(saves, time)]


def bags(bag: Bag) -> list[list[int]]:
    edges = bag.offsets.tolist()
    return [bag.values[low:high].tolist() for low, high in pairwise(edges)]


def plain(gathered: Gathered) -> Any:
    """Vectors as lists, None where there is none."""
    missing = gathered.table.new_full((1, gathered.table.shape[1]), nan)
    dense = torch.cat([gathered.table, missing])[gathered.index].tolist()
    return without_nan(dense)


def without_nan(nested: Any) -> Any:
    if nested and isinstance(nested[0], float):
        return None if isnan(nested[0]) else nested
    return [without_nan(each) for each in nested]


def check_numbers(names: list[str], inputs: Inputs, fitted: Any, expected: list[Any]) -> None:
    """Each value scaled by the fitted scale, 0 and a flag where there is none."""
    known = np.array(expected, np.float32)
    for place, name in enumerate(names):
        if not name.endswith("_missing"):
            wanted = fitted.numbers[name].apply(known[:, place])
            flags = np.isnan(known[:, place])
            assert (inputs.numbers[:, place].numpy() == wanted).all(), name
            assert not inputs.numbers[flags, place].any()
            if f"{name}_missing" in names:
                flag = inputs.numbers[:, names.index(f"{name}_missing")].numpy()
                assert (flag == flags).all(), name
    assert inputs.numbers.shape == (len(expected), len(names))
    assert inputs.numbers.isfinite().all()


# Against the oracle ---------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(WORLDS, asked(3), SNAPSHOTS, SNAPSHOTS)
def test_users(world: World, asked: list[tuple[int, int]], held: list[Any], met: list[Any]) -> None:
    rows, user_view = vectors("user", held)
    pin_rows, pin_view = vectors("pin", met)
    with TemporaryDirectory() as folder:
        views = {"user_x_v1": user_view, "pin_x_v1": pin_view}
        reader = opened(Path(folder) / "set", world, views)
        fitted = reader.fit(0)
        inputs = reader.using(fitted).users(*columns_of(asked))
    floored = [(user, time // HOUR * HOUR) for user, time in asked]
    names = number_names(reader.user.numbers)
    assert names == [
        *("count_clicks", "count_clicks_2d", "count_clicks_1d", "recency_click"),
        *("count_all_half", "age", "number_score"),
        *("recency_click_missing", "age_missing", "number_score_missing"),
    ]
    check_numbers(names, inputs, fitted.user, [of_user(world, *each) for each in floored])
    words = fitted.user.categories["likes"].values
    assert words is not None
    likes = [newest(list(world.columns["user", "category", "likes"]), *each) for each in floored]
    assert bags(inputs.categories["likes"]) == [
        [1 + words.index(word) if word in words else 0 for word in some or [] if word is not None]
        for some in likes
    ]
    assert plain(inputs.vectors["user_x_v1"]) == [vector(rows, *each) for each in floored]
    assert inputs.ids is not None
    assert inputs.ids.tolist() == [[2, -1, 0][user] for user, _ in asked]
    check_actions(world, inputs, floored, pin_rows)


def check_actions(
    world: World, inputs: Inputs, asked: list[tuple[int, int]], pin_rows: list[Any]
) -> None:
    actions = inputs.sequence
    assert actions is not None
    longest = 0
    for place, (user, time) in enumerate(asked):
        mine = [each for each in sorted(world.events) if each.user == user and each.event > 0]
        last = [each for each in mine if each.time < time][::-1][:3]
        longest = max(longest, len(last))
        width = len(last)
        assert actions.present[place].tolist() == [True] * width + [False] * (
            actions.present.shape[1] - width
        )
        assert actions.event[place, :width].tolist() == [2 - each.event for each in last]
        ages = np.array([(time - each.time) / DAY for each in last], np.float32)
        assert actions.age[place, :width].tolist() == ages.tolist()
        pins = [-1 if each.pin < 0 else [5, 4, -1, 1][each.pin] for each in last]
        assert actions.pin[place].tolist() == pins + [-1] * (len(actions.pin[place]) - width)
        assert not actions.event[place, width:].any()
        assert not actions.age[place, width:].any()
        found = plain(actions.vectors["pin_x_v1"])[place]
        assert found == [vector(pin_rows, each.pin, time) for each in last] + [None] * (
            actions.present.shape[1] - width
        )
    assert actions.present.shape == (len(asked), longest)


@settings(max_examples=25, deadline=None)
@given(WORLDS, asked(4), SNAPSHOTS)
def test_pins(world: World, asked: list[tuple[int, int]], met: list[Any]) -> None:
    rows, view = vectors("pin", met)
    with TemporaryDirectory() as folder:
        views = {"user_x_v1": vectors("user", [(0, 0)])[1], "pin_x_v1": view}
        reader = opened(Path(folder) / "set", world, views)
        fitted = reader.fit(0)
        features = reader.using(fitted)
        inputs = features.pins(*columns_of(asked))
    floored = [(pin, time // DAY * DAY) for pin, time in asked]
    names = number_names(reader.pin.numbers)
    assert names == ["count_seen_2d", "age", "age_missing"]
    check_numbers(names, inputs, fitted.pin, [of_pin(world, *each) for each in floored])
    hashed = fitted.pin.categories["topic"]
    topics = [newest(list(world.columns["pin", "category", "topic"]), *each) for each in floored]
    assert bags(inputs.categories["topic"]) == [
        hashed.rows(pa.array([word for word in some or [] if word is not None])).tolist()
        if some
        else []
        for some in topics
    ]
    assert plain(inputs.vectors["pin_x_v1"]) == [vector(rows, *each) for each in floored]
    assert inputs.ids is None
    assert inputs.sequence is None


@settings(max_examples=25, deadline=None)
@given(WORLDS)
def test_pairs_and_context(world: World) -> None:
    shown = world.examples
    views = {f"{entity}_x_v1": vectors(entity, [(0, 0)])[1] for entity in ("user", "pin")}
    with TemporaryDirectory() as folder:
        reader = opened(Path(folder) / "set", world, views)
        fitted = reader.fit(0)
        context = {
            "number_position": pa.chunked_array([[each.position for each in shown]], pa.float32()),
            "category_surface": pa.chunked_array(
                [[each.surface for each in shown]], pa.list_(pa.string())
            ),
        }
        users, pins, times = np.array([(e.user, e.pin, e.time) for e in shown]).T
        inputs = reader.using(fitted).cross(users, pins, times, context)
    names = number_names(reader.cross.numbers)
    assert names[:3] == ["context_position", "count_met", "recency_saved"]
    given = [nan if e.position in (None, inf) else e.position for e in shown]
    check_numbers(
        names,
        inputs,
        fitted.cross,
        [[p, *of_pair(world, e.user, e.pin, e.time)] for p, e in zip(given, shown, strict=True)],
    )
    words = fitted.cross.categories["surface"].values
    assert words is not None
    assert bags(inputs.categories["surface"]) == [
        [1 + words.index(word) for word in each.surface or []] for each in shown
    ]


# Nothing looks ahead --------------------------------------------------------------------------


def same(left: Inputs, right: Inputs) -> bool:
    """Whether two inputs tell a tower the same, to the bit."""
    equal = [torch.equal(left.numbers, right.numbers)]
    equal += [
        torch.equal(bag.values, right.categories[name].values)
        and torch.equal(bag.offsets, right.categories[name].offsets)
        for name, bag in left.categories.items()
    ]
    equal += [plain(view) == plain(right.vectors[name]) for name, view in left.vectors.items()]
    if left.sequence is not None and right.sequence is not None:
        equal += [
            torch.equal(getattr(left.sequence, name), getattr(right.sequence, name))
            for name in ("event", "age", "pin", "present")
        ]
        equal += [
            plain(view) == plain(right.sequence.vectors[name])
            for name, view in left.sequence.vectors.items()
        ]
    return all(equal)


@settings(max_examples=25, deadline=None)
@given(WORLDS, WORLDS, TIMES, SNAPSHOTS, SNAPSHOTS)
def test_what_is_at_or_after_a_time_changes_nothing_at_it(
    world: World, garbage: World, time: int, held: list[Any], late: list[Any]
) -> None:
    """Garbage events, columns and vectors, of the time of the example or later."""

    def later(rows: Any) -> list[Any]:
        return [row for row in rows if row[1] >= time]

    known = [row for row in held if T0 + row[1] * DAY <= time] or [(0, -9)]
    unknown = [row for row in late if T0 + row[1] * DAY > time]
    taken = {name: {row[:2] for row in rows} for name, rows in world.columns.items()}
    more = world.but(
        events=[*world.events, *later(garbage.events)],
        columns={
            name: [*rows, *(r for r in later(garbage.columns[name]) if r[:2] not in taken[name])]
            for name, rows in world.columns.items()
        },
    )

    def read(world: World, days: list[Any], fitted: Fitted | None) -> tuple[Any, Fitted]:
        views = {f"{entity}_x_v1": vectors(entity, days)[1] for entity in ("user", "pin")}
        with TemporaryDirectory() as folder:
            reader = opened(Path(folder) / "set", world, views)
            fitted = fitted or reader.fit(0)
            features = reader.using(fitted)
            users, pins = (each.reshape(-1) for each in np.mgrid[0:3, 0:4])
            context = {
                "number_position": pa.chunked_array([[0.0] * 12], pa.float32()),
                "category_surface": pa.chunked_array([[["home"]] * 12]),
            }
            times = np.full(12, time)
            inputs = (
                features.users(np.arange(3), times[:3]),
                features.pins(np.arange(4), times[:4]),
                features.cross(users, pins, times, context),
            )
            return inputs, fitted

    before, fitted = read(world, known, None)
    after, _ = read(more, [*known, *unknown], fitted)
    assert all(same(left, right) for left, right in zip(before, after, strict=True))


# Layout and fit -------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path: Path) -> TowerFeatures:
    world = World(
        events=[Event(0, T0, 1, 0), Event(1, T0 + HOUR, 2, 1)],
        examples=[],
        columns={
            ("user", "number", "score"): [(0, T0, 1.0)],
            ("user", "category", "likes"): [(0, T0, ["a"])],
            ("pin", "category", "topic"): [],
        },
    )
    views = {f"{entity}_x_v1": vectors(entity, [(0, 0)])[1] for entity in ("user", "pin")}
    reader = opened(tmp_path / "set", world, views)
    return reader.using(reader.fit(0))


def test_no_example_can_be_fitted_on(features: TowerFeatures) -> None:
    inputs = features.users(np.arange(3), np.full(3, T0 + DAY))
    assert inputs.numbers.isfinite().all()
    assert features.fitted.user.categories["likes"].values == ()
    assert bags(inputs.categories["likes"]) == [[0], [], []]


def test_the_layout_is_that_of_the_inputs(features: TowerFeatures) -> None:
    layout = features.layout
    inputs = features.users(np.arange(3), np.full(3, T0 + DAY))
    assert layout.user.numbers == inputs.numbers.shape[1] == 10
    assert layout.user.vectors == {"user_x_v1": 2}
    assert layout.user.categories == {"likes": 1}
    assert layout.user.ids
    assert not layout.pin.ids
    assert layout.user.sequence is not None
    assert (layout.user.sequence.events, layout.user.sequence.length) == (2, 3)
    assert layout.user.sequence.vectors == {"pin_x_v1": 2}
    assert layout.pin.categories == {"topic": 8}
    assert layout.cross.numbers == 1 + 1 + 1 + 2
    assert layout.tasks == ("click", "buy")
    assert layout.liked == ("click", "buy")


def test_nobody_is_nothing(features: TowerFeatures) -> None:
    none = np.empty(0, np.int64)
    assert len(features.users(none, none)) == len(features.pins(none, none)) == 0


def test_declared_views() -> None:
    assert SOURCES.features is not None
    assert declared_views(SOURCES.features) == {"user_x_v1": "user", "pin_x_v1": "pin"}


def test_all_at_one_time_is_each_alone(features: TowerFeatures) -> None:
    read: Callable[..., Inputs] = features.users
    together = read(np.arange(3), np.full(3, T0 + DAY))
    for user in range(3):
        alone = read(np.array([user]), np.array([T0 + DAY]))
        assert torch.equal(alone.numbers[0], together.numbers[user])
