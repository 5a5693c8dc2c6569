"""The quality report: what it says, that it needs nothing else, and that a browser shows it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from provender.producers.linksage.quality import Quality, judge
from provender.producers.linksage.quality_report import write_report
from provender.producers.linksage.top_pins import TopPins, cards, top_pins
from provender.producers.pin_ranking import Pairs, popularity
from tests.producers.linksage.shown_rows import page_set
from tests.producers.report_reader import Browser, chromium, measured, read

SECTIONS = ["recall", "scores", "spread", "same-space", "pictures", "how"]
FIGURES = ["recall", "baselines", "scores", "cosines"]
EVIL = "<img src='http://evil.example/x.png'> & <script>document.title = 'evil'</script>"
PAGES, PINS = 20, 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pages with three pins each, two of them known; even pins have images, one of them is bad."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    pages = rng.normal(size=(PAGES, 16)).astype(np.float32)
    noise = rng.normal(size=(PINS, 16)).astype(np.float32)
    pins = np.repeat(pages, 3, axis=0) + 0.4 * noise
    for place in range(0, PINS, 2):
        Image.new("RGB", (300, 200), (place * 4, 90, 200)).save(folder / f"{place}.png")
    (folder / "2.png").write_bytes(b"no picture")
    shown = page_set(
        folder,
        [
            {
                "key": 100 + row,
                "text": f"Page {row}\n{EVIL} {'words ' * 99}",
                "url": "https://a.b/c",
            }
            for row in range(PAGES)
        ],
        [
            {"key": row, "text": f"Pin {row}" if row % 5 else "", "image_files": [f"{row}.png"]}
            for row in range(PINS)
        ],
    )
    every = np.arange(PAGES)
    known = (np.repeat(every, 2), np.sort(np.concatenate([3 * every, 3 * every + 1])))
    return {
        "shown": shown,
        "vectors": (pages, pins.astype(np.float32)),
        "pairs": ((every, 3 * every + 2), known),
    }


@pytest.fixture(scope="module")
def quality(world: dict[str, Any]) -> Quality:
    baselines = {"popularity": popularity(Pairs(*world["pairs"][1]), PINS)}
    pages, pins = world["vectors"]
    test, known = world["pairs"]
    return judge(pages, pins, test, known, (4, 8), ks=(5, 20), baselines=baselines)


@pytest.fixture(scope="module")
def pictures(world: dict[str, Any]) -> list[TopPins]:
    return top_pins(world["shown"], *world["vectors"], *world["pairs"], count=4, k=6)


@pytest.fixture(scope="module")
def report(
    world: dict[str, Any],
    quality: Quality,
    pictures: list[TopPins],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return write_report(
        tmp_path_factory.mktemp("report"),
        quality,
        title=f"page_linksage_v1 {EVIL}",
        about={"run": "r1", "as of": "2026-03-12"},
        pictures=pictures,
        data=world["shown"].data,
    )


def test_the_first_pins_are_those_of_a_sort(world: dict[str, Any], pictures: list[TopPins]) -> None:
    pages, pins = (one / np.linalg.norm(one, axis=1)[:, None] for one in world["vectors"])
    assert len({one.page.key for one in pictures}) == 4
    for one in pictures:
        row = int(one.page.key) - 100
        scores = pages[row] @ pins.T
        open_pins = [pin for pin in range(PINS) if pin not in (3 * row, 3 * row + 1)]
        wanted = sorted(open_pins, key=lambda pin: -scores[pin])[:6]
        assert [int(found.card.key) for found in one.found] == wanted
        np.testing.assert_allclose([found.cosine for found in one.found], scores[wanted], atol=1e-5)
        assert [int(card.key) for card in one.own] == [3 * row + 2]
        assert [found.own for found in one.found] == [pin == 3 * row + 2 for pin in wanted]


def test_cards_are_those_of_the_rows(world: dict[str, Any]) -> None:
    found = cards(world["shown"].pins, np.array([7, 40]))
    assert {row: (card.key, card.text, card.url, card.images) for row, card in found.items()} == {
        7: ("7", "Pin 7", None, ("7.png",)),
        40: ("40", "", None, ("40.png",)),
    }
    assert cards(world["shown"].pages, [3])[3].url == "https://a.b/c"
    assert cards(world["shown"].pages, []) == {}


def test_all_sections_and_figures_are_there(report: Path) -> None:
    found = read(report.read_text())
    assert [one for one in found.ids if one in SECTIONS] == SECTIONS
    assert [one for one in found.ids if one.startswith("figure-")] == [
        f"figure-{name}" for name in FIGURES
    ]
    assert found.tags.count("svg") == len(FIGURES)
    assert found.tags.count("article") == 4
    assert len(found.ids) == len(set(found.ids))


def test_figures_are_told(report: Path, quality: Quality) -> None:
    text = read(report.read_text()).text
    for dim in quality.dims:
        for k in quality.ks:
            assert f"{quality.recall[dim][k]:.1%}" in text
    assert f"{quality.kurtosis[16]:.3f}" in text
    assert f"{quality.negatives_below[16]:.1%} of other pins" in text
    assert f"{quality.same_space.own:.3f}" in text
    assert f"{quality.pairs:,} held-out pairs of {quality.pages:,} pages" in text
    assert "nan" not in text.lower()


def test_it_asks_for_nothing_outside_and_runs_nothing(report: Path) -> None:
    html = report.read_text()
    found = read(html)
    assert found.outside == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(found.tags)
    assert "default-src 'none'" in html
    assert report.stat().st_size < 300_000


def test_a_crawled_text_is_text(report: Path) -> None:
    text = " ".join(read(report.read_text()).texts)
    assert EVIL in text
    assert "words words…" in text


def test_images_are_small_and_bad_ones_are_left_out(
    report: Path, pictures: list[TopPins], world: dict[str, Any]
) -> None:
    with_image = [
        found.card.key
        for one in pictures
        for found in one.found
        if int(found.card.key) % 2 == 0 and found.card.key != "2"
    ]
    embedded = read(report.read_text()).images
    assert len(embedded) == len(with_image) > 0
    first = Image.open(io.BytesIO(base64.b64decode(embedded[0].partition(",")[2])))
    assert first.size == (200, 133)
    colour = first.getpixel((50, 50))
    assert isinstance(colour, tuple)
    np.testing.assert_allclose(colour, (int(with_image[0]) * 4, 90, 200), atol=6)


def test_the_pngs_are_the_charts(report: Path) -> None:
    for name in FIGURES:
        with Image.open(report.parent / f"{name}.png") as image:
            assert image.size == (768, 528)
            assert len(image.convert("RGB").getcolors(2**20) or []) > 20


def test_the_json_beside_it(report: Path, quality: Quality) -> None:
    told = json.loads((report.parent / "quality.json").read_text())
    assert told == json.loads(
        json.dumps({**quality.to_json(), "about": {"run": "r1", "as of": "2026-03-12"}})
    )


def test_the_same_report_again_is_the_same(report: Path, quality: Quality, tmp_path: Path) -> None:
    again = write_report(tmp_path, quality, title="t")
    once = write_report(tmp_path / "b", quality, title="t")
    assert again.read_bytes() == once.read_bytes()
    assert "pictures" not in read(again.read_text()).ids


@pytest.mark.filterwarnings("error")
def test_figures_that_there_are_not(quality: Quality, tmp_path: Path) -> None:
    space = replace(quality.same_space, known=None, others=None, nearer=None)
    bare = replace(
        quality,
        negatives=None,
        pairwise=None,
        baselines={},
        negatives_below=dict.fromkeys(quality.dims),
        kurtosis=dict.fromkeys(quality.dims),
        recall={dim: dict.fromkeys(quality.ks, 0.0) for dim in quality.dims},
        same_space=space,
    )
    found = read(write_report(tmp_path, bare, title="t").read_text())
    assert "–" in found.text
    assert found.tags.count("svg") == len(FIGURES)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return chromium(tmp_path_factory)


def test_a_browser_shows_it_and_asks_for_nothing(report: Path, browser: Browser) -> None:
    dom, complaints = browser(report, 1280)
    found = read(dom)
    assert set(SECTIONS) | {f"figure-{name}" for name in FIGURES} <= set(found.ids)
    assert found.outside == []
    assert complaints == ""  # Anything asked for outside is refused, and told there.
    assert "<title>page_linksage_v1 &lt;img" in dom


def test_a_browser_would_tell_what_it_was_asked_for(
    report: Path, browser: Browser, tmp_path: Path
) -> None:
    asking = '<img src="http://127.0.0.1:9/x.png"></body>'
    copy = tmp_path / "copy.html"
    copy.write_text(report.read_text().replace("</body>", asking))
    assert "http://127.0.0.1:9/x.png" in browser(copy, 1280)[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_at_any_width(
    report: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    told = json.loads(measured(report, browser, width, tmp_path / "copy.html"))
    assert told["page"] <= told["window"] <= 1280
    assert told["out"] == 0
    assert len(told["figures"]) == len(FIGURES)
    assert min(told["figures"]) > 150
    assert set(told["images"]) == {200}
