"""The log of a training: lines that survive a kill, scalars for TensorBoard, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from provender.producers.training_curves import draw
from provender.producers.training_log import METRICS, Pace, TrainingLog, read_metrics
from provender.producers.training_loop import Progress


def _progress(step: int, loss: float = 1.0, epoch: int = 0) -> Progress:
    return Progress(epoch, step, 10, 100, loss, 50.0, 2.0)


def test_lines_are_written_in_time_and_the_last_one_always(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, every=3600) as log:
        for step in range(1, 8):
            log(_progress(step, loss=1 / step))
        log.judged(2, "mrr", 0.25)
    lines = read_metrics(tmp_path)
    assert [one.get("step") for one in lines] == [1, None, 7]
    assert lines[1]["mrr"] == 0.25
    assert lines[2]["loss"] == pytest.approx(1 / 7)


def test_a_run_that_goes_on_appends_and_half_a_line_is_passed_over(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, every=0) as log:
        log(_progress(1))
    with (tmp_path / METRICS).open("a") as lines:
        lines.write('{"time": 1, "st')
    assert [one["step"] for one in read_metrics(tmp_path)] == [1]


def test_nothing_is_written_where_nothing_was_trained(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "log"):
        pass
    assert not (tmp_path / "log").exists()
    assert read_metrics(tmp_path / "log") == []


def test_tensorboard_gets_the_same_figures(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, every=0) as log:
        log(_progress(3, loss=0.5))
        log.judged(1, "mrr", 0.25)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    found = {
        (value.tag, event.step): value.simple_value
        for event in _events(path.read_bytes())
        for value in event.summary.value
    }
    assert found[("train/loss", 3)] == 0.5
    assert found[("judged/mrr", 1)] == 0.25


def _events(blob: bytes) -> list[Event]:
    """TFRecords: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    events, at = [], 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 8], "little")
        events.append(Event.FromString(blob[at + 12 : at + 12 + size]))
        at += 16 + size
    return events


def test_the_pace_counts_what_was_trained_since_the_first_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 12.0, 14.0])
    monkeypatch.setattr("provender.producers.training_log.time.monotonic", lambda: next(clock))
    pace = Pace()
    assert [pace.after(_progress(step)) for step in (1, 2, 3)] == [0.0, 50.0, 50.0]


def test_pictures_of_all_sorts_of_runs(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"epoch": 1, "mrr": 0.5}]
    bars = {"click": {"model": 0.5, "popularity": 0.1}, "save": {"model": 0.2}}
    for name, metrics, by in (("all", lines, bars), ("few", lines[:2], bars), ("none", [], {})):
        draw(tmp_path / f"{name}.png", metrics, by, "recall@100")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("all", "few", "none")]
    assert sizes == sorted(sizes, reverse=True)


def test_lines_are_json(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, every=0) as log:
        said = log(_progress(1, loss=0.1234))
    assert said.startswith("loss 0.123, ")
    assert all(json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines())
