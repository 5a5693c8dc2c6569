"""Families of embedding views: what is released together, read from the registry alone.

A family's version is every view of that family with that version number, such as
``user_transra_v2`` and ``pin_transra_v2``: vectors of one run, which only fit each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provender.plugin.errors import ReleaseError
from provender.plugin.spec import EmbeddingSpec

#: version -> its views, ascending by name
Versions = dict[int, tuple[EmbeddingSpec, ...]]


def families_of(specs: Iterable[EmbeddingSpec]) -> dict[str, Versions]:
    """Return family -> version -> views, all ascending."""
    found: dict[str, Versions] = {}
    for spec in sorted(specs, key=lambda each: (each.family, each.version, each.name)):
        versions = found.setdefault(spec.family, {})
        versions[spec.version] = (*versions.get(spec.version, ()), spec)
    return found


def views_of(specs: Mapping[str, EmbeddingSpec], family: str) -> Versions:
    """Return a family's versions; raises ReleaseError where there is no such family."""
    known = families_of(specs.values())
    if family not in known:
        raise ReleaseError(
            f"family {family}",
            found="no embedding view of it in the registry",
            expected=f"one of {', '.join(known) or '(the registry has none)'}",
            remedy="Declare its views and run `feast apply`, or correct the name.",
        )
    return known[family]


def views_of_version(
    specs: Mapping[str, EmbeddingSpec], family: str, version: int
) -> tuple[EmbeddingSpec, ...]:
    """Return the views of one version; raises ReleaseError where there are none."""
    versions = views_of(specs, family)
    if version not in versions:
        raise ReleaseError(
            f"version {version} of family {family}",
            found="no embedding view of it in the registry",
            expected=f"one of the versions {', '.join(map(str, versions))}",
            remedy="Declare its views and run `feast apply`, or correct the number.",
        )
    return versions[version]


def views_of_space(specs: Mapping[str, EmbeddingSpec], space: str) -> tuple[EmbeddingSpec, ...]:
    """Return the views whose vectors may be compared with each other: those of one space."""
    found = [spec for spec in specs.values() if spec.space == space]
    return tuple(sorted(found, key=lambda each: each.view_name))


def compatible(one: EmbeddingSpec, other: EmbeddingSpec) -> bool:
    """Return whether what learned from one view can read the other in its place.

    Two versions share a space only where one is anchored to the other, directly or by others
    between them; ``feast apply`` holds them to that.
    """
    alike = ("name", "entity", "join_key", "dim", "space")
    return all(getattr(one, each) == getattr(other, each) for each in alike)
