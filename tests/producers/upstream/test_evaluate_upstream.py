"""`provender evaluate upstream` on a file of events, from rows to a report and vectors."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provender.producers.refresh import LOG
from provender.producers.vectors import load_vectors
from tests.conftest import Provender
from tests.producers.upstream.tower_home import alone

ROOT = Path(__file__).parents[3]
USERS, PINS, ROWS = 20, 60, 1200
FIRST = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
#: Nine days are learned from, one is judged.
CUT, END = FIRST + 9 * 86_400, FIRST + 10 * 86_400
SETTINGS = """
model:
  {dim: 8, nested_dims: [4], width: 8, heads: 2, hidden: 8, rank: 4, sequence_tokens: 2,
   user: {layers: 1, tokens: 2}, pin: {layers: 1, tokens: 2}, interaction: {layers: 1, tokens: 2}}
training: {batch_size: 256, learning_rate: 0.02, epochs: 2}
features:
  user: {ids: {dim: 8, pretrained: true}, counts: {views: {events: [view]}}}
  pin: {ids: {dim: 8, pretrained: true}, counts: {views: {events: [view]}}}
"""
Row = dict[str, Any]


def planted() -> list[Row]:
    """Users view and buy pins of their group, with one in ten of the other."""
    rng = np.random.default_rng(0)
    rows = []
    for when in np.sort(rng.integers(FIRST, END, ROWS)):
        user = int(rng.integers(0, USERS))
        group = user % 2 if rng.random() < 0.9 else 1 - user % 2
        kind = "buy" if rng.random() < 0.3 else "view"
        pin = int(rng.integers(0, PINS // 2)) * 2 + group
        rows.append({"ts": int(when), "user": user, "item": f"i{pin:02d}", "behavior": kind})
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["ts", "user", "item", "behavior"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of events, and settings of small towers."""
    path = tmp_path_factory.mktemp("events")
    write(path / "events.csv", planted())
    (path / "settings.yaml").write_text(SETTINGS)
    return path


