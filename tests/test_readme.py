"""The README is run: its commands, its Python, its world file."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from feast import FeatureStore

from provender.consumers.ranking_task import RankingTask
from provender.plugin.world import World
from provender.producers.event_mapping import EventMapping
from provender.producers.transra_config import TransRAConfig

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", TEXT)


def commands(program: str) -> list[list[str]]:
    """What follows a program's name in the console blocks, without comments."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [line[1:] for line in words if line[0] == program]


@pytest.fixture
def beside_demo(demo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a walked `demo` in it, as `make demo` leaves it."""
    (tmp_path / "demo").symlink_to(demo_home)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[0] for words in commands("make")]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)


@pytest.mark.parametrize("words", [w for w in commands("provender") if w[0] != "demo"])
def test_its_commands_work_where_the_demo_was_walked(
    beside_demo: Path, provender: Callable[..., Result], words: list[str]
) -> None:
    result = provender(*words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_runs(beside_demo: Path, code: str) -> None:
    with contextlib.redirect_stdout(None):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if "store:" in text])
def test_its_feature_store_is_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "feature_store.yaml"
    path.write_text(f"project: readme\nregistry: registry.db\nprovider: local\n{text}")
    FeatureStore(str(tmp_path)).apply([])


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if "tables:" in text])
def test_its_world_file_is_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "world.yaml"
    path.write_text(text, encoding="utf-8")
    world = World.load(path)
    assert set(EventMapping.from_world(world).events) == set(world.events)
    assert RankingTask.of_world(world).labels.click.table == "clicks"
    assert TransRAConfig.parse(world.transra).anchor_relation == "click"


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_figures_are_those_that_were_measured() -> None:
    """The tables quoted from benchmarks/results stand there word for word."""
    for result in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        assert result.read_text(encoding="utf-8").strip() in TEXT, result.name
