"""What a producer's section of a world, such as `transra`, says of one version of one family.

    transra:
      epochs: 5                        # of every family
      versions: {2: {epochs: 8}}       # of version 2 of each family without an entry below
      families:
        interest: {relations: {save: 1.0}, versions: {3: {seed: 1}}}

The closest word counts: a version's, else its family's, else the section's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from provender.plugin.errors import ConfigError

FAMILIES, VERSIONS = "families", "versions"
Settings = Mapping[str, Any]


def settings_of(
    section: Settings,
    family: str,
    version: int,
    declared: Mapping[str, Collection[int]],
    *,
    producer: str = "transra",
) -> tuple[str, dict[str, Any]]:
    """Return the settings of one version of a family, and the place of the closest of them.

    Version numbers are a family's own: one that has an entry has its `versions` there, and those
    of the section are of the others.

    Args:
        section: the world's section.
        family: whose settings.
        version: of which version.
        declared: family -> the versions that the feature repo declares.
        producer: the section's name, for what it refuses.

    Raises ConfigError for entries that are no mappings, and for those of a family or version that
    is not declared.
    """
    families = _entries(
        section, (producer, FAMILIES), "settings by family, such as {interest: {epochs: 8}}"
    )
    _check_declared(families, (producer, FAMILIES), "family", declared)
    own: Settings = {}
    path: tuple[str, ...] = (producer,)
    if family in families:
        own, path, numbers = families[family], (producer, FAMILIES, family), set(declared[family])
    else:
        others = (declared[each] for each in declared if each not in families)
        numbers = {number for each in others for number in each}
    whose = own if family in families else section
    versions = _entries(whose, (*path, VERSIONS), "settings by version, such as {2: {epochs: 8}}")
    _check_declared(versions, (*path, VERSIONS), "version", numbers)
    closest = versions.get(version, {})
    where = _place((*path, VERSIONS, str(version)) if closest else path)
    return where, {**_plain(section), **_plain(own), **closest}


def _entries(settings: Settings, path: tuple[str, ...], expected: str) -> Mapping[Any, Settings]:
    """The mapping of mappings that stands at the end of a path."""
    found: Mapping[Any, Settings] = settings.get(path[-1], {})
    whole = isinstance(found, Mapping)
    if not whole or not all(isinstance(each, Mapping) for each in found.values()):
        raise ConfigError(
            _place(path),
            found=repr(found)[:80],
            expected=expected,
            remedy=f"Correct the section {path[0]} of the world file.",
        )
    return found


def _check_declared(
    entries: Collection[Any], path: tuple[str, ...], kind: str, declared: Collection[Any]
) -> None:
    unknown = [name for name in entries if name not in declared]
    if unknown:
        raise ConfigError(
            _place(path),
            found=f"settings of {kind} {', '.join(map(repr, unknown))}",
            expected=f"{path[-1]} that the feature repo declares: "
            f"{', '.join(map(str, sorted(declared)))}",
            remedy=f"Correct it, or declare the {kind}'s views in embedding_views.py.",
        )


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: each for name, each in settings.items() if name not in (FAMILIES, VERSIONS)}


def _place(path: tuple[str, ...]) -> str:
    return f"{path[0]}: {'.'.join(path[1:])}" if path[1:] else path[0]
