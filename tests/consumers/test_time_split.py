from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provender.consumers.time_split import split_by_time
from provender.plugin.errors import ConfigError
from provender.plugin.world import World

DAY = timedelta(days=1)
FIRST = datetime(2026, 3, 1, tzinfo=UTC)


def world(**labels: dict[str, Any]) -> World:
    label = {"table": "shown", "match": {"impression_id": "id"}, "time": "at"}
    columns = {"table": "shown", "id": "id", "user": "user", "pin": "pin", "time": "at"}
    return World.model_validate(
        {
            "tables": {"shown": {"path": "shown.parquet"}},
            "entities": {"user": "int64", "pin": "int64"},
            "events": {"click": {}},
            "ranking": {
                "impressions": columns,
                "labels": {name: {**label, **one} for name, one in labels.items()},
            },
            "dates": {"first_as_of": "2026-03-01", "refreshes": 11, "evaluate_days": 2},
        }
    )


def test_spans_follow_one_another_and_end_where_labels_are_known() -> None:
    split = split_by_time(world(click={"within": "2d"}, conversion={"within": "7d"}), held_back=0.5)
    assert split.training == (FIRST, FIRST + 4 * DAY)
    assert split.held_back == (FIRST + 4 * DAY, FIRST + 8 * DAY)
    assert split.evaluation == (FIRST + 10 * DAY, FIRST + 12 * DAY)
    assert split.known == FIRST + 10 * DAY


def test_weighed_labels_are_known_up_to_the_last_refresh() -> None:
    weighed = {"within": "7d", "immature": "weigh"}
    split = split_by_time(world(click={"within": "2d"}, conversion=weighed))
    assert split.held_back == (FIRST + 9 * DAY, FIRST + 10 * DAY)


@pytest.mark.parametrize(("within", "share"), [("2d", 0.0), ("2d", 1.0), ("10d", 0.5)])
def test_a_split_with_nothing_on_one_side_is_refused(within: str, share: float) -> None:
    with pytest.raises(ConfigError, match="split by time"):
        split_by_time(world(click={"within": within}), held_back=share)
