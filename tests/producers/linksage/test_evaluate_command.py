"""`provender evaluate linksage` on files, from raw texts and images to a report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from provender.producers.vectors import load_vectors
from tests.conftest import Provender

TOPICS, PAGES, PINS = 5, 50, 150
SETTINGS = """
model: {dim: 16, nested_dims: [4, 8], width: 16, heads: 2, feedforward: 32, neighbours: 8}
training: {epochs: 3, batch_size: 32, negatives: 32}
walks: {walks: 20, neighbours: 8}
features: {text_settings: {dim: 16}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages, pins with images, pairs, boards and outcomes of planted topics."""
    path, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    (path / "images").mkdir()
    colours = rng.integers(0, 255, (TOPICS, 3))

    def text(topic: int) -> str:
        return " ".join(f"word{word}" for word in rng.integers(0, 10, 6) + 10 * topic)

    tables: dict[str, list[dict[str, Any]]] = {
        "pages": [
            {"page": f"p{n}", "title": text(n % TOPICS), "url": f"https://s{n % 7}.org/{n}"}
            for n in range(PAGES)
        ],
        "pins": [],
        "pairs": [],
        "boards": [],
        "outcomes": [],
    }
    for n in range(PINS):
        topic = n % TOPICS
        noise = rng.integers(0, 40, (12, 12, 3))
        picture = np.clip(colours[topic] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(path / "images" / f"{n}.png")
        clicks = 40 + 30 * (n // TOPICS % 2)
        title = text(topic) + (" wow" if n // TOPICS % 2 else "")
        tables["pins"].append({"pin": n, "headline": title, "image": f"images/{n}.png"})
        page = f"p{int(rng.integers(0, PAGES // TOPICS)) * TOPICS + topic}"
        tables["pairs"].append({"pin": n, "page": page})
        tables["boards"].append({"board": topic * 10 + n % 3, "pin": n})
        tables["outcomes"].append(
            {"pin": n, "page": page, "shown": 900, "clicked": clicks, "week": 202600 + n // 10}
        )
    for name, rows in tables.items():
        with (path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (path / "settings.yaml").write_text(SETTINGS)
    return path


def files(folder: Path, *names: str) -> list[Any]:
    return [word for name in names for word in (f"--{name}", folder / f"{name}.csv")]


@pytest.fixture(scope="module")
def evaluated(folder: Path, provender: Provender) -> Path:
    told = files(folder, "pages", "pins", "pairs", "boards", "outcomes")
    out = [x for name in ("html", "save", "work") for x in (f"--{name}", folder / name)]
    settings = ["--config", folder / "settings.yaml", "--report", folder / "report.json"]
    result = provender(
        "evaluate", "linksage", *told, *out, *settings, "--without", "neighbours", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "LinkSage, 16 dims" in result.output
    return folder


def test_the_report_has_all_figures(evaluated: Path) -> None:
    report = json.loads((evaluated / "report.json").read_text())
    assert set(report["dims"]) == {"4", "8", "16"}
    assert {"TF-IDF", "text features", "image features", "popularity", "random"} <= set(
        report["baselines"]
    )
    assert "without neighbours" in report["baselines"]
    assert report["dims"]["16"]["recall@10"] > 3 * report["baselines"]["random"]["recall@10"]
    assert report["clicks"]["TF-IDF of words"]["accuracy"] > 0.9
    assert report["config"]["training"]["epochs"] == 3
    assert 15 < report["test"]["pairs"] < 45


def test_the_page_shows_pins_with_their_images(evaluated: Path) -> None:
    page = (evaluated / "html" / "quality.html").read_text()
    assert "data:image/" in page
    assert json.loads((evaluated / "html" / "quality.json").read_text())["metrics"]


def test_vectors_are_kept_by_key(evaluated: Path) -> None:
    found = load_vectors(evaluated / "save")
    assert found["page"].keys.to_pylist() == sorted(f"p{n}" for n in range(PAGES))
    assert len(found["pin"].keys) == PINS
    for vectors in found.values():
        norms = np.linalg.norm(vectors.vectors, axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_what_can_not_be_is_one_line(folder: Path, provender: Provender) -> None:
    told = files(folder, "pages", "pins", "pairs")
    (folder / "bad.yaml").write_text("model: {widht: 3}\n")
    result = provender("evaluate", "linksage", *told, "--config", folder / "bad.yaml")
    assert result.exit_code == 1
    assert "model.widht: found an unknown key; expected only known keys" in result.output
    (folder / "bad.yaml").write_text("pages: {key: address}\n")
    result = provender("evaluate", "linksage", *told, "--config", folder / "bad.yaml")
    assert result.exit_code == 1
    assert "no column address" in result.output.replace("\n", " ")


def small(folder: Path, provender: Provender, told: list[Any], *further: Any) -> str:
    """What an evaluation of one epoch says."""
    config = [] if "--config" in further else ["--config", folder / "settings.yaml"]
    asked = [*told, *config, *further, "--epochs", 1, "--device", "cpu"]
    return provender("evaluate", "linksage", *asked).output


def rewritten(folder: Path, name: str, place: Path, **columns: Any) -> Path:
    """A table with further columns, or others of these names: functions of a row."""
    with (folder / f"{name}.csv").open(newline="") as file:
        rows = [row | {n: make(row) for n, make in columns.items()} for row in csv.DictReader(file)]
    with place.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place


def test_a_work_folder_serves_again_with_the_same_and_with_other_settings(
    evaluated: Path, provender: Provender, tmp_path: Path
) -> None:
    """Nothing of another run shows: figures are those of a run without a work folder."""
    told, work = files(evaluated, "pages", "pins", "pairs", "boards"), evaluated / "work"
    for number, further in enumerate(([], [], ["--seed", 1], ["--hold-out", 0.4])):
        places = [tmp_path / f"{name}{number}.json" for name in ("again", "alone")]
        small(evaluated, provender, told, *further, "--work", work, "--report", places[0])
        small(evaluated, provender, told, *further, "--report", places[1])
        again, alone = (json.loads(place.read_text()) for place in places)
        assert again == alone


def test_folders_with_other_things_are_left_alone(
    evaluated: Path, provender: Provender, tmp_path: Path
) -> None:
    told = files(evaluated, "pages", "pins", "pairs")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "mine").write_text("mine")
    for option in ("--work", "--save"):
        said = small(evaluated, provender, told, option, tmp_path)
        assert said.startswith(f"Error: {option} ")
        assert "expected a new or empty folder" in " ".join(said.split())
    assert (tmp_path / "rows" / "mine").read_text() == "mine"


@pytest.mark.parametrize("form", ["{}.0", " {}", "{}."])
def test_a_pair_is_set_aside_however_its_keys_are_written(
    folder: Path, provender: Provender, tmp_path: Path, form: str
) -> None:
    """Whole-number keys of a Parquet file of pins; the pairs and the test write them as text."""
    pins = tmp_path / "pins.parquet"
    pq.write_table(
        pa.table({"pin": range(PINS), "title": [f"w{n % 5}" for n in range(PINS)]}), pins
    )
    told = ["--pages", folder / "pages.csv", "--pins", pins, "--pairs", folder / "pairs.csv"]
    test = rewritten(
        folder, "pairs", tmp_path / "test.csv", pin=lambda row: form.format(row["pin"])
    )
    lines = test.read_text().splitlines(keepends=True)
    test.write_text("".join(lines[:21]))
    report = tmp_path / "report.json"
    small(folder, provender, told, "--test", test, "--report", report)
    found = json.loads(report.read_text())
    assert found["rows"]["pairs"]["pairs"]["kept"] == PINS - 20
    assert (found["notes"]["test_pairs"], found["notes"]["known_too"]) == (20, 0)


def test_dim_follows_given_vectors_and_pins_without_one_are_no_candidates(
    folder: Path, provender: Provender, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def target(row: dict[str, str]) -> str:
        return "" if int(row["pin"]) % 3 == 0 else json.dumps(rng.normal(size=20).tolist())

    pins = rewritten(folder, "pins", tmp_path / "pins.csv", target=target, image=lambda row: "")
    told = [*files(folder, "pages", "pairs"), "--pins", pins]
    config, report = tmp_path / "settings.yaml", tmp_path / "report.json"
    config.write_text("model: {width: 16, heads: 2, feedforward: 32}\n")
    small(folder, provender, told, "--config", config, "--report", report)
    found = json.loads(report.read_text())
    assert set(found["dims"]) == {"16", "20"}
    assert (
        found["test"]["candidates"]
        == PINS - PINS // 3
        == PINS - found["notes"]["pins_without_vector"]
    )
    config.write_text("model: {nested_dims: [32]}\n")
    said = small(folder, provender, told, "--config", config)
    assert "nested_dims ascending and below dim" in " ".join(said.split())


def test_rows_that_were_dropped_are_told(
    folder: Path, provender: Provender, tmp_path: Path
) -> None:
    pairs = rewritten(folder, "pairs", tmp_path / "p.csv", page=lambda row: f"{row['page']}x")
    said = small(folder, provender, [*files(folder, "pages", "pins"), "--pairs", pairs])
    assert "pairs to learn from: found none" in " ".join(said.split())
    assert "no such page" in " ".join(said.split())


@pytest.mark.parametrize(
    ("time", "says"),
    [
        (lambda week: f"{week % 12 + 1}/1/2016", "Write times that sort"),
        (lambda week: "2016-01-01", "at 1 times"),
    ],
)
def test_outcomes_that_can_not_be_judged_are_told_before_training(
    folder: Path, provender: Provender, tmp_path: Path, time: Any, says: str
) -> None:
    outcomes = rewritten(
        folder, "outcomes", tmp_path / "o.csv", week=lambda row: time(int(row["week"]))
    )
    told = files(folder, "pages", "pins", "pairs")
    said = small(folder, provender, told, "--outcomes", outcomes)
    assert says in " ".join(said.split())
    assert "train" not in said


def test_a_group_that_is_not_there_is_told(folder: Path, provender: Provender) -> None:
    said = small(folder, provender, files(folder, "pages", "pins", "pairs"), "--without", "boards")
    assert "--without boards: found no boards" in " ".join(said.split())
