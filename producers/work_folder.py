"""The folder of `--work`, in which a run that was stopped finds its place: one run's at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provender.plugin.errors import ConfigError
from provender.plugin.files import remove_folder

#: Where rows are read into, in the folder.
ROWS = "rows"


@contextmanager
def held(folder: Path, producer: str) -> Iterator[Path]:
    """Hold a folder for one evaluation of a producer; a killed process gives it up by itself.

    Rows of an earlier run go: files may have changed since, and reading is cheap. Features and
    checkpoints stay, which are taken up again if all that they depend on is the same.

    Raises ConfigError for a folder with other things in it, as nothing of these may be replaced,
    and for one that another process holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".{producer}"
    if not mark.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"--work {folder}",
            found="a folder with other things in it",
            expected=f"a new or empty folder, or one of an earlier evaluation of {producer}",
            remedy="Name another one.",
        )
    with mark.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--work {folder}",
                found="another evaluation at work in it",
                expected="one at a time",
                remedy="Wait until it has ended, or name another folder.",
            ) from None
        remove_folder(folder, folder / ROWS)
        yield folder


def check_new(option: str, folder: Path) -> None:
    """Raise ConfigError where something stands already in a folder that is to be written."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"{option} {folder}",
            found="something that stands there already",
            expected="a new or empty folder",
            remedy="Name another one, or remove this one.",
        )
