"""Drawing by weight and topic, against the obvious loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from provender.producers.simulator_topics import TopicIndex
from provender.producers.simulator_users import draw_topic

uniforms = st.floats(0, 1, exclude_max=True, width=32)


def naive_draw(weights: list[float], uniform: float) -> int:
    """The first position at which the running sum passes uniform x the whole."""
    left = uniform * sum(weights)
    for position, weight in enumerate(weights):
        if left < weight:
            return position
        left -= weight
    return len(weights) - 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), min_size=1), uniforms)
def test_draws_from_a_topic_are_by_weight_within_it(
    pins: list[tuple[int, int]], uniform: float
) -> None:
    topic = np.array([topic for topic, _ in pins])
    weight = np.array([weight for _, weight in pins], np.float32)
    index = TopicIndex(topic, weight, topics=4)
    for wanted in range(4):
        members = np.flatnonzero(topic == wanted).tolist()
        drawn = int(index.draw_in(np.array([wanted]), np.array([uniform]))[0])
        if members:
            chosen = naive_draw([float(weight[m]) for m in members], uniform)
            # Rounding may move a draw that falls on the edge of two neighbours.
            assert abs(members.index(drawn) - chosen) <= 1
        else:
            assert drawn == index.draw(np.array([uniform]))[0]


def test_draws_come_in_proportion_to_weight() -> None:
    index = TopicIndex(np.array([1, 0, 1]), np.array([1, 5, 3], np.float32), topics=3)
    uniform = (np.arange(1_000) + 0.5) / 1_000
    in_one = np.bincount(index.draw_in(np.full(1_000, 1), uniform), minlength=3)
    assert in_one.tolist() == [250, 0, 750]
    anywhere = np.bincount(index.draw(uniform), minlength=3)
    np.testing.assert_allclose(anywhere, [1_000 / 9, 5_000 / 9, 3_000 / 9], atol=1)


@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1), st.data())
def test_topics_are_drawn_by_each_users_own_interests(
    rows: list[list[int]], data: st.DataObject
) -> None:
    interests = np.array(rows, np.float32)
    interests /= interests.sum(axis=1, keepdims=True)
    user = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    uniform = data.draw(st.lists(uniforms, min_size=len(user), max_size=len(user)))
    drawn = draw_topic(interests, np.array(user), np.array(uniform))
    for who, u, topic in zip(user, uniform, drawn.tolist(), strict=True):
        edges = np.cumsum([0, *rows[who]]) / sum(rows[who])
        assert edges[topic] - 1e-5 <= u <= edges[topic + 1] + 1e-5
