from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from provender.consumers.ranking_task import Label, RankingTask
from provender.plugin.errors import MappingError
from provender.plugin.world import World


def label(**fields: Any) -> Label:
    given = {"table": "t", "time": "at", "match": {"impression_id": "of"}, "within": "1d"}
    return Label.model_validate({**given, **fields})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("36h", timedelta(hours=36)),
        ("7d", timedelta(days=7)),
        (" 2 w ", timedelta(weeks=2)),
        ("PT90M", timedelta(minutes=90)),
    ],
)
def test_windows_are_read_as_people_write_them(text: str, expected: timedelta) -> None:
    assert label(within=text).within == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"within": "0d"},
        {"within": "soon"},
        {"match": {}},
        {"match": {"item_id": "item"}},
        {"time_unit": "min"},
        {"windw": "1d"},
    ],
)
def test_labels_that_can_not_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        label(**fields)


def test_a_world_without_a_ranking_section_is_one_line() -> None:
    world = World.model_validate(
        {
            "tables": {"t": {"path": "t.parquet"}},
            "entities": {"user": "int64"},
            "events": {"click": {}},
            "dates": {"first_as_of": "2026-03-01", "refreshes": 1},
        }
    )
    with pytest.raises(MappingError, match="ranking: impressions: found nothing"):
        RankingTask.of_world(world)
