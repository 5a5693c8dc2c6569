"""`provender release` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provender.plugin.cli import main
from tests.plugin.release_world import DAY, USER, ReleaseWorld, T
from tests.plugin.test_release_gates import ranker

NOW = ("--at", "2026-03-10")


def run(world: ReleaseWorld, *words: str) -> Result:
    place = ["--repo", str(world.repo), "--home", str(world.online.root)]
    return CliRunner().invoke(main, ["release", *words, *place], terminal_width=200)


def done(world: ReleaseWorld, *words: str) -> str:
    result = run(world, *words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(world: ReleaseWorld, *words: str) -> str:
    """What is printed on standard error; nothing may have been moved."""
    before = world.releases.states()
    result = run(world, *words)
    assert result.exit_code in (1, 2)
    assert world.releases.states() == before
    return result.stderr.strip().splitlines()[-1]


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines() if line.strip()]


@pytest.fixture
def two(family: ReleaseWorld) -> ReleaseWorld:
    family.ready(1)
    family.ready(2, dim=6, nested_dims=(2, 3))
    return family


def test_a_story(two: ReleaseWorld) -> None:
    assert done(two, "promote", "transra", "1", *NOW).splitlines()[-1] == (
        "move 1 of family transra: promote. Live is version 1."
    )
    assert done(two, "canary", "transra", "2", "0.05", *NOW).splitlines()[-1] == (
        "move 2 of family transra: canary. Live is version 1, version 2 for 5.0%."
    )
    late = ("--at", str((T + 4 * DAY).date()))
    line = refused(two, "promote", "transra", "2", *late)
    assert line.startswith("Error: promotion of version 2 of family transra: found fresh: ")
    forced = ("--force", "--reason", "v1 [red]burns[/red]")
    assert done(two, "promote", "transra", "2", *late, *forced).splitlines()[-1] == (
        "move 3 of family transra: promote. Live is version 2. "
        "Forced in spite of fresh: v1 [red]burns[/red]"
    )
    assert done(two, "rollback", "transra", *NOW) == (
        "move 4 of family transra: rollback. Live is version 1.\n"
    )
    assert done(two, "retire", "transra", "2") == (
        "move 5 of family transra: retire. Live is version 1.\n"
    )
    table = rows(done(two, "history", "transra"))
    assert [row[4] for row in table[1:]] == ["promote", "canary", "promote", "rollback", "retire"]
    assert table[3][-3:] == ["v1", "[red]burns[/red]", "fresh"]
    told = json.loads(done(two, "history", "transra", "--format", "json"))
    assert [move["serial"] for move in told] == [1, 2, 3, 4, 5]
    assert told[2]["reason"] == "v1 [red]burns[/red]"
    assert [each["name"] for each in told[2]["checks"] if not each["passed"]] == ["fresh"]


def test_all_checks_are_shown_and_a_dry_run_moves_nothing(two: ReleaseWorld) -> None:
    done(two, "promote", "transra", "1", *NOW)
    before = two.releases.states()
    for words in (("promote", "transra", "2"), ("canary", "transra", "2", "0.5")):
        for at in (NOW, ("--at", "2026-04-01")):
            output = done(two, *words, *at, "--dry-run")
            told = {row[1]: row[0] for row in rows(output)[1:]}
            assert told["complete"] == "pass"
            assert told["fresh"] == ("pass" if at == NOW else "FAIL")
            assert len(told) == 9
    assert two.releases.states() == before


def test_force_and_reason_go_together(two: ReleaseWorld) -> None:
    for words in (
        ("promote", "transra", "1"),
        ("rollback", "transra"),
        ("retire", "transra", "1"),
        ("canary", "transra", "1", "0.1"),
    ):
        for force in (("--force",), ("--force", "--reason", " ")):
            assert refused(two, *words, *force) == (
                "Error: --force asks for --reason '...', which the history keeps."
            )
        assert refused(two, *words, "--reason", "because") == (
            "Error: --reason goes with --force; without it nothing is forced."
        )


def test_rankers_are_those_of_the_home(two: ReleaseWorld) -> None:
    done(two, "promote", "transra", "1", *NOW)
    ranker(two, "ctr", 1)
    assert "rankers: 0 of 1 rankers" in refused(two, "promote", "transra", "2", *NOW)
    assert "rankers: 0 of 1 rankers" in refused(two, "canary", "transra", "2", "0.1", *NOW)
    ranker(two, "next", 2)
    done(two, "promote", "transra", "2", *NOW)
    assert "found rankers: ctr.safetensors" in refused(two, "retire", "transra", "1")


def view(told: dict[str, Any], version: int, name: str) -> dict[str, Any]:
    (found,) = [each for each in told["versions"] if each["version"] == version]
    (only,) = [each for each in found["views"] if each["view"] == name]
    return dict(only)


def test_the_status_says_what_lies_where(released: ReleaseWorld) -> None:
    released.ready(1)
    released.refresh(1, T + DAY, quality=None)
    released.ready(2, dim=6, nested_dims=(2, 3), dtype="int8")
    released.declare(3, entities=[USER], space="transra_v2", anchored_to=2, dim=6)
    released.promote(1)
    done(released, "canary", "transra", "2", "0.05", *NOW)
    at = ("--at", "2026-03-11T06:00")
    told = json.loads(done(released, "status", "transra", *at, "--format", "json"))["transra"]
    kept = {name: told[name] for name in ("live", "former", "candidate", "share", "retired")}
    assert kept == {"live": 1, "former": None, "candidate": 2, "share": 0.05, "retired": []}
    assert [each["is"] for each in told["versions"]] == ["live", "canary 5.0%", "declared"]
    assert view(told, 1, "user_transra_v1") == {
        "view": "user_transra_v1",
        "entity": "user",
        "dim": 4,
        "nested_dims": [],
        "dtype": "float32",
        "space": "transra_v1",
        "anchored_to": None,
        "run": "run-1-10",
        "online_as_of": "2026-03-10T00:00:00+00:00",
        "age_seconds": 30 * 3600.0,
        "ttl_seconds": 3 * 24 * 3600.0,
        "rows": 40,
        "snapshot_as_of": "2026-03-11T00:00:00+00:00",
        "quality": 0.5,
        "quality_as_of": "2026-03-10T00:00:00+00:00",
    }
    bare = view(told, 3, "user_transra_v3")
    assert (bare["rows"], bare["online_as_of"], bare["quality"]) == (0, None, None)
    assert bare["anchored_to"] == 2

    table = rows(done(released, "status", *at))
    assert table[0] == ["family", "transra"]
    assert table[1][:3] == ["version", "is", "view"]
    (line,) = [row for row in table if "pin_transra_v2" in row]
    assert " ".join(line) == (
        "2 canary 5.0% pin_transra_v2 6 (2, 3) int8 transra_v2 2026-03-10 1d 6h 40 2026-03-10 0.5"
    )


def test_the_status_of_what_was_never_released(family: ReleaseWorld) -> None:
    assert "No embedding view is registered" in done(family, "status")
    assert json.loads(done(family, "status", "--format", "json")) == {}
    family.declare(1, entities=[USER])
    told = json.loads(done(family, "status", "--format", "json"))["transra"]
    assert (told["live"], told["serial"], told["versions"][0]["is"]) == (None, None, "declared")
    assert done(family, "history", "transra") == "Family transra was never released.\n"
    assert json.loads(done(family, "history", "transra", "--format", "json")) == []
    assert "family linksage: found no embedding view" in refused(family, "status", "linksage")


def test_a_folder_that_is_no_repo_is_refused(family: ReleaseWorld) -> None:
    words: Sequence[str] = ["release", "status", "--repo", str(family.online.root / "nowhere")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert result.stderr.strip() == (
        f"Error: feature repo {family.online.root / 'nowhere'}: found no feature_store.yaml; "
        "expected a Feast repo. Give its folder with --repo, or its home with --home."
    )


def test_each_help_ends_in_an_example() -> None:
    for name in ("status", "promote", "rollback", "retire", "canary", "history"):
        result = CliRunner().invoke(main, ["release", name, "--help"])
        last = result.output.strip().splitlines()[-1].strip()
        assert last.startswith(f"Example: provender release {name} transra")
