"""Which version of each family a request reads: settled once a request, then never looked at again.

A ranker reads the version it learned from, or, where it accepts that, one that stays in the same
space. Everything else is refused before anything is read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from feast import FeatureStore

from provender.consumers.features import FeatureLayout
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import VersionError
from provender.plugin.families import Versions, compatible, families_of
from provender.plugin.releases import Release
from provender.plugin.spec import EmbeddingSpec

#: family -> the version that is to be read; None, or none at all, where nothing is released
Wanted = Mapping[str, int | None]


@dataclass(frozen=True)
class Assignment:
    """What one request reads.

    Attributes:
        versions: family -> version.
        views: view that the ranker knows -> view that is read in its place; none for its own.
    """

    versions: Mapping[str, int]
    views: Mapping[str, str]


class RegisteredViews:
    """The embedding views of the registry; read again for each version that was not there yet."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._families: dict[str, Versions] = {}
        self._missed: set[tuple[str, int]] = set()
        self._reading = threading.Lock()

    def of(self, family: str, version: int) -> tuple[EmbeddingSpec, ...]:
        """Return the views of a version, none where the registry has none."""
        found = self._found(family, version)
        if found or (family, version) in self._missed:
            return found
        with self._reading:
            if not self._found(family, version):
                self._families = families_of(embedding_specs(self._store).values())
            if not self._found(family, version):
                self._missed.add((family, version))
        return self._found(family, version)

    def _found(self, family: str, version: int) -> tuple[EmbeddingSpec, ...]:
        return self._families.get(family, {}).get(version, ())


class VersionGuard:
    """What the features of one layout may be read from.

    Args:
        layout: of a ranker, or of a service that is read without one.
        registered: what there is to read.
        accepts_anchored: whether a version in the space of the layout's own may be read.
    """

    def __init__(
        self, layout: FeatureLayout, registered: RegisteredViews, *, accepts_anchored: bool = False
    ) -> None:
        self.families = families_of(layout.embeddings)
        self.accepts_anchored = accepts_anchored
        self._service, self._registered = layout.service, registered

    def own(self) -> Assignment:
        """Return the versions that the layout names; of a family with several, the newest."""
        return Assignment({family: max(known) for family, known in self.families.items()}, {})

    def reading(self, wanted: Wanted) -> Assignment | None:
        """Return how the wanted versions are read, None where one of them may not be."""
        versions = dict(self.own().versions)
        views: dict[str, str] = {}
        for family, known in self.families.items():
            version = wanted.get(family)
            if version is None:
                continue
            if version not in known:
                places = self._in_place_of(family, version)
                if not (places and self.accepts_anchored):
                    return None
                views |= places
            versions[family] = version
        return Assignment(versions, views)

    def retired(
        self, states: Mapping[str, Release], assignment: Assignment
    ) -> tuple[str, int] | None:
        """Return a family and version that an assignment reads though it is retired, if any."""
        for family, known in self.families.items():
            version = assignment.versions[family]
            read = set(known) if version in known else {version}
            gone = read & set(states[family].retired) if family in states else None
            if gone:
                return family, min(gone)
        return None

    def check_not_retired(self, states: Mapping[str, Release], assignment: Assignment) -> None:
        """Refuse, with VersionError, to read what is retired: it may be dropped at any time."""
        gone = self.retired(states, assignment)
        if gone is None:
            return
        family, version = gone
        raise VersionError(
            f"feature service {self._service}, family {family}",
            found=f"version {version}, which is retired",
            expected=f"a version that may serve; live is {states[family].live or 'none'}",
            remedy="Read a service of the live version, with a ranker trained on it.",
        )

    def refusal(self, states: Mapping[str, Release]) -> VersionError:
        """Return why a request is not served what is live."""
        for family, release in states.items():
            if family in self.families and self.reading({family: release.live}) is None:
                return self._refusal(family, release)
        raise AssertionError("every live version may be read")

    def _refusal(self, family: str, release: Release) -> VersionError:
        known = self.families[family]
        names = [spec.view_name for version in known.values() for spec in version]
        numbers = ", ".join(map(str, known))
        return VersionError(
            f"feature service {self._service}, family {family}",
            found=f"version {release.live} live ({release.action} by {release.by} at "
            f"{release.at:%Y-%m-%d %H:%M:%S} UTC)",
            expected=f"version {numbers} ({', '.join(names)}), as the ranker learned",
            remedy=self._remedy(family, release, numbers),
        )

    def _remedy(self, family: str, release: Release, numbers: str) -> str:
        stays = release.live is not None and self._in_place_of(family, release.live)
        accepting = ", or that accepts it (`provender rank --accept-anchored`)" if stays else ""
        serve = f"Serve a ranker trained on version {release.live}{accepting}"
        if set(self.families[family]) & set(release.retired):
            return f"{serve}."
        return (
            f"{serve}; or return with `provender release rollback {family}`; pinned=True goes on "
            f"reading version {numbers} until it is retired."
        )

    def _in_place_of(self, family: str, version: int) -> dict[str, str] | None:
        """Return for each view of a family the one of another version that can stand for it.

        None where one has none, and where the layout has several versions of the family, which a
        single one can't stand for.
        """
        if len(self.families[family]) > 1:
            return None
        (own,) = self.families[family].values()
        others = {spec.name: spec for spec in self._registered.of(family, version)}
        alike = all(spec.name in others and compatible(spec, others[spec.name]) for spec in own)
        return {spec.view_name: others[spec.name].view_name for spec in own} if alike else None
