"""The report of upstream towers: what it says, that it needs nothing else, that it can be shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from provender.producers.upstream.quality_report import write_report
from provender.producers.upstream.quality_rows import dims_of, in_words, loss_curve, thinned
from provender.producers.upstream.task_figures import (
    TaskFigures,
    probability_figures,
    ranking_figures,
)
from provender.producers.upstream.tower_quality import (
    POPULARITY,
    RANDOM,
    REFRESHED,
    TOWERS,
    VECTORS,
    TowerQuality,
    lift_kept,
)
from tests.producers.report_reader import Browser, chromium, measured, read

SECTIONS = ["ranking", "probabilities", "recall", "training", "notes"]
EVIL = "<img src='http://evil.example/x.png'> & <script>document.title = 'evil'</script> $x^2$"
OTHER = "single-task <b>model</b>"
LOG = [
    {"step": step, "of": 500, "epoch": 0, "loss": 0.3 + math.exp(-step / 90), "time": 0.0}
    for step in range(1, 501)
] + [{"epoch": 0, "auc": 0.7, "time": 0.0}]


def figures(rng: np.random.Generator, rows: int, shift: float) -> dict[str, TaskFigures]:
    """Of a task whose truth is known to TOWERS, and to others with noise."""
    told = rng.normal(size=rows)
    rate = 1 / (1 + np.exp(shift - told))
    labels = (rng.random(rows) < rate).astype(float)
    weight = np.ones(rows)

    def noisy(size: float) -> TaskFigures:
        return ranking_figures(labels, told + size * rng.normal(size=rows), weight)

    return {
        TOWERS: probability_figures(labels, rate, weight),
        VECTORS: noisy(1),
        REFRESHED: noisy(1.5),
        POPULARITY: noisy(4),
        OTHER: probability_figures(labels, np.sqrt(rate), weight),
    }


def quality_of(*tasks: str, rows: int = 600) -> TowerQuality:
    rng = np.random.default_rng(0)
    by_task = {task: figures(rng, rows, 1.0 + place % 3) for place, task in enumerate(tasks)}
    return TowerQuality(
        tasks=by_task,
        lift_kept={
            task: lift_kept(by[TOWERS].auc, by[VECTORS].auc, by[POPULARITY].auc)
            for task, by in by_task.items()
        },
        recall={
            "64 dims": {10: 0.0512, 100: 0.31},
            "16 dims": {10: 0.0402, 100: 0.248},
            POPULARITY: {10: 0.0202, 100: 0.121},
            RANDOM: {10: 0.001, 100: 0.01},
        },
        pairs=12_345,
        candidates=67_890,
        notes={"rows": {"shown": {"kept": 1_234_567, "dropped": {f"no user {EVIL}": 3}}}},
    )


@pytest.fixture(scope="module")
def quality() -> TowerQuality:
    return quality_of("click", "save", f"hide {EVIL}")


@pytest.fixture(scope="module")
def report(quality: TowerQuality, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder, quality, title=f"upstream v1 {EVIL}", curve=LOG)


def test_all_sections_and_figures_are_there(report: Path) -> None:
    found = read(report.read_text())
    assert [one for one in found.ids if one in SECTIONS] == SECTIONS
    names = ["auc", "kept", "log_loss", "calibration", "deciles_1", "deciles_2", "deciles_3"]
    names += ["recall", "baselines", "loss"]
    assert [one for one in found.ids if one.startswith("figure-")] == [f"figure-{n}" for n in names]
    assert found.tags.count("svg") == len(names)
    assert len(found.ids) == len(set(found.ids))


def test_figures_are_told(report: Path, quality: TowerQuality) -> None:
    text = read(report.read_text()).text
    for task, by in quality.tasks.items():
        assert task in text
        for who, one in by.items():
            assert who in text
            assert f"{one.auc:.4f}" in text
            if one.log_loss is not None and one.calibration is not None:
                assert f"{one.log_loss:.4f}" in text
                assert f"{one.calibration:.3f}" in text
        assert f"{by[TOWERS].positives:,}" in text
        assert f"{quality.lift_kept[task]:.1%}" in text
    for by_k in quality.recall.values():
        for value in by_k.values():
            assert f"{value:.1%}" in text
    assert "12,345 pairs" in text
    assert "of all 67,890 for" in text
    assert "shown: kept: 1,234,567, dropped: no user" in text
    assert "nan" not in text.lower()


def test_a_task_tells_of_rows_that_one_has_not(tmp_path: Path) -> None:
    whole = quality_of("click")
    fewer = {**whole.tasks["click"], REFRESHED: TaskFigures(577, 99, 0.6)}
    text = read(
        write_report(tmp_path, replace(whole, tasks={"click": fewer}), title="t").read_text()
    ).text
    assert "0.6000 of 577" in text
    assert text.count("of 577") == 1


def test_the_recall_of_all_dims_is_the_one_that_losses_are_of(report: Path) -> None:
    text = read(report.read_text()).text
    assert "64 dims 5.1% 31.0% 0.0% 0.0% 16 dims 4.0% 24.8% 21.5% 20.0% popularity" in text
    assert "31.0% recall@100 at 64 dims" in text


def test_who_cannot_see_pictures_is_told(report: Path, quality: TowerQuality) -> None:
    told = {one.partition(":")[0]: one for one in read(report.read_text()).told}
    assert len(told) == 10
    auc = quality.tasks["click"][VECTORS].auc
    assert f"click, {VECTORS} {auc:.3f}; " in told["AUC by task"]
    first = quality.tasks["click"][TOWERS].bins[0]
    assert (
        f"click: {TOWERS}: {first.predicted:.2%} predicted, {first.observed:.2%} observed, "
        in told["click"]
    )
    assert told["Training loss"] == "Training loss: from 1.289 at step 1 to 0.304 at step 500"


def test_it_asks_for_nothing_outside_and_runs_nothing(report: Path) -> None:
    html = report.read_text()
    found = read(html)
    assert found.outside == []
    assert found.images == []
    assert not {"script", "link", "iframe", "object", "embed", "img", "b"} & set(found.tags)
    assert "default-src 'none'" in html
    assert report.stat().st_size < 200_000


def test_names_are_text(report: Path) -> None:
    found = read(report.read_text())
    assert found.text.count(EVIL) >= 3
    assert OTHER in found.text
    assert any(EVIL in one for one in found.told)


def test_the_pngs_are_the_charts(report: Path) -> None:
    shown = {one.removeprefix("figure-") for one in read(report.read_text()).ids if "-" in one}
    assert {one.stem for one in report.parent.glob("*.png")} == shown
    for name in shown:
        with Image.open(report.parent / f"{name}.png") as image:
            assert len(image.convert("RGB").getcolors(2**20) or []) > 20


def test_the_json_beside_it(report: Path, quality: TowerQuality) -> None:
    told = json.loads((report.parent / "quality.json").read_text())
    assert told == json.loads(json.dumps(quality.to_json()))


def test_the_same_report_again_is_the_same(
    report: Path, quality: TowerQuality, tmp_path: Path
) -> None:
    again = write_report(tmp_path / "b", quality, title=f"upstream v1 {EVIL}", curve=LOG)
    assert {one.name: one.read_bytes() for one in again.parent.iterdir()} == {
        one.name: one.read_bytes() for one in report.parent.iterdir()
    }


def test_one_task(tmp_path: Path) -> None:
    found = read(write_report(tmp_path, quality_of("click"), title="t").read_text())
    assert "1 task." in found.text
    assert "mean of" not in found.text
    assert "farthest" not in found.text
    assert "training" not in found.ids
    assert found.tags.count("svg") == 7


def test_twenty_tasks(tmp_path: Path) -> None:
    whole = quality_of(*(f"task_{number}_of_some_length" for number in range(20)), rows=200)
    page = write_report(tmp_path, whole, title="t", curve=LOG)
    found = read(page.read_text())
    assert "mean of 20 tasks" in found.text
    assert found.tags.count("svg") == 27
    assert page.stat().st_size < 600_000
    with Image.open(tmp_path / "auc.png") as tall, Image.open(tmp_path / "loss.png") as wide:
        assert tall.width == wide.width
        assert tall.height > 3 * wide.height


@pytest.mark.filterwarnings("error")
def test_figures_that_there_are_not(tmp_path: Path) -> None:
    bare = TowerQuality(
        tasks={
            "click": {TOWERS: TaskFigures(7, 0, None, 0.1), POPULARITY: TaskFigures(7, 0, None)},
            "save": {TOWERS: TaskFigures(0, 0, None)},
            "hide": {},
        },
        lift_kept={"click": None},
        recall={},
        pairs=0,
        candidates=9,
    )
    page = write_report(tmp_path, bare, title="t", curve=[])
    found = read(page.read_text())
    assert [one for one in found.ids if one.startswith("figure-")] == ["figure-log_loss"]
    assert "There were no pairs to find." in found.text
    assert "save 0 0 – – – hide 0 0 – – –" in found.text
    none = replace(bare, tasks={"click": {POPULARITY: TaskFigures(0, 0, None)}})
    assert "There are none." in read(write_report(tmp_path, none, title="t").read_text()).text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("auc", "kept", "calibration"), [(0.5, 0.0, 1.0), (0.1, -80.0, 900.0)])
def test_figures_at_the_ends(tmp_path: Path, auc: float, kept: float, calibration: float) -> None:
    one = TaskFigures(9, 1, auc, 0.0, calibration)
    quality = TowerQuality({"a": {TOWERS: one}}, {"a": kept}, {"8 dims": {10: 0.0}}, 1, 1)
    found = read(write_report(tmp_path, quality, title="t").read_text())
    assert f"{calibration:.3f}" in found.text
    assert any(f"{VECTORS} {kept:.0%}" in told for told in found.told)


def test_recall_is_by_dims_from_few_to_all() -> None:
    recall: Mapping[str, Any] = {"128 dims": {1: 0.5}, "some dims": {1: 0.1}, "16 dims": {1: 0.2}}
    dims, others = dims_of(TowerQuality({}, {}, recall, 1, 1))
    assert list(dims.items()) == [(16, {1: 0.2}), (128, {1: 0.5})]
    assert others == {"some dims": {1: 0.1}}


def test_the_loss_is_that_of_steps_as_they_were_taken_last() -> None:
    lines = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": math.nan},
        {"step": 5, "loss": 9.0},
        {"epoch": 0, "auc": 0.5},
        {"step": 3, "loss": 2.0},
        {"step": 5, "loss": 1.0},
    ]
    assert loss_curve(lines) == [(1, 3.0), (3, 2.0), (5, 1.0)]
    assert loss_curve([]) == []


def test_a_thinned_curve_is_of_means() -> None:
    curve = [(float(step), float(step**2)) for step in range(7)]
    assert thinned(curve, 7) == curve
    assert thinned(curve, 3) == [(1, 5 / 3), (3.5, 12.5), (5.5, 30.5)]


def test_notes_in_words() -> None:
    assert in_words({"a": 1_000, "b": [1.5, "x"], "c": {}}) == "a: 1,000, b: 1.5, x, c: none"
    assert [in_words(one) for one in (True, False, None, 0)] == ["yes", "no", "none", "0"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return chromium(tmp_path_factory)


def test_a_browser_shows_it_and_asks_for_nothing(report: Path, browser: Browser) -> None:
    dom, complaints = browser(report, 1280)
    found = read(dom)
    assert {*SECTIONS, "figure-auc", "figure-loss"} <= set(found.ids)
    assert found.outside == []
    assert complaints == ""
    assert "<title>upstream v1 &lt;img" in dom


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_at_any_width(
    report: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    told = json.loads(measured(report, browser, width, tmp_path / "copy.html"))
    assert told["page"] <= told["window"] <= 1280
    assert told["out"] == 0
    assert len(told["figures"]) == 10
    assert min(told["figures"]) > 80
