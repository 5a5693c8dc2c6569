"""`provender explain` on the demo's home."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]


@pytest.fixture(scope="module")
def home(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("explain") / "home"
    shutil.copytree(demo_home, home, symlinks=True)
    return home


def told(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "reports" / "explain.json").read_text())
    return found


def test_a_drawn_request_is_explained_as_a_table_a_page_and_pictures(
    home: Path, provender: Provender
) -> None:
    shown = provender("explain", "--home", str(home))
    found = told(home)
    names = {part["name"] for part in found["facets"]}
    assert {"user_transra_v1", "pin_transra_v1"} <= names
    for name in names:
        assert name in shown.output
    html = (home / "reports" / "explain.html").read_text()
    assert str(found["pin"]) in html
    assert (home / "reports" / "explain-facets.png").read_bytes().startswith(b"\x89PNG")
    assert shown.exit_code == 0, shown.output
    again = provender("explain", "--home", str(home), "--format", "json")
    assert json.loads(again.stdout) == found


def test_a_request_from_a_file_is_the_one_explained(
    home: Path, provender: Provender, tmp_path: Path
) -> None:
    first = told(home)
    asked = {"user": first["user"], "pins": [first["pin"]], "at": first["at"]}
    path = tmp_path / "request.json"
    path.write_text(json.dumps(asked))
    shown = provender("explain", str(path), "--home", str(home))
    assert shown.exit_code == 0, shown.output
    found = told(home)
    assert (found["user"], found["pin"], found["candidates"]) == (first["user"], first["pin"], 1)
    assert found["logit"] == pytest.approx(first["logit"], abs=1e-4)


def test_what_is_no_request_is_refused_in_a_line(
    home: Path, provender: Provender, tmp_path: Path
) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"usr": 7}')
    refused = provender("explain", str(path), "--home", str(home))
    assert refused.exit_code == 1
    assert "usr" in refused.output
    assert "Traceback" not in refused.output
    refused = provender("explain", "--user", "nobody", "--home", str(home))
    assert refused.exit_code == 1
    assert "expected a whole number" in refused.output
