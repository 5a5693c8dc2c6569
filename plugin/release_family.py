"""A family as a move finds it, and a move that is examined but not yet made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore

from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import ReleaseError
from provender.plugin.families import views_of, views_of_version
from provender.plugin.gates import Gates, gates_of
from provender.plugin.ranker_stamp import read_stamps
from provender.plugin.release_gates import Gate, Trial
from provender.plugin.releases import Action, Check, Release, Releases
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.stored_views import StoredVersions, stored_families


@dataclass(frozen=True)
class Family:
    """A family of one feature store.

    Attributes:
        name: its name.
        store: the feature store.
        releases: of the project.
        state: what serves; None where nothing was ever released.
        specs: all embedding views of the registry, by view name.
        versions: the family's versions as they lie in the store.
    """

    name: str
    store: FeatureStore
    releases: Releases
    state: Release | None
    specs: dict[str, EmbeddingSpec]
    versions: StoredVersions

    @classmethod
    def of(cls, store: FeatureStore, name: str) -> Family:
        """Read a family, its state before all else; raises ReleaseError where there is none."""
        releases = Releases.of(store)
        state = releases.current(name)
        specs = embedding_specs(store)
        views_of(specs, name)
        versions = stored_families(store, releases).get(name, {})
        return cls(name, store, releases, state, specs, versions)

    @property
    def live(self) -> int | None:
        """The version that serves."""
        return self.state.live if self.state else None

    @property
    def former(self) -> int | None:
        """The version that a rollback returns to."""
        return self.state.former if self.state else None

    @property
    def candidate(self) -> int | None:
        """The version that a share of the requests reads."""
        return self.state.candidate if self.state else None

    @property
    def share(self) -> float:
        """That share."""
        return self.state.share if self.state else 0.0

    @property
    def retired(self) -> Sequence[int]:
        """The versions that never serve again."""
        return self.state.retired if self.state else ()

    def check_servable(self, thing: str, version: int) -> None:
        """Refuse a version that requests can't be sent to, whatever the reason.

        Raises ReleaseError: it is not declared, retired, live already, or without a table.
        """
        self.check_not_retired(thing, version)
        if version == self.live:
            raise ReleaseError(
                thing,
                found="it is live already",
                expected="another version",
                remedy="Look at `provender release status`.",
            )
        missing = [view.view.name for view in self.versions[version] if not view.there]
        if missing:
            raise ReleaseError(
                thing,
                found=f"no online table of {', '.join(missing)}",
                expected="one for each of its views",
                remedy="Run `feast apply`, then `feast materialize`.",
            )

    def check_not_retired(self, thing: str, version: int) -> None:
        """Refuse, with ReleaseError, a version that is not declared or is retired."""
        views_of_version(self.specs, self.name, version)
        if version in self.retired:
            raise ReleaseError(
                thing,
                found="it is retired",
                expected="a version that may serve",
                remedy=f"Declare it anew as version {max(self.versions) + 1}.",
            )

    def judged(
        self,
        version: int,
        by: Sequence[Gate],
        *,
        rankers: Path | None = None,
        gates: Gates | None = None,
        now: datetime | None = None,
        seed: int | None = None,
    ) -> tuple[Check, ...]:
        """Return what the gates say of a version.

        Args:
            version: a declared one.
            by: the gates.
            rankers: a folder of rankers, some of which must be able to follow; None for none.
            gates: what is asked for; those of ``releases.yaml`` by default.
            now: the time of judgement; the clock's by default.
            seed: of the random sample; the system's entropy by default.
        """
        trial = Trial(
            family=self.name,
            version=version,
            versions=self.versions,
            live=self.live,
            gates=gates or gates_of(Path(self.store.repo_path), self.name),
            now=now or datetime.now(UTC),
            rankers=read_stamps(rankers) if rankers else {},
            seed=seed,
        )
        return tuple(gate(trial) for gate in by)


@dataclass(frozen=True)
class Move:
    """A move that is examined and not yet made.

    Attributes:
        thing: what it is, for messages.
        family: the family as it was found.
        action: its name.
        changes: what differs afterwards.
        checks: what its gates say.
    """

    thing: str
    family: Family
    action: Action
    changes: dict[str, Any]
    checks: tuple[Check, ...] = ()

    def make(self, reason: str | None = None) -> Release:
        """Make it, and return the family's new state.

        Args:
            reason: why it is to be made though gates fail; it is kept with what they said.

        Raises:
            ReleaseError: gates fail and no reason is given.
            ReleaseConflictError: somebody else has moved the family since it was read.
        """
        failed = [check for check in self.checks if not check.passed]
        if failed and not reason:
            raise ReleaseError(
                self.thing,
                found="; ".join(f"{check.name}: {check.found}" for check in failed),
                expected="; ".join(f"{check.name}: {check.expected}" for check in failed),
                remedy="Mend it and run this again, or add --force --reason '...', which is kept.",
            )
        return self.family.releases.move(
            self.family.state,
            family=self.family.name,
            action=self.action,
            checks=self.checks,
            reason=reason if failed else None,
            **self.changes,
        )
