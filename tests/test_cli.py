"""The command line as a stranger meets it."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_ends_in_an_example_of_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Example: provender {name}" in " ".join(result.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name: str) -> None:
    command = main.get_command(
        main.make_context("provender", ["--help"], resilient_parsing=True), name
    )
    assert command is not None
    assert all(getattr(option, "help", None) for option in command.params)


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["bake"])
    assert result.exit_code == 2
    assert "No such command 'bake'" in result.output
