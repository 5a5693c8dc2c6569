"""The whole path, as a user walks it: events in, embeddings through Feast, a ranker out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import Result
from feast import FeatureStore

from provender.plugin.snapshot import find_snapshots

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]
VIEWS = ("user_transra_v1", "pin_transra_v1")


def test_the_demo_ends_in_a_table_of_what_was_measured(demo_home: Path) -> None:
    lift = json.loads((demo_home / "reports" / "lift.json").read_text())
    request = json.loads((demo_home / "reports" / "request.json").read_text())
    evaluation = json.loads((demo_home / "reports" / "evaluation.json").read_text())
    assert {row[0] for row in lift["table"]} >= {"click AUC", "click log loss"}
    assert request["candidates"] == 50
    assert 0 < request["fetch_milliseconds"] < request["milliseconds"]
    assert evaluation["metrics"]["click/pairs"] > 0


def test_five_refreshes_of_both_views_belong_together(demo_home: Path) -> None:
    by_view = [find_snapshots(demo_home / "snapshots", view) for view in VIEWS]
    assert [len(snapshots) for snapshots in by_view] == [5, 5]
    for user, pin in zip(*by_view, strict=True):
        user.verify()
        pin.verify()
        assert user.manifest.run_id == pin.manifest.run_id
    chain = [snapshot.manifest for snapshot in by_view[0]]
    assert [one.parent for one in chain] == [None, *(one.run_id for one in chain[:-1])]
    assert "quality" not in chain[0].metrics
    assert all((one.metrics["quality"] or 0) > 0 for one in chain[1:])


def test_the_user_s_next_commands_work(demo_home: Path) -> None:
    feast = Path(sys.executable).with_name("feast")
    repo = demo_home / "feature_repo"
    listed = subprocess.run(
        [feast, "feature-views", "list"], cwd=repo, capture_output=True, text=True, check=True
    )
    assert all(view in listed.stdout for view in VIEWS)
    later = "2026-03-16T00:00:00"
    subprocess.run([feast, "materialize-incremental", later], cwd=repo, check=True)


def test_online_is_what_the_last_snapshot_holds(demo_home: Path) -> None:
    store = FeatureStore(str(demo_home / "feature_repo"))
    last = find_snapshots(demo_home / "snapshots", "pin_transra_v1")[-1]
    keys, vectors = last.read()
    some = [0, len(keys) // 2, len(keys) - 1]
    rows = [{"pin_id": keys[i].as_py()} for i in some]
    read = store.get_online_features(["pin_transra_v1:embedding"], rows).to_dict()
    assert np.array_equal(np.array(read["embedding"], np.float32), vectors[some])


def test_run_again_nothing_is_done_again(demo_home: Path, provender: Provender) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo_home / "snapshots").rglob("*")}
    result = provender("produce", "--home", demo_home)
    assert result.exit_code == 0
    assert result.output.count("done before") == 30
    assert {p: p.stat().st_mtime_ns for p in (demo_home / "snapshots").rglob("*")} == before


def _copy_world(demo_home: Path, home: Path) -> None:
    """A second home on the same events, with nothing produced yet."""
    home.mkdir()
    for name in ("world.yaml", "simulation", "feature_repo"):
        source = demo_home / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, home / name)


def _append_garbage(events: Path) -> None:
    """A file of impossible rows after the as-of time in every event table."""
    for table, columns in {
        "engagements": "-1::bigint impression_id, timestamptz '2026-03-10 00:00:00+00' + "
        "to_hours(i) event_timestamp, if(i % 3 = 0, null, i * 7) user_id, i % 11 pin_id, "
        "'click' as type",
        "conversions": "i conversion_id, timestamptz '2026-03-10 00:00:00+00' + to_days(i::int) "
        "event_timestamp, i * 99991 user_id, i item_id, i page_id, -i advertiser_id, "
        "'checkout' as type, null::bigint impression_id",
    }.items():
        target = events / table / f"{table}-9999-01-01.parquet"
        duckdb.execute(
            f"set TimeZone = 'UTC'; copy (select {columns} from range(5000) t(i)) to '{target}'"
        )


def test_garbage_after_the_as_of_time_changes_no_bit(
    demo_home: Path, tmp_path: Path, provender: Provender
) -> None:
    home = tmp_path / "home"
    _copy_world(demo_home, home)
    _append_garbage(home / "simulation" / "events")
    result = provender("produce", "--home", home, "--as-of", "2026-03-10")
    assert result.exit_code == 0, result.output
    for view in VIEWS:
        clean = find_snapshots(demo_home / "snapshots", view)[0]
        (fouled,) = find_snapshots(home / "snapshots", view)
        assert fouled.manifest.checksum == clean.manifest.checksum


def test_garbage_before_the_as_of_time_is_noticed(
    demo_home: Path, tmp_path: Path, provender: Provender
) -> None:
    """The counterpart that shows the test above can fail."""
    home = tmp_path / "home"
    _copy_world(demo_home, home)
    _append_garbage(home / "simulation" / "events")
    result = provender("produce", "--home", home, "--as-of", "2026-03-14")
    assert result.exit_code == 1
    line = " ".join(result.output.split())
    assert "events.click" in line
    assert "raise max_bad_share" in line
    assert not (home / "snapshots").exists()


def test_vectors_written_later_count_only_where_one_says_so(
    demo_home: Path, provender: Provender
) -> None:
    before = (demo_home / "reports" / "lift.json").read_bytes()
    result = provender("rank", "--home", demo_home, "--seeds", 1)
    assert result.exit_code == 1
    assert "--backfills" in " ".join(result.output.split())
    assert (demo_home / "reports" / "lift.json").read_bytes() == before


def test_a_few_bad_rows_are_put_aside_and_told(
    demo_home: Path, tmp_path: Path, provender: Provender
) -> None:
    home = tmp_path / "home"
    _copy_world(demo_home, home)
    place = home / "simulation" / "events" / "engagements" / "engagements-9999-01-01.parquet"
    duckdb.execute(
        "copy (select -1::bigint impression_id, timestamptz '2026-03-05 12:00:00+00' "
        "event_timestamp, null::bigint user_id, i pin_id, 'click' as type from range(5) t(i)) "
        f"to '{place}'"
    )
    result = provender("produce", "--home", home, "--as-of", "2026-03-10")
    assert result.exit_code == 0, result.output
    assert "events.click: 5 " in result.output
    (aside,) = home.glob("runs/*/events/*/rejected/click.parquet")
    assert duckdb.execute(f"select count(*) from '{aside}'").fetchall() == [(5,)]


def test_the_graph_is_shown_by_relation(demo_home: Path, provender: Provender) -> None:
    result = provender("graph", "--home", demo_home, "--as-of", "2026-03-10")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.output.splitlines() if "→" in line}
    assert {"click", "page_visit", "sold_by"} <= set(rows)


def _wait_for_work(home: Path, run: subprocess.Popen[bytes]) -> None:
    """Wait until the process has the home's lock: its libraries are loaded and it computes."""
    lock = home / ".runs.lock"
    while run.poll() is None and not (lock.exists() and lock.read_text() == str(run.pid)):
        time.sleep(0.02)


