"""The command line as a stranger meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provender.plugin.cli import COMMANDS, main


def test_help_lists_every_command_without_importing_what_is_heavy() -> None:
    code = (
        "import sys; from provender.plugin.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'torch', 'feast', 'dgl', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in COMMANDS)
    assert run.stderr.strip() == ""


def _commands() -> dict[str, click.Command]:
    """Every command and, of a group, every command in it, by what one types."""
    context = main.make_context("provender", ["--help"], resilient_parsing=True)
    found = {}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        found[name] = command
        for inner, each in getattr(command, "commands", {}).items():
            found[f"{name} {inner}"] = each
    return found


@pytest.mark.parametrize(("name", "command"), _commands().items())
def test_each_help_ends_in_an_example_of_itself(name: str, command: click.Command) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: provender {name}" in " ".join(result.output.split())


@pytest.mark.parametrize(("name", "command"), _commands().items())
def test_every_option_says_what_it_is(name: str, command: click.Command) -> None:
    untold = [each.name for each in command.params if not getattr(each, "help", None)]
    assert not untold


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["bake"])
    assert result.exit_code == 2
    assert "No such command 'bake'" in result.output


def _needed(command: click.Command) -> list[str]:
    """What a command asks for, whatever it is."""
    words = []
    for each in command.params:
        if each.required:
            words += [] if isinstance(each, click.Argument) else [each.opts[0]]
            words += ["1" if each.type in (click.INT, click.FLOAT) else "2026-03-14"]
    return words


def _at_home() -> dict[str, click.Command]:
    """The commands that work on a home; `demo` makes it."""
    with_home = {n: c for n, c in _commands().items() if "home" in {p.name for p in c.params}}
    return {name: each for name, each in with_home.items() if name != "demo"}


@pytest.mark.parametrize(("name", "command"), _at_home().items())
def test_a_home_that_is_not_there_is_named_in_one_line(
    name: str, command: click.Command, tmp_path: Path
) -> None:
    home = str(tmp_path / "nowhere")
    result = CliRunner().invoke(main, [*name.split(), *_needed(command), "--home", home])
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert "nowhere" in result.stderr
    assert len(result.stderr.splitlines()) == 1
