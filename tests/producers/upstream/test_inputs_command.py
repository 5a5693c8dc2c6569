"""What towers would be given, as it is told before anything is trained."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.upstream.inputs_command import look_at_inputs
from provender.producers.upstream.inputs_summary import inputs_json, inputs_summary
from provender.producers.upstream.tower_job import TowerJob

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def job(tmp_path: Path) -> TowerJob:
    """Ten rows that were shown, one a day, two without a user; odd ones are clicked at once."""
    times = [START + timedelta(days=day) for day in range(10)]
    users = [None, None, *(day % 3 for day in range(2, 10))]
    shown = {
        "id": list(range(10)),
        "user": pa.array(users, pa.int64()),
        "pin": [day % 4 for day in range(10)],
        "ts": times,
        "place": [float(day) if day % 2 else None for day in range(10)],
    }
    pq.write_table(pa.table(shown), tmp_path / "shown.parquet")
    clicked = {"id": list(range(1, 10, 2)), "ts": times[1::2]}
    pq.write_table(pa.table(clicked), tmp_path / "clicked.parquet")
    content = {
        "tables": {name: {"path": f"{name}.parquet"} for name in ("shown", "clicked")},
        "entities": {"user": "int64", "pin": "int64"},
        "events": {
            "show": {
                "table": "shown",
                "time": "ts",
                "head": {"user": "user"},
                "tail": {"pin": "pin"},
            }
        },
        "max_bad_share": 0.5,
        "upstream": {
            "sources": {
                "shown": {
                    "table": "shown", "id": "id", "user": "user", "pin": "pin", "time": "ts",
                    "context": {"numbers": {"place": {"column": "place"}}},
                    "labels": {
                        "click": {
                            "table": "clicked", "match": {"id": "id"}, "time": "ts",
                            "within": "1d",
                        }
                    },
                }
            },
            "features": {
                "user": {"counts": {"shown": {"events": ["show"]}}},
                "pin": {"recency": {"shown": {"events": ["show"]}}},
            },
        },
        "dates": {"first_as_of": "2026-03-10", "refreshes": 1},
    }  # fmt: skip
    spec = EmbeddingSpec.declare(
        name="user_upstream", version=1, entity="user", join_key="user_id", dim=8,
        space="upstream_v1", producer="upstream", ttl=timedelta(days=30),
    )  # fmt: skip
    view = DeclaredView(spec, "int64")
    return TowerJob.declare(
        World.model_validate(content), tmp_path, Home(tmp_path / "home"), [view], "cpu"
    )


def test_rows_labels_and_features_are_told(job: TowerJob) -> None:
    cut = START + timedelta(days=9)
    report, features = look_at_inputs(job, cut, None, lambda *_: None)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*inputs_summary(report, features))
    lines = [
        [part.strip() for part in line.split("│")] for line in capture.get().splitlines() if line
    ]
    # Rows of days 0 to 8: two have no user; of that of day 8 it is not known yet.
    dropped = ", ".join(f"2 {why}" for why in report["sources"]["shown"]["dropped"])
    assert ["event show", "7", dropped, "", "", ""] in lines
    assert ["source shown", "7", dropped, "6", "1 not known yet", "0"] in lines
    assert ["label click of shown", "4", "", "", "", ""] in lines
    assert ["users", "3", "", "", "", ""] in lines
    # Of days 2 to 7: 3, 5 and 7 are positives.
    assert ["click of shown", "6", "3", "1"] in lines
    # The rank of the table of features: each is named; a place is there every other day.
    there = {(one.tower, one.feature): one.coverage for one in features}
    assert there["cross", "context_place"] == 0.5
    for one in features:
        assert [one.tower, one.feature, one.form, f"{one.coverage:.1%}"] in lines


def test_the_same_as_json(job: TowerJob) -> None:
    report, features = look_at_inputs(job, START + timedelta(days=9), None, lambda *_: None)
    told = json.loads(json.dumps(inputs_json(report, features)))
    assert told["sources"]["shown"]["tasks"]["click"]["positives"] == 3
    assert told["entities"]["user"] == 3
    assert {"tower", "feature", "form", "coverage"} == set(told["features"][0])
    assert len(told["features"]) == len(features)