def test_killed_at_random_points_a_run_is_completed(demo_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _copy_world(demo_home, home)
    provender_path = Path(sys.executable).with_name("provender")
    command = [str(provender_path), "produce", "--home", str(home)]
    killed = 0
    for pause in np.random.default_rng(3).uniform(0, 1.2, size=4):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
            _wait_for_work(home, run)
            time.sleep(pause)
            os.kill(run.pid, signal.SIGKILL)
            killed += run.wait() == -signal.SIGKILL
        for view in VIEWS:
            for snapshot in find_snapshots(home / "snapshots", view):
                snapshot.verify()
    assert killed >= 2
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for view in VIEWS:
        whole = [s.manifest.checksum for s in find_snapshots(demo_home / "snapshots", view)]
        assert [s.manifest.checksum for s in find_snapshots(home / "snapshots", view)] == whole


def test_a_changed_configuration_needs_a_new_version(
    demo_home: Path, tmp_path: Path, provender: Provender
) -> None:
    world = tmp_path / "world.yaml"
    text = (demo_home / "world.yaml").read_text()
    world.write_text(re.sub(r"(?m)^transra:\s*$", "transra:\n  seed: 99", text))
    assert world.read_text() != text
    result = provender("produce", "--home", demo_home, "--world", world)
    assert result.exit_code == 1
    assert "Declare the change as a new version" in result.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["produce"], "world.yaml"),
        (["demo", "--world", "mars"], "expected one of completejourney, retailrocket, simulator"),
        (["demo", "--world", "retailrocket"], "Give it with --data FOLDER."),
        (["simulate", "--users", "0"], "users"),
        (["produce", "--as-of", "yesterday"], "is no time"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], line: str, provender: Provender
) -> None:
    place = ["--out", tmp_path / "w"] if arguments[0] == "simulate" else ["--home", tmp_path]
    result = provender(*arguments, *place)
    assert result.exit_code in (1, 2)
    assert line in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_refused_demo_leaves_the_home_for_another_world(
    tmp_path: Path, provender: Provender
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("tables: 7\n")
    for arguments in (["--world", "retailrocket"], ["--world", broken, "--data", tmp_path]):
        assert provender("demo", "--home", tmp_path / "home", *arguments).exit_code == 1
        assert not (tmp_path / "home" / "world.yaml").exists()


def test_one_home_never_mixes_two_worlds(
    demo_home: Path, real_data: Path, provender: Provender
) -> None:
    data = real_data / "retailrocket_mb"
    result = provender("demo", "--home", demo_home, "--world", "retailrocket", "--data", data)
    assert result.exit_code == 1
    assert "the world of another run" in result.output


def test_a_snapshot_s_time_is_the_cut(demo_home: Path) -> None:
    first = find_snapshots(demo_home / "snapshots", VIEWS[0])[0].manifest
    assert first.as_of == first.window_end == datetime(2026, 3, 10, tzinfo=UTC)
    assert first.window_start < first.as_of
