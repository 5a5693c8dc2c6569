"""`provender evaluate linksage` on files, from raw texts and images to a report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
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