def at(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


SPAN = ["--cut", at(CUT), "--end", at(END)]


def told(folder: Path, *further: object, events: Path | None = None) -> list[str]:
    """The command on the file."""
    words = ["evaluate", "upstream", "--events", events or folder / "events.csv"]
    config = [] if "--config" in further else ["--config", folder / "settings.yaml"]
    return [str(word) for word in (*words, *config, "--device", "cpu", *further)]


def line(provender: Provender, command: list[str]) -> str:
    """The one line that refuses a command."""
    result = provender(*command)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    stages, _, said = result.output.rpartition("Error: ")
    assert "train" not in stages
    return "Error: " + " ".join(said.split())


@pytest.fixture(scope="module")
def report(folder: Path, provender: Provender) -> dict[str, Any]:
    """The report of all; the page, the vectors and the work folder lie beside it."""
    alone()
    places = [word for name in ("html", "save", "work") for word in (f"--{name}", folder / name)]
    names = ["--alone", "view", "--alone", "buy"]
    result = provender(*told(folder, *SPAN, *names, *places, "--report", folder / "report.json"))
    assert result.exit_code == 0, result.output
    assert "recall@10" in result.output
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_vectors_tell_the_groups_apart(report: dict[str, Any]) -> None:
    for task in ("view", "buy"):
        by = report["tasks"][task]
        assert by["vectors alone"]["auc"] > 0.57
        assert by["vectors as of the cut"]["auc"] > 0.57
        assert by["all three towers"]["auc"] > by["popularity"]["auc"]
        assert f"{task} alone" in by
        assert by["all three towers"]["positives"] == sum(
            row["behavior"] == task and CUT <= row["ts"] < END for row in planted()
        )
    assert report["config"]["training"]["epochs"] == 2
    assert (report["notes"]["cut"], report["notes"]["end"]) == (at(CUT), at(END))


def test_recall_is_that_of_the_saved_vectors(report: dict[str, Any], folder: Path) -> None:
    found = load_vectors(folder / "save")
    users = dict(zip(found["user"].keys.to_pylist(), found["user"].vectors, strict=True))
    pins = dict(zip(found["pin"].keys.to_pylist(), found["pin"].vectors, strict=True))
    known: dict[int, set[str]] = {}
    later: dict[int, set[str]] = {}
    for row in planted():
        known.setdefault(row["user"], set())
        (known if row["ts"] < CUT else later).setdefault(row["user"], set()).add(row["item"])
    hits: list[float] = []
    for user in users:
        new = {pin for pin in later.get(user, ()) if pin in pins} - known[user]
        for pin in new:
            others = [other for other in pins if other not in known[user] | new]
            score = float(users[user] @ pins[pin])
            better = sum(float(users[user] @ pins[other]) > score for other in others)
            hits.append(better < 10)
    assert (report["pairs"], report["candidates"]) == (len(hits), len(pins))
    assert report["recall"]["8 dims"]["recall@10"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert set(report["recall"]) == {"8 dims", "4 dims", "popularity", "random"}
    assert report["recall"]["8 dims"]["recall@10"] > report["recall"]["random"]["recall@10"]


def test_page_and_vectors_are_written(report: dict[str, Any], folder: Path) -> None:
    (page,) = (folder / "html").glob("*.html")
    assert "all three towers" in page.read_text()
    found = load_vectors(folder / "save")
    assert found["user"].keys.to_pylist() == sorted({row["user"] for row in planted()})
    for vectors in found.values():
        assert vectors.dim == 8
        np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1, atol=1e-5)


def figures(provender: Provender, command: list[str], place: Path) -> dict[str, Any]:
    """The report of a command."""
    alone()
    result = provender(*command, "--report", str(place))
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def shared(found: dict[str, Any]) -> dict[str, Any]:
    """What a report says that does not depend on which single models were trained too."""
    singles = ("view alone", "buy alone")
    return {
        **{name: value for name, value in found.items() if name != "config"},
        "tasks": {
            task: {who: one for who, one in by.items() if who not in singles}
            for task, by in found["tasks"].items()
        },
    }


def test_what_comes_after_the_end_changes_nothing(
    report: dict[str, Any], folder: Path, provender: Provender, tmp_path: Path
) -> None:
    rows = planted()
    late = [{**row, "ts": END + n * 60, "item": f"i{n % 7:02d}"} for n, row in enumerate(rows)]
    late += [{**row, "user": 999, "item": "new", "ts": END} for row in rows[:50]]
    events = write(tmp_path / "events.csv", rows + late)
    garbled = figures(provender, told(folder, *SPAN, events=events), tmp_path / "late.json")
    assert shared(garbled) == shared(report)  # In a work folder or not.


def test_without_a_cut_four_in_five_events_are_learned_from(
    folder: Path, provender: Provender, tmp_path: Path
) -> None:
    found = figures(provender, told(folder, "--epochs", 1), tmp_path / "report.json")
    times = sorted(row["ts"] for row in planted())
    cut = datetime.fromisoformat(found["notes"]["cut"]).timestamp()
    assert sum(time < cut for time in times) == pytest.approx(0.8 * ROWS, abs=2)
    assert found["config"]["training"]["epochs"] == 1


@pytest.mark.parametrize(
    ("further", "says"),
    [
        (["--cut", at(END), "--end", at(CUT)], "--cut and --end: found 2026-03-11 00:00 and"),
        (["--cut", at(FIRST - 86_400)], "no example before 2026-02-28 00:00"),
        (
            ["--cut", at(END + 86_400), "--end", at(END + 2 * 86_400)],
            "no example before 2026-03-13 00:00",
        ),
        ([*SPAN, "--alone", "sell"], "--alone sell: found neither a source nor a task; expected"),
    ],
)
def test_what_can_not_be_is_one_line(
    folder: Path, provender: Provender, further: list[str], says: str
) -> None:
    assert says in line(provender, told(folder, *further))


def test_files_and_folders_that_do_not_fit_are_one_line(
    folder: Path, provender: Provender, tmp_path: Path
) -> None:
    missing = line(provender, told(folder, events=tmp_path / "none.csv"))
    assert "none.csv" in missing
    (tmp_path / "mine").write_text("mine")
    for option in ("--save", "--work"):
        said = line(provender, told(folder, *SPAN, option, tmp_path))
        assert f"Error: {option} " in said
        assert "expected a new or empty folder" in said
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "bad.yaml").write_text("training: {epoch: 3}\n")
    said = line(provender, told(folder, "--config", tmp_path / "bad.yaml"))
    assert "training.epoch: found an unknown key; expected only known keys" in said
    (tmp_path / "bad.yaml").write_text("columns: {user: who}\n")
    said = line(provender, told(folder, "--config", tmp_path / "bad.yaml"))
    assert "expected a column of the user: who" in said
    few = write(tmp_path / "few.csv", planted()[:1])
    assert "no event after the first 80%" in line(provender, told(folder, events=few))
    none = write(tmp_path / "empty.csv", [])
    assert "empty.csv" in line(provender, told(folder, events=none))
    home = provender("evaluate", "upstream", "--home", tmp_path, "--config", tmp_path / "bad.yaml")
    assert home.exit_code != 0
    assert "Traceback" not in home.output


def test_a_few_rows_are_enough_or_one_line(
    folder: Path, provender: Provender, tmp_path: Path
) -> None:
    for count in (2, 3, 10):
        events = write(tmp_path / f"{count}.csv", planted()[:count])
        result = provender(*told(folder, events=events))
        assert result.exit_code in (0, 1)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if result.exit_code:
            assert result.output.startswith("Error: ") or "\nError: " in result.output


_SCRIPT = """
import json, sys, torch
from provender.plugin.cli import main
torch.set_num_threads(1)
main(json.loads(sys.argv[1]))
"""


def test_a_killed_run_goes_on_in_its_folder(
    report: dict[str, Any], folder: Path, provender: Provender, tmp_path: Path
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS.replace("epochs: 2", "epochs: 2, checkpoint_minutes: 0.0005"))
    work = tmp_path / "work"
    command = told(folder, *SPAN, "--config", config, "--work", work)
    run = [sys.executable, "-c", _SCRIPT, json.dumps(command)]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((work / LOG).rglob("step-*.json")):
            time.sleep(0.01)
        time.sleep(random.Random(0).uniform(0, 0.1))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (log,) = (work / LOG).rglob("metrics.jsonl")
    before = len(log.read_text().splitlines())
    again = figures(provender, command, tmp_path / "again.json")
    steps = [json.loads(each).get("step") for each in log.read_text().splitlines()[before:]]
    assert steps
    assert shared(again) == shared(report)
