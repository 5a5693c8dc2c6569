"""Which two views a retrieval compares: what asks and what is found, of one version and space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provender.plugin.errors import FetchError, VersionError
from provender.plugin.nearest import Metric
from provender.plugin.spec import EmbeddingSpec


@dataclass(frozen=True)
class ViewPair:
    """Two views whose vectors may be compared with each other.

    Attributes:
        asking: of the entities that ask, such as users.
        found: of the entities that are found, such as pins.

    Raises VersionError: views of several versions or spaces, or of several lengths.
    """

    asking: EmbeddingSpec
    found: EmbeddingSpec

    def __post_init__(self) -> None:
        """Refuse what can't be compared."""
        one, other = self.asking, self.found
        for name in ("space", "version", "dim"):
            if getattr(one, name) != getattr(other, name):
                raise VersionError(
                    f"{one.view_name} and {other.view_name}",
                    found=f"{name} {getattr(one, name)} and {getattr(other, name)}",
                    expected="views of one version and one space: no others can be compared",
                    remedy="Name two views of the same version and space.",
                )

    @property
    def metric(self) -> Metric:
        """How vectors of the space are compared.

        Facets by their distance, for that is what their relation's score is made of (TransR, Lin
        et al. 2015, eq. 3); all others by their inner product.
        """
        return "l2" if self.asking.facet or self.found.facet else "inner_product"


def pair_of(
    specs: Mapping[str, EmbeddingSpec],
    view: str,
    version: int,
    *,
    asking: str = "user",
    found: str = "pin",
) -> ViewPair:
    """Return the two views that a short name stands for, such as `transra`.

    That is `<asking>_<view>` and `<found>_<view>`, of the version.

    Args:
        specs: view -> declaration, as registered.
        asking, found: the two entities.

    Raises:
        FetchError: there are no such views.
        VersionError: they can't be compared.
    """
    pair = []
    for entity in (asking, found):
        name = f"{entity}_{view}_v{version}"
        if name not in specs:
            known = ", ".join(pairs_in(specs, asking, found)) or "(the registry has none)"
            raise FetchError(
                f"embeddings {view!r}, version {version}",
                found=f"no view {name}",
                expected=f"views of both {asking} and {found}: {known}",
                remedy="Correct the name or the version, or declare the view.",
            )
        pair.append(specs[name])
    return ViewPair(*pair)


def pairs_in(specs: Mapping[str, EmbeddingSpec], asking: str, found: str) -> list[str]:
    """Return the short names, with their versions, of all pairs of two entities' views."""
    return [
        f"{spec.name.removeprefix(f'{asking}_')} version {spec.version}"
        for spec in specs.values()
        if spec.name.startswith(f"{asking}_")
        and f"{found}_{spec.name.removeprefix(f'{asking}_')}_v{spec.version}" in specs
    ]


def versions_of(specs: Mapping[str, EmbeddingSpec], view: str, asking: str) -> list[int]:
    """Return the versions in which a short name is declared, ascending."""
    return sorted(spec.version for spec in specs.values() if spec.name == f"{asking}_{view}")


def family_of(specs: Mapping[str, EmbeddingSpec], view: str, asking: str, found: str) -> str:
    """Return the family that a short name's views are released with.

    Raises FetchError where there are no such views.
    """
    versions = versions_of(specs, view, asking)
    pair = pair_of(specs, view, versions[-1] if versions else 1, asking=asking, found=found)
    return pair.asking.family
