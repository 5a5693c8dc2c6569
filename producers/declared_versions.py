"""The families and versions of views that a repo declares for one producer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from provender.plugin.errors import ConfigError
from provender.plugin.repo import DeclaredView
from provender.plugin.world import World

T = TypeVar("T")


def versions_of(
    views: Sequence[DeclaredView], producer: str, family: str | None = None
) -> dict[int, list[DeclaredView]]:
    """Return the versions of a family that a repo declares, ascending, each with its views.

    Args:
        views: all that the repo declares.
        producer: who computes them.
        family: its name; the only family of the producer by default.

    Raises ConfigError: there is no such family, it is another producer's, or there is more than
    one to choose from.
    """
    name = _only_family(views, producer) if family is None else family
    mine = views_of_family(views, name)
    for view in mine:
        if view.spec.producer != producer:
            raise ConfigError(
                f"producer of {view.spec.view_name}, family {name}",
                found=repr(view.spec.producer),
                expected=producer,
                remedy="Compute its snapshots with its own producer, then `feast materialize`.",
            )
    numbers = sorted({view.spec.version for view in mine})
    return {number: [v for v in mine if v.spec.version == number] for number in numbers}


def views_of_family(views: Sequence[DeclaredView], family: str) -> list[DeclaredView]:
    """Return all views of a family; raises ConfigError where the repo declares none."""
    mine = [view for view in views if view.spec.family == family]
    if not mine:
        known = sorted({view.spec.family for view in views})
        raise ConfigError(
            f"family {family}",
            found="no embedding view of it in the feature repo",
            expected=f"one of {', '.join(known) or '(the repo declares none)'}",
            remedy="Correct the name, or declare its views in embedding_views.py.",
        )
    return mine


def families_of(views: Sequence[DeclaredView], producer: str) -> list[str]:
    """Return a producer's families, ascending; raises ConfigError without any."""
    known = sorted({view.spec.family for view in views if view.spec.producer == producer})
    if not known:
        raise ConfigError(
            f"embedding views of producer {producer}",
            found="none in the feature repo",
            expected="at least one view",
            remedy="Correct embedding_views.py.",
        )
    return known


def numbers_of(views: Sequence[DeclaredView], producer: str) -> dict[str, set[int]]:
    """Family -> its versions, of all that a producer has."""
    found: dict[str, set[int]] = {}
    for spec in (view.spec for view in views if view.spec.producer == producer):
        found.setdefault(spec.family, set()).add(spec.version)
    return found


def the_version(
    views: Sequence[DeclaredView], producer: str, family: str | None, number: int | None
) -> list[DeclaredView]:
    """Return the views of one version of a family, the newest by default.

    Raises ConfigError where the repo has no such version.
    """
    versions = versions_of(views, producer, family)
    chosen = max(versions) if number is None else number
    if chosen not in versions:
        (name,) = {view.spec.family for views in versions.values() for view in views}
        raise ConfigError(
            f"version {chosen} of family {name}",
            found="no embedding view of it in the feature repo",
            expected=f"one of the versions {', '.join(map(str, versions))}",
            remedy="Correct the number, or declare its views in embedding_views.py.",
        )
    return versions[chosen]


def the_one(name: str, field: str, values: Sequence[T]) -> T:
    """Return the value that all views of a version have; raises ConfigError where they differ."""
    if len(set(values)) > 1:
        raise ConfigError(
            f"embedding views of {name}",
            found=f"{field} {', '.join(map(str, dict.fromkeys(values)))}",
            expected=f"one {field} for all: they share a space",
            remedy="Correct embedding_views.py.",
        )
    return values[0]


def check_key(view: DeclaredView, world: World) -> None:
    """Raise ConfigError where a view's keys are of another type than the world declares."""
    declared = world.entities.get(view.spec.entity)
    if declared != view.key_type:
        raise ConfigError(
            f"entity {view.spec.entity} of {view.spec.view_name}",
            found=f"{view.key_type} keys in the feature repo",
            expected=f"{declared} keys, as the world file declares"
            if declared
            else f"an entity of the world file: {', '.join(world.entities)}",
            remedy="Correct value_type in entities.py, or the section entities of the world file.",
        )


def _only_family(views: Sequence[DeclaredView], producer: str) -> str:
    known = families_of(views, producer)
    if len(known) > 1:
        raise ConfigError(
            f"embedding views of producer {producer}",
            found=f"the families {', '.join(known)}",
            expected="one family at a time",
            remedy="Name it with --family.",
        )
    return known[0]
