"""Refreshes of upstream towers: what is learned, who gets a vector, what is refused."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import remove_folder
from provender.plugin.snapshot import find_snapshots
from provender.producers.refresh import Refresh
from provender.producers.upstream.tower_refresh import MODEL, ROWS, TowerRun
from tests.conftest import Provender
from tests.producers.upstream.reading_world import rows_of
from tests.producers.upstream.tower_home import (
    ENTITIES,
    PINS,
    TINY,
    USERS,
    WITHIN,
    TowerHome,
    day,
    section_of,
)

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[TowerHome, Refresh]:
    """A first refresh as of day 5, not to be changed."""
    home = TowerHome.planted(tmp_path_factory.mktemp("first") / "home")
    return home, home.refresh(5)


@pytest.fixture(scope="module")
def second(
    first: tuple[TowerHome, Refresh], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TowerHome, Refresh]:
    """The same with a second one as of day 6, not to be changed."""
    home = first[0].moved(tmp_path_factory.mktemp("second") / "home")
    return home, home.refresh(6)


@pytest.fixture
def mine(second: tuple[TowerHome, Refresh], tmp_path: Path) -> TowerHome:
    """A copy of both, of one's own."""
    return second[0].moved(tmp_path / "home")


def same(one: TowerHome, other: TowerHome, number: float) -> bool:
    """Whether two homes have published the same bits."""
    for entity in ENTITIES:
        found = [each.snapshot(number, entity).read() for each in (one, other)]
        if not found[0][0].equals(found[1][0]) or not np.array_equal(found[0][1], found[1][1]):
            return False
    return True


def cosine(home: TowerHome, one: float, other: float) -> float:
    """The mean cosine of those who are in two refreshes."""
    before, after = home.vectors(one), home.vectors(other)
    return float(np.mean([before[key] @ after[key] for key in before.keys() & after.keys()]))


