"""The options that several commands share, said the same way everywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A table, or JSON with all figures.",
)


class UtcTime(click.ParamType[datetime]):
    """A date or time in ISO form; without an offset it is UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time as an aware datetime in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; expected one like 2026-03-14 or 2026-03-14T12:30")
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def at_home(command: Command) -> Command:
    """Add --home, --world, --data and --repo: where a command finds what it works on."""
    for option in reversed(_AT_HOME):
        command = option(command)
    return command


def at_repo(command: Command) -> Command:
    """Add --home and --repo, for commands that need no world."""
    for option in (_REPO, _HOME):
        command = option(command)
    return command


_HOME = click.option(
    "--home",
    type=FOLDER,
    default=Path("demo"),
    show_default=True,
    help="Folder of events, snapshots, feature repo and reports.",
)
_REPO = click.option("--repo", type=FOLDER, help="Feast repo.  [default: HOME/feature_repo]")
_AT_HOME = (
    _HOME,
    click.option(
        "--world",
        "world_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="World file that declares the data.  [default: HOME/world.yaml]",
    ),
    click.option(
        "--data", type=FOLDER, help="Folder of the world's tables.  [default: the simulated events]"
    ),
    _REPO,
)
