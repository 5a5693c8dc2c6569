"""A home: the one folder in which everything of one world lies, and where in it each thing does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provender.plugin.errors import ConfigError


@dataclass(frozen=True)
class Home:
    """The folders of a home.

    Attributes:
        path: the home itself, as `provender demo` lays it out.
    """

    path: Path

    @property
    def world(self) -> Path:
        """The world file: what the data are."""
        return self.path / "world.yaml"

    @property
    def simulation(self) -> Path:
        """The simulated world, its events and its hidden truth."""
        return self.path / "simulation"

    @property
    def data(self) -> Path:
        """Where a world's tables lie if no other folder is given: the simulated events."""
        return self.simulation / "events"

    @property
    def repo(self) -> Path:
        """The Feast repo."""
        return self.path / "feature_repo"

    @property
    def snapshots(self) -> Path:
        """Snapshots, by view and as-of time."""
        return self.path / "snapshots"

    @property
    def features(self) -> Path:
        """Ordinary features, by source and as-of time."""
        return self.path / "features"

    @property
    def runs(self) -> Path:
        """What producers keep to go on from: events, checkpoints, vectors."""
        return self.path / "runs"

    @property
    def rankers(self) -> Path:
        """Trained rankers."""
        return self.path / "rankers"

    @property
    def reports(self) -> Path:
        """What commands measured, as JSON."""
        return self.path / "reports"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock of this home, which a killed process gives up by itself.

        Raises ConfigError where another process holds it.
        """
        path = self.path / f".{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"home {self.path}",
                    found=f"process {path.read_text() or '?'} at work on its {name}",
                    expected="one at a time",
                    remedy="Wait until it has ended, then run the command again.",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