def test_the_first_refresh_publishes_all_users_and_pins(first: tuple[TowerHome, Refresh]) -> None:
    home, done = first
    assert not done.done_before
    for entity, count in (("user", USERS), ("pin", PINS)):
        manifest = home.snapshot(5, entity).manifest
        assert (manifest.run_id, manifest.parent) == (done.run_id, None)
        assert (manifest.metrics["users/embedded"], manifest.metrics["pins/embedded"]) == (
            USERS, PINS,
        )  # fmt: skip
        assert manifest.notes["trained_since"] == day(5).isoformat()
        assert manifest.window_end == day(5)
        found = home.vectors(5, entity)
        assert sorted(found) == list(range(count))
        norms = np.linalg.norm(list(found.values()), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


def known_clicks(home: TowerHome, start: float, end: float) -> set[tuple[Any, ...]]:
    """(user, pin, time, label) of impressions whose window ends in (start, end), in days."""
    clicked = {row["impression_id"] for row in home.tables["clicks"]}
    return {
        (row["user_id"], row["pin_id"], row["time"], int(row["impression_id"] in clicked))
        for row in home.tables["impressions"]
        if day(start) < row["time"] + WITHIN * HOUR < day(end)
    }


def learned(home: TowerHome, run_id: str, task: str) -> list[tuple[Any, ...]]:
    """(user, pin, time, label) of the examples of a run that have a label of a task."""
    rows = home.home.runs / run_id / ROWS
    keys = {each: pq.read_table(rows / "keys" / f"{each}.parquet")["key"] for each in ENTITIES}
    return [
        (
            keys["user"][row["user"]].as_py(),
            keys["pin"][row["pin"]].as_py(),
            day(0) + timedelta(microseconds=row["time"] - int(day(0).timestamp()) * 10**6),
            row[f"label_{task}"],
        )
        for row in rows_of(rows / "examples.parquet")
        if row[f"label_{task}"] is not None
    ]


def test_each_refresh_learns_what_has_become_known_since_the_last(
    second: tuple[TowerHome, Refresh],
) -> None:
    home, done = second
    parent = home.snapshot(5).manifest.run_id
    assert home.snapshot(6).manifest.parent == home.snapshot(6, "pin").manifest.parent == parent
    for run_id, start, end in ((parent, -1, 5), (done.run_id, 5, 6)):
        clicks = learned(home, run_id, "click")
        assert len(clicks) == len(set(clicks))
        assert set(clicks) == known_clicks(home, start, end)
        bought = [row[:3] for row in learned(home, run_id, "buy") if row[3]]
        assert sorted(bought) == sorted(
            (row["user_id"], row["pin_id"], row["time"])
            for row in home.tables["buys"]
            if day(start) <= row["time"] < day(end)
        )


def test_the_manifest_judges_the_former_by_what_came_after(
    second: tuple[TowerHome, Refresh],
) -> None:
    home, done = second
    metrics = home.snapshot(6).manifest.metrics
    users, pins = home.vectors(5), home.vectors(5, "pin")
    found = []
    for task in ("click", "buy"):
        # Of rows before that refresh its vectors may have seen what became.
        rows = [row for row in learned(home, done.run_id, task) if row[2] >= day(5)]
        scores = [float(users[user] @ pins[pin]) for user, pin, *_ in rows]
        found.append(roc_auc_score([row[3] for row in rows], scores))
        auc = metrics[f"auc/{task}"]
        assert auc is not None
        assert 0 <= auc <= 1
        assert (metrics[f"log_loss/{task}"] or 0) > 0
        assert (metrics[f"calibration/{task}"] or 0) > 0
    assert metrics["quality"] == pytest.approx(np.mean(found), abs=1e-6)
    assert metrics["quality_popularity"] is not None
    assert "quality" not in home.snapshot(5).manifest.metrics


def test_what_is_done_is_not_done_again(second: tuple[TowerHome, Refresh]) -> None:
    home, done = second
    files = {path: path.stat().st_mtime_ns for path in home.home.path.rglob("*") if path.is_file()}
    again = home.refresh(6)
    assert again.done_before
    assert again.run_id == done.run_id
    after = {path: path.stat().st_mtime_ns for path in home.home.path.rglob("*") if path.is_file()}
    assert {path for path in files if "snapshots" in path.parts} <= after.keys()
    assert all(after[path] == files[path] for path in files if "snapshots" in path.parts)


def test_a_backfill_goes_from_day_to_day_and_takes_keys_of_text(
    provender: Provender, tmp_path: Path
) -> None:
    home = TowerHome.planted(tmp_path / "home", strings=True)
    told = ["produce", "--home", home.home.path, "--family", "upstream", "--device", "cpu"]
    result = provender(*told, "--as-of", day(7).isoformat(), "--days", 3)
    assert result.exit_code == 0, result.output
    found = find_snapshots(home.home.snapshots, "user_upstream_v1")
    assert [each.manifest.as_of for each in found] == [day(5), day(6), day(7)]
    runs = [each.manifest.run_id for each in found]
    assert [each.manifest.parent for each in found] == [None, *runs[:2]]
    assert {home.key(number) for number in range(USERS)} >= set(home.vectors(7))
    for as_ofs in ([], ["--as-of", day(5).isoformat(), "--as-of", day(6).isoformat()]):
        result = provender(*told, *as_ofs, "--days", 3)
        assert result.exit_code == 2
        assert "--days needs one --as-of" in result.output


def garbled(home: TowerHome, number: float) -> None:
    """Write the rows before a day, and garbage at that very moment and after it."""
    whole = {name: list(rows) for name, rows in home.tables.items()}
    for name, rows in home.tables.items():
        kept = [row for row in rows if row["time"] < day(number)]
        later = [{**row, "time": day(number) + n * 7 * HOUR} for n, row in enumerate(rows[:40])]
        later += [{**row, "user_id": 999, "pin_id": 999} for row in later[:5]]
        later += [{**row, "time": day(number)} for row in rows[-5:]]
        if name == "pins":
            later = [{**row, "price": 1e9, "group": "none"} for row in later]
            gone = {"until": day(number) + HOUR}
            kept = [{**row, **gone} if n % 3 else row for n, row in enumerate(kept)]
            later = [{name: row[name] for name in kept[0]} for row in later]
        home.tables[name] = kept + later
    home.write()
    home.tables = whole


def test_what_lies_at_or_after_the_cut_changes_nothing(
    second: tuple[TowerHome, Refresh], tmp_path: Path
) -> None:
    home = TowerHome.planted(tmp_path / "home")
    for number in (5, 6):
        garbled(home, number)
        done = home.refresh(number)
        assert same(home, second[0], number)
        other = second[0].home.runs / done.run_id / MODEL / "vectors"
        own = home.home.runs / done.run_id / MODEL / "vectors"
        for entity in ENTITIES:
            name = f"{entity}.parquet"
            assert (own / name).read_bytes() == (other / name).read_bytes()


def test_pins_without_a_table_are_those_with_an_event_in_live_days(tmp_path: Path) -> None:
    home = TowerHome.planted(tmp_path / "home")
    home.tables["impressions"].append(
        {**home.tables["impressions"][0], "impression_id": 10**6, "pin_id": 777, "time": day(1)}
    )
    home.write()
    found = {}
    for days in (1.0, None):
        home.settings(pins=None, embedding={"live_days": days})
        home.refresh(5)
        found[days] = set(home.vectors(5, "pin"))
        shutil.rmtree(home.home.snapshots)
    events = [row for name in ("impressions", "clicks", "buys") for row in home.tables[name]]
    assert found[1.0] == {row["pin_id"] for row in events if day(4) <= row["time"] < day(5)}
    assert found[None] == {row["pin_id"] for row in events if row["time"] < day(5)} | set(
        range(PINS)
    )
    assert 777 in found[None] - found[1.0]


def test_the_decayed_mean_is_that_of_all_vectors(tmp_path: Path) -> None:
    half_life, days = 1.5, (5.0, 6.0, 7.5)
    homes = {}
    for kind in ("latest", "decayed_mean"):
        homes[kind] = TowerHome.planted(tmp_path / kind)
        homes[kind].settings(
            embedding={"aggregate": kind, "half_life_days": half_life, "active_days": 0.5}
        )
        for number in days:
            homes[kind].refresh(number)
    latest = {number: homes["latest"].vectors(number) for number in days}
    absent = 0
    for number in days:
        found = homes["decayed_mean"].vectors(number)
        assert found.keys() == latest[number].keys()
        assert same_vectors(homes, number, "pin")
        for key, vector in found.items():
            mean = np.zeros(8)
            for then in days:
                if then <= number and key in latest[then]:
                    mean += 0.5 ** ((number - then) / half_life) * latest[then][key]
                absent += then < number and key not in latest[then]
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert absent
    moved = [float(found[key] @ latest[7.5][key]) for key in found]
    assert min(moved) < 0.9999


def same_vectors(homes: dict[str, TowerHome], number: float, entity: str) -> bool:
    """Whether two homes have the same of an entity."""
    one, other = (home.vectors(number, entity) for home in homes.values())
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


FEATURES, SOURCES = (section_of()[name] for name in ("features", "sources"))
LONGER = {"click": {**SOURCES["shown"]["labels"]["click"], "within": "2d"}}
BACKWARDS = dict(reversed(FEATURES["user"]["counts"].items()))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"model": {"width": 16}}, "model.width, version 1 of upstream: found 16; expected 8, as"),
        (
            {"features": {**FEATURES, "pair": {}}},
            "features, version 1 of upstream: found pair: recency: nothing of seen; "
            "expected pair: recency: seen: ",
        ),
        (
            {"features": {**FEATURES, "user": {**FEATURES["user"], "counts": BACKWARDS}}},
            "features, version 1 of upstream: found user: counts: the order buys, clicks; "
            "expected user: counts: the order clicks, buys, as its",
        ),
        (
            {"sources": {**SOURCES, "shown": {**SOURCES["shown"], "context": {}}}},
            "context, version 1 of upstream: found numbers: nothing of position; expected",
        ),
        (
            {"sources": {"bought": section_of()["sources"]["bought"]}},
            "tasks, version 1 of upstream: found ['buy']; expected ['click', 'buy'], as its",
        ),
        (
            {"sources": {**SOURCES, "shown": {**SOURCES["shown"], "labels": LONGER}}},
            "within, version 1 of upstream: found shown.click: 172800.0; expected shown.click: 43",
        ),
        (
            {"training": {"task_weights": {"buy": 2.0}}},
            "training.task_weights learned, version 1 of upstream: found False; expected True",
        ),
    ],
)
def test_what_the_towers_are_made_for_stays(
    mine: TowerHome, changed: dict[str, Any], line: str
) -> None:
    mine.settings(**changed)
    with pytest.raises(ConfigError) as caught:
        mine.refresh(7)
    assert line in str(caught.value)
    assert "Declare another version" in str(caught.value)
    assert len(find_snapshots(mine.home.snapshots, "user_upstream_v1")) == 2


