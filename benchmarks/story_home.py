"""The home in which benchmarks/release_story.py plays: its commands, run or refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from feast import FeatureStore
from feast.cli.cli import cli as feast_cli

from provender.plugin.cli import main as provender_cli
from provender.plugin.home import Home
from provender.plugin.repo import lay_out, standing_in


class StoryHome:
    """A home with the repo that ships, on SQLite or on a database of the user's.

    Attributes:
        place: where it lies.
        refused: what was refused as it has to be, and with which line.
    """

    def __init__(self, home: Path, url: str | None) -> None:
        self.place = Home(home)
        self.refused: list[dict[str, str]] = []
        lay_out(self.place.repo)
        if url is not None:
            self._use(url)

    @property
    def store(self) -> FeatureStore:
        """The feature store, as the registry has it now."""
        return FeatureStore(str(self.place.repo))

    def run(self, *words: object, home: bool = True) -> str:
        """Run a command of provender's that has to succeed."""
        say("$ provender", *words)
        code, output = self._provender(words, home)
        if code:
            raise AssertionError(f"{words}: {output}")
        return output

    def refuse(self, line: str, *words: object) -> None:
        """Run a command of provender's that has to be refused with such a line."""
        self._refusal(f"provender {' '.join(map(str, words))}", *self._provender(words, True), line)

    def feast(self, *words: str) -> str:
        """Run one of Feast's commands that has to succeed."""
        say("$ feast", *words)
        code, output = self._feast(words)
        if code:
            raise AssertionError(f"feast {words}: {output}")
        return output

    def feast_refuses(self, line: str, *words: str, why: str = "") -> None:
        """Run one of Feast's commands that has to be refused with such a line."""
        self._refusal(f"feast {' '.join(words)}{why}", *self._feast(words), line)

    def raises(self, error: type[Exception], line: str, what: str, call: Callable[[], Any]) -> None:
        """Call what has to be refused."""
        try:
            call()
        except error as refusal:
            self._refusal(what, 1, str(refusal), line)
        else:
            raise AssertionError(f"{what} was not refused")

    @contextmanager
    def changed(self, name: str, change: Callable[[str], str]) -> Iterator[None]:
        """A file of the repo, changed for a while."""
        path = self.place.repo / name
        before = path.read_text() if path.exists() else None
        path.write_text(change(before or ""))
        if path.read_text() == before:
            raise AssertionError(f"{name} is as it was")
        try:
            yield
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_text(before)

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own, to kill it."""
        program = str(Path(sys.executable).with_name("provender"))
        arguments = [program, *map(str, words), "--home", str(self.place.path)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(arguments, stdout=quiet, stderr=quiet)

    def _provender(self, words: tuple[object, ...], home: bool) -> tuple[int, str]:
        where = ["--home", str(self.place.path)] if home else []
        result = CliRunner().invoke(provender_cli, [*map(str, words), *where])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def _feast(self, words: tuple[str, ...]) -> tuple[int, str]:
        with standing_in(self.place.repo):
            result = CliRunner().invoke(feast_cli, list(words))
        if result.exception and not isinstance(result.exception, SystemExit):
            return 1, f"{result.output}{result.exception}"
        return result.exit_code, result.output

    def _refusal(self, what: str, code: int, output: str, line: str) -> None:
        told = " ".join(output.split())
        if not code or line not in told:
            raise AssertionError(f"{what}: exit {code}, and not {line!r} but: {told}")
        self.refused.append({"what": what, "because": line})
        say("refused:", what)

    def _use(self, url: str) -> None:
        path = self.place.repo / "feature_store.yaml"
        told = yaml.safe_load(path.read_text())
        told["online_store"] = {"type": told["online_store"]["type"], "url": url}
        told["project"] = f"story_{os.getpid()}"
        path.write_text(yaml.safe_dump(told))


def say(*words: object) -> None:
    """Tell what happens, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}]", *words, flush=True)
