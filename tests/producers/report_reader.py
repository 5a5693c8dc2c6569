"""Reads a report's page: its tags, its text, and what it asks for outside of itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

#: What a page may ask a browser for: these attributes' values.
ASKING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}
#: Opens a file as wide as is said; returns the DOM and what the browser complained of.
Browser = Callable[[Path, int], tuple[str, str]]


class Reader(HTMLParser):
    """Tags, and what they ask for outside of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.images: list[str] = []
        self.told: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name == "src" and value:
                self.images.append(value)
            if name == "aria-label" and value:
                self.told.append(value)
            if name in ASKING and not str(value).startswith(("data:image/", "#")):
                self.outside.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All of it, with one space between words."""
        return " ".join(" ".join(self.texts).split())


def read(html: str) -> Reader:
    """The reader of a page."""
    reader = Reader()
    reader.feed(html)
    reader.outside += re.findall(r"@import[^;]*|url\((?!#)[^)]*\)", html)
    return reader


def chromium(factory: pytest.TempPathFactory) -> Browser:
    """A Chromium without a window; skips where there is none."""
    named = os.environ.get("PROVENDER_CHROMIUM", "")
    program = named or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("no Chromium on the path, nor named by PROVENDER_CHROMIUM")

    def opened(path: Path, width: int) -> tuple[str, str]:
        profile = factory.mktemp("profile")
        told = subprocess.run(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
             f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom",
             path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return told.stdout, "\n".join(re.findall(r".*CONSOLE.*", told.stderr))

    return opened


def measured(path: Path, browser: Browser, width: int, copy: Path) -> str:
    """What a copy that measures itself tells, as JSON: a report has no scripts, nor runs any."""
    html = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text())
    measuring = """<script>
      const shown = (one) => one.getBoundingClientRect();
      const told = {
        page: document.documentElement.scrollWidth, window: innerWidth,
        figures: [...document.querySelectorAll("figure svg")].map((one) => shown(one).height),
        images: [...document.images].map((one) => one.complete ? one.naturalWidth : 0),
        out: [...document.querySelectorAll("h1, h2, p, li, figure, .wide")]
          .filter((one) => shown(one).right > innerWidth + 1 || shown(one).width < 1).length,
      };
      document.documentElement.dataset.told = JSON.stringify(told);
    </script></body>"""
    copy.write_text(html.replace("</body>", measuring))
    dom, _ = browser(copy, width)
    written = re.search(r'data-told="([^"]*)"', dom)
    assert written is not None
    return written[1].replace("&quot;", '"')