def test_how_they_are_trained_and_who_is_embedded_may_change(
    second: tuple[TowerHome, Refresh], mine: TowerHome
) -> None:
    mine.settings(training={"refresh_learning_rate": 0.001}, embedding={"active_days": 1})
    mine.refresh(7)
    assert mine.snapshot(7).manifest.parent == second[1].run_id


def test_a_run_that_is_gone_or_damaged_is_named(
    second: tuple[TowerHome, Refresh], mine: TowerHome
) -> None:
    run_id = second[1].run_id
    folder = mine.home.runs / run_id
    named = f"run {run_id}: .* Restore .*, or declare a new version"
    files = [path for path in (folder / MODEL).rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b""):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=named):
                TowerRun.load(folder)
        path.unlink()
        with pytest.raises(CheckpointError, match=named):
            TowerRun.load(folder)
        path.write_bytes(whole)
    TowerRun.load(folder)
    remove_folder(mine.home.runs, folder)
    with pytest.raises(CheckpointError, match=named):
        mine.refresh(7)


def test_no_towers_are_trained_before_the_first_of_their_version(
    first: tuple[TowerHome, Refresh],
) -> None:
    with pytest.raises(ConfigError, match=r"as of 2026-03-05 00:00: found refreshes from 2026-03-"):
        first[0].refresh(4)


