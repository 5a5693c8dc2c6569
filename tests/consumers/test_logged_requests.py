from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from provender.consumers.logged_requests import LoggedRequest, logged_requests
from provender.plugin.errors import FetchError
from tests.consumers.kitchen import TIME, hours

#: (user, pin, hour, position)
SHOWN = [
    (1, 10, 1, 0),
    (1, 11, 2, 1),
    (2, 12, 3, 2),
    (1, 10, 5, 3),
    (2, 13, 26, 4),
    (1, 14, 27, 5),
    (3, 15, 28, 6),
]


def table(rows: Sequence[tuple[int, int, float, int]]) -> pa.Table:
    return pa.table(
        {
            "impression_id": pa.array(range(len(rows)), pa.int64()),
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "pin_id": pa.array([row[1] for row in rows], pa.int64()),
            "event_timestamp": pa.array([hours(row[2]) for row in rows], TIME),
            "position": pa.array([row[3] for row in rows], pa.int64()),
            "click": pa.array([0] * len(rows), pa.int8()),
        }
    )


def drawn(count: int = 100, candidates: int = 100, seed: int = 0) -> list[LoggedRequest]:
    return list(logged_requests(table(SHOWN), count, candidates, seed))


def test_each_user_s_day_is_one_request_with_the_pins_it_was_shown_first() -> None:
    requests = drawn()
    assert len(requests) == 5
    (day_1,) = [each for each in requests if each.user == 1 and 10 in each.pins[:1]]
    assert day_1.pins == [10, 11, 10, 12]
    assert {name: column.to_pylist() for name, column in day_1.context.items()} == {
        "position": [0, 1, 3, 0]
    }
    (user_3,) = [each for each in requests if each.user == 3]
    assert user_3.pins[0] == 15
    assert sorted(user_3.pins) == [13, 14, 15]
    assert user_3.context["position"].to_pylist() == [6, 6, 6]


def test_candidates_are_never_more_than_asked_for() -> None:
    assert {len(each.pins) for each in drawn(candidates=2)} == {2}
    assert {tuple(each.pins) for each in drawn(candidates=1)} == {(10,), (12,), (13,), (14,), (15,)}
    assert all(len(each.context["position"]) == len(each.pins) for each in drawn(candidates=2))


def test_the_draw_is_of_the_seed_and_without_repetition() -> None:
    def told(requests: list[LoggedRequest]) -> list[tuple[object, ...]]:
        return [(each.user, *each.pins) for each in requests]

    assert told(drawn(3, seed=1)) == told(drawn(3, seed=1))
    assert len(set(told(drawn(5, candidates=1)))) == 5
    assert any(told(drawn(3, seed=seed)) != told(drawn(3)) for seed in range(1, 5))


def test_users_that_are_strings_are_asked_for_as_such() -> None:
    rows = table(SHOWN)
    place = rows.schema.get_field_index("user_id")
    named = rows.set_column(place, "user_id", rows["user_id"].cast(pa.string()))
    assert {each.user for each in logged_requests(named, 9, 9, 0)} == {"1", "2", "3"}


def test_no_impressions_are_nothing_to_replay() -> None:
    with pytest.raises(FetchError, match="requests to replay: found no impressions"):
        next(logged_requests(table([]), 1, 1, 0))
