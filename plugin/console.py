"""What the terminal shows: progress on standard error, results on standard output."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

#: Results, which a user may pipe.
console = Console()
#: What is going on, which must not get into the pipe.
log = Console(stderr=True)
#: Wider than any table of ours.
_WIDE = 1_000


def print_table(table: Table) -> None:
    """Print a table as a result; in a pipe as wide as it is, so that no name is cut."""
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


def progress() -> Progress:
    """Return a progress bar on standard error; it stays still where that is no terminal."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=log,
    )