def test_a_day_without_labels_embeds_and_publishes(tmp_path: Path) -> None:
    home = TowerHome.planted(tmp_path / "home")
    tables = home.tables
    learned_from = {"impressions": (day(4), day(6)), "buys": (day(5), day(6))}
    home.tables = {
        name: [
            row
            for row in rows
            if name not in learned_from
            or not learned_from[name][0] <= row["time"] < learned_from[name][1]
        ]
        for name, rows in tables.items()
    }
    home.write()
    runs = [home.refresh(number) for number in (5, 6, 7)]
    assert not learned(home, runs[1].run_id, "click")
    assert not learned(home, runs[1].run_id, "buy")
    assert learned(home, runs[2].run_id, "buy")
    towers = [TowerRun.load(home.home.runs / each.run_id).model.towers for each in runs]
    states = [{name: each.numpy() for name, each in one.state_dict().items()} for one in towers]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not np.array_equal(states[1][name], states[2][name]) for name in states[0])
    assert "quality" not in home.snapshot(6).manifest.metrics
    assert home.snapshot(7).manifest.metrics["quality"] is not None
    before, after = home.vectors(5), home.vectors(6)
    assert any(not np.array_equal(before[key], after[key]) for key in before)  # They clicked.


def test_vectors_stay_near_to_those_of_the_last_refresh(
    second: tuple[TowerHome, Refresh], first: tuple[TowerHome, Refresh], tmp_path: Path
) -> None:
    assert cosine(second[0], 5, 6) > 0.9
    found = {}
    for stay in (0.0, 30.0):
        home = first[0].moved(tmp_path / str(stay))
        home.settings(training={"refresh_learning_rate": 0.03, "stay": stay, "batch_size": 16})
        home.refresh(6)
        found[stay] = cosine(home, 5, 6)
    assert found[0.0] < found[30.0]


def test_a_model_of_another_width_is_a_version_of_its_own(tmp_path: Path) -> None:
    home = TowerHome.planted(tmp_path / "home")
    home.settings(model={**TINY, "width": 16})
    assert home.refresh(5).run_id != ""
    assert TowerRun.load(next(home.home.runs.glob("upstream-*"))).model.config.model.width == 16
