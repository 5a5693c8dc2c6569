"""One exception a cause: each names the thing, what was found, what was expected, the remedy."""

from __future__ import annotations

import click


class ProvenderError(click.ClickException):
    """The base of all errors that a user can mend.

    It is a click exception, so that provender's command line and Feast's own both print the one
    line and exit with 1 instead of showing a traceback.
    """

    def __init__(self, thing: str, *, found: str, expected: str, remedy: str) -> None:
        self.thing, self.found, self.expected, self.remedy = thing, found, expected, remedy
        line = f"{thing}: found {found}; expected {expected}. {remedy}"
        super().__init__(" ".join(line.split()))

    def __str__(self) -> str:
        return self.message


class SpecError(ProvenderError):
    """A declaration of an embedding view that can't be."""


class VersionError(ProvenderError):
    """A version number that would come to mean two different things."""


class SnapshotError(ProvenderError):
    """A snapshot that is not whole, not itself any more, or not what its view declares."""


class MappingError(ProvenderError):
    """A world file whose declarations do not fit together or do not fit the data."""


class SourceError(ProvenderError):
    """A file or database that can't be read."""


class EntityFrameError(ProvenderError):
    """Entity rows that can't be joined to: no time, no key, or a key of another type."""


class BadRowsError(ProvenderError):
    """More rows of a log are bad than the mapping allows."""


class ConfigError(ProvenderError):
    """A configuration value that can't be used."""


class CheckpointError(ProvenderError):
    """A checkpoint that is damaged or belongs to something else."""


class TrainingError(ProvenderError):
    """Training that can't go on: a loss that is no number, an empty graph."""


class FetchError(ProvenderError, ValueError):
    """A request for features that can't be answered.

    It is a ValueError as well, which is what callers of Feast's own stores catch.
    """


class FetchTimeoutError(FetchError):
    """A request for features that was not answered in its time."""


class SimulationError(ProvenderError):
    """A simulated world that can't be made."""


class OnlineStoreError(ProvenderError):
    """An online store that can't be reached, read or written."""


class OnlineRowError(ProvenderError):
    """A stored online row that is not what was written."""


class OnlineValueError(ProvenderError):
    """A key or value that an online store refuses."""


class LoadLockedError(ProvenderError):
    """A load of a view that another load is busy with."""


class ReleaseError(ProvenderError):
    """A move of a release that its gates, or its history, do not allow."""


class ReleaseConflictError(ReleaseError):
    """A move of a release that somebody else was faster with."""


class DriftError(ProvenderError):
    """A refresh that differs more from the former one than its gate allows."""
