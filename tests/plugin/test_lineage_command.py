from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from tests.plugin.garbage_world import GarbageWorld, open_garbage_world, run_id
from tests.plugin.online_world import open_world
from tests.plugin.release_world import DAY, T

Provender = Callable[..., Result]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GarbageWorld]:
    made = open_garbage_world(open_world(request.param, tmp_path))
    made.ready(1, [0, 1])
    made.move(live=1, reason="the first")
    yield made
    made.tear_down()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[GarbageWorld]:
    made = open_garbage_world(open_world("sqlite", tmp_path))
    made.ready(1, range(12))
    yield made
    made.tear_down()


def test_the_whole_chain_as_text(world: GarbageWorld, provender: Provender) -> None:
    path = world.ranker("ctr", 1, [1])
    shown = provender("lineage", "user_transra_v1", *world.options)
    assert shown.exit_code == 0, shown.output
    lines = [line.strip("│├└─ ") for line in shown.stdout.splitlines()]
    project, by = world.store.project, world.released.releases.current("transra")
    assert by is not None
    loaded = next(line for line in lines if line.startswith("online table"))
    assert lines == [
        "user_transra_v1@2026-03-11T00:00:00+00:00",
        f"version 1 of transra, live (move 1, promote by {by.by}, forced: the first)",
        f"run {run_id(1, T + DAY)}",
        lines[3],
        "events 2026-03-10 to 2026-03-11",
        "user_transra_v1@2026-03-11: 40 rows x 4",
        "quality 0.5",
        "pin_transra_v1@2026-03-11: 40 rows x 4, with it",
        f"parent {run_id(1, T)}",
        f"run {run_id(1, T)}",
        lines[3],
        "events 2026-03-09 to 2026-03-10",
        "user_transra_v1@2026-03-10: 40 rows x 4",
        "quality 0.5",
        "pin_transra_v1@2026-03-10: 40 rows x 4, with it",
        "no parent: the first",
        loaded,
        f"ranker {path}, run ranker-ctr",
        "1,000 impressions of 2026-03-09 to 2026-03-10, service ranker_transra",
        "learned from user_transra_v1: 1 run, as of 2026-03-11",
    ]
    assert lines[3].startswith("transra, config c0ffee, code ")
    assert loaded.startswith(f"online table {project}_user_transra_v1: loaded 2")
    assert loaded.endswith(", 2 runs, as of 2026-03-10 to 2026-03-11")
    traced = provender("lineage", path, *world.options)
    assert "learned from pin_transra_v1: 1 run, as of 2026-03-11" in traced.stdout


def test_text_shows_ten_runs_and_the_others_all(
    on_sqlite: GarbageWorld, provender: Provender
) -> None:
    options = on_sqlite.options
    text = provender("lineage", "user_transra_v1", *options).stdout
    assert text.count("run transra-") == 10
    assert "... and 2 older" in text
    assert "12 runs" not in text  # After three days nobody may use a vector.
    assert "4 runs, as of 2026-03-18 to 2026-03-21" in text
    told = json.loads(provender("lineage", "user_transra_v1", *options, "--format", "json").stdout)
    assert sum(node["kind"] == "run" for node in told["nodes"]) == 12
    cut = provender("lineage", "user_transra_v1@2026-03-15", *options, "--depth", "2")
    assert cut.stdout.count("run transra-") == 2
    assert "... and 4 older" in cut.stdout


def test_files_are_written_whole(
    on_sqlite: GarbageWorld, provender: Provender, tmp_path: Path
) -> None:
    shown = {
        form: provender("lineage", "user_transra_v1", *on_sqlite.options, "--format", form).stdout
        for form in ("text", "json", "mermaid")
    }
    for form, name in (("text", "a.txt"), ("json", "a.json"), ("mermaid", "a.mmd")):
        out = tmp_path / "out" / name
        options = ("--format", form, "--out", out)
        written = provender("lineage", "user_transra_v1", *on_sqlite.options, *options)
        assert written.exit_code == 0, written.output
        assert written.stdout == ""
        assert out.read_text() == shown[form]
    fenced = tmp_path / "a.md"
    provender("lineage", "user_transra_v1", *on_sqlite.options, *options[:2], "--out", fenced)
    assert fenced.read_text() == f"```mermaid\n{shown['mermaid']}```\n"
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."] == []


def test_of_another_online_store_the_rest_is_shown(
    on_sqlite: GarbageWorld, provender: Provender
) -> None:
    path = on_sqlite.released.repo / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(settings | {"online_store": {"type": "sqlite"}}))
    shown = provender("lineage", "user_transra_v1", *on_sqlite.options)
    assert shown.exit_code == 0, shown.output
    assert "Online tables and releases are not known: sqlite keeps neither." in shown.stdout
    assert shown.stdout.count("run transra-") == 10
    assert "online table" not in shown.stdout


def test_while_the_database_does_not_answer_the_rest_is_shown(
    on_sqlite: GarbageWorld, provender: Provender
) -> None:
    path = on_sqlite.released.repo / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["online_store"]["url"] = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    path.write_text(yaml.safe_dump(settings))
    shown = provender("lineage", "user_transra_v1", *on_sqlite.options)
    assert shown.exit_code == 0, shown.output
    assert "Online tables and releases are not known. online store" in shown.stdout
    assert shown.stdout.count("run transra-") == 10


def test_a_time_that_is_none_is_refused(on_sqlite: GarbageWorld, provender: Provender) -> None:
    refused = provender("lineage", "user_transra_v1@v2", *on_sqlite.options)
    assert refused.exit_code != 0
    assert "'v2' is no time; expected one like 2026-03-14" in refused.output
