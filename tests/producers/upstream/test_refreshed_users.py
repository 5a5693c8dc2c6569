"""Who gets a vector at a refresh of upstream towers, where others are found, what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from feast import FeatureStore

from provender.plugin.snapshot import find_snapshots
from tests.conftest import Provender
from tests.producers.upstream.tower_home import ENTITIES, TowerHome, alone, day

#: Users that are gone and that come, and a pin that is taken down, all between days 5 and 7.
GONE, NEW, DOWN = 3, 777, 4
USERS_VIEW = "user_upstream_v1:embedding"
LENIENT = "upstream: {coverage: 0, quality: 0, drift: {cosine: -1, coverage: 0, norm: 9}}"


def renew(home: TowerHome, provender: Provender, number: int, *further: object) -> Result:
    alone()
    told = ["refresh", "upstream", "--home", home.home.path, "--as-of", day(number).isoformat()]
    return provender(*told, "--device", "cpu", *further)


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory, provender: Provender) -> TowerHome:
    """Refreshed and taken online as of days 5, 6 and 7."""
    home = TowerHome.planted(tmp_path_factory.mktemp("renewed") / "home")
    for name in ("impressions", "clicks", "buys"):
        home.tables[name] = [
            row
            for row in home.tables[name]
            if row["user_id"] != GONE or day(4) - timedelta(hours=9) < row["time"] < day(4)
        ]
    row = {**home.tables["impressions"][0], "impression_id": 10**6}
    home.tables["impressions"] += [
        {**row, "user_id": GONE, "time": day(3.9)},
        {**row, "user_id": NEW, "impression_id": 10**6 + 1, "time": day(6.5)},
    ]
    home.tables["pins"] = [
        {**pin, "until": day(6.5) if pin["pin_id"] == DOWN else None} for pin in home.tables["pins"]
    ]
    home.write()
    home.settings(embedding={"active_days": 2})
    (home.home.repo / "releases.yaml").write_text(LENIENT)
    home.apply()
    for number in (5, 6, 7):
        result = renew(home, provender, number)
        assert result.exit_code == 0, result.output
        assert result.output.count("loaded") == 2
    return home


def test_only_those_who_are_active_and_pins_that_are_up_get_a_new_vector(
    renewed: TowerHome,
) -> None:
    events = [row for name in ("impressions", "clicks", "buys") for row in renewed.tables[name]]
    for number in (5, 6, 7):
        since = day(number) - timedelta(days=2)
        active = {row["user_id"] for row in events if since <= row["time"] < day(number)}
        assert set(renewed.vectors(number)) == active
        up = {pin["pin_id"] for pin in renewed.tables["pins"]} - ({DOWN} if number == 7 else set())
        assert set(renewed.vectors(number, "pin")) == up
        metrics = renewed.snapshot(number).manifest.metrics
        assert metrics["users/embedded"] == len(active)
        everyone = {row["user_id"] for row in events if row["time"] < day(number)}
        assert metrics["users/without"] == len(everyone) - len(active)
    assert GONE in renewed.vectors(5)
    assert GONE not in renewed.vectors(6)
    assert NEW not in renewed.vectors(6)
    assert NEW in renewed.vectors(7)


def test_joins_find_the_last_vector_of_those_who_are_gone(renewed: TowerHome) -> None:
    store = FeatureStore(str(renewed.home.repo))
    asked = pd.DataFrame(
        {
            "user_id": [GONE, GONE, GONE, NEW, NEW],
            "event_timestamp": [day(5.5), day(7.5), day(5) + timedelta(days=31), day(6.6), day(8)],
        }
    )
    table = store.get_historical_features(asked, [USERS_VIEW]).to_df()
    found = {
        (row["user_id"], row["event_timestamp"]): row["embedding"] for _, row in table.iterrows()
    }
    then = renewed.vectors(5)[GONE]
    for when in (5.5, 7.5):
        np.testing.assert_array_equal(np.asarray(found[GONE, day(when)], np.float32), then)
    assert found[GONE, day(5) + timedelta(days=31)] is None  # Beyond the view's ttl.
    assert found[NEW, day(6.6)] is None
    np.testing.assert_array_equal(found[NEW, day(8)], renewed.vectors(7)[NEW])


def test_online_each_vector_has_its_true_age(renewed: TowerHome) -> None:
    store = FeatureStore(str(renewed.home.repo))
    rows: list[dict[str, Any]] = [{"user_id": GONE}, {"user_id": NEW}, {"user_id": 10**9}]
    response = store.get_online_features([USERS_VIEW], rows).proto
    names = list(response.metadata.feature_names.val)
    column = response.results[names.index("embedding")]
    times = [stamp.seconds for stamp in column.event_timestamps]
    assert times[:2] == [int(day(5).timestamp()), int(day(7).timestamp())]
    vectors = [np.array(each.float_list_val.val, np.float32) for each in column.values]
    np.testing.assert_array_equal(vectors[0], renewed.vectors(5)[GONE])
    np.testing.assert_array_equal(vectors[1], renewed.vectors(7)[NEW])
    assert not len(vectors[2])


def test_what_has_drifted_is_published_by_force_only(
    renewed: TowerHome, provender: Provender, tmp_path: Path
) -> None:
    home = renewed.moved(tmp_path / "home")
    (home.home.repo / "releases.yaml").write_text("upstream: {drift: {cosine: 1, coverage: 0}}")
    home.apply()
    result = renew(home, provender, 8)
    assert result.exit_code == 1
    assert result.output.count("refused") == 2
    assert "mean cosine" in result.output
    views = [f"{entity}_upstream_v1" for entity in ENTITIES]
    assert [len(find_snapshots(home.home.snapshots, view)) for view in views] == [3, 3]
    made = {path: path.stat().st_mtime_ns for path in home.home.runs.rglob("*") if path.is_file()}
    result = renew(home, provender, 8, "--force", "--reason", "it is only a test")
    assert result.exit_code == 0, result.output
    after = {path: path.stat().st_mtime_ns for path in home.home.runs.rglob("*") if path.is_file()}
    assert after == made  # Nothing was trained again.
    for entity in ENTITIES:
        manifest = home.snapshot(8, entity).manifest
        assert manifest.notes["forced"] == "it is only a test"
        assert (manifest.metrics["drift/cosine_mean"] or 1) < 1
