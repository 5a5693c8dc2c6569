"""A job: one version of one family of views, to be computed from a world's data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.disk_training import check_on_disk
from provender.producers.facets import check_facets
from provender.producers.settings import settings_of
from provender.producers.transra_config import TransRAConfig

PRODUCER = "transra"
T = TypeVar("T")
#: What a view declares without a bearing on its vectors; an anchor shows in the parent.
NOT_SHAPING = {"ttl", "family", "anchored_to"}


@dataclass(frozen=True)
class Job:
    """What to compute: a world's data, the views of one version to fill, and how."""

    world: World
    data: Path
    home: Home
    specs: tuple[EmbeddingSpec, ...]
    config: TransRAConfig
    device: str = "auto"

    @classmethod
    def declare(
        cls,
        world: World,
        data: Path,
        home: Home,
        views: Sequence[DeclaredView],
        device: str = "auto",
        *,
        family: str | None = None,
        version: int | None = None,
    ) -> Job:
        """Put a job together; the model's dim is the views' own.

        Args:
            world: what the data are, and how TransRA is to be trained on them.
            data: the folder of the world's tables.
            home: where runs and snapshots go.
            views: all that the repo declares.
            device: auto, cpu or cuda.
            family: whose views to fill; the only one that TransRA produces by default.
            version: which; the newest declared by default.

        Raises ConfigError where the repo has no such view of this producer, where the views of
        the version have several dims or anchors, keys of another type than the world declares or
        facets that it can't have, or where the world's settings do not fit, or do not fit together.
        """
        versions = versions_of(views, family)
        chosen = max(versions) if version is None else version
        _check_version(versions, chosen)
        mine = versions[chosen]
        name = f"version {chosen} of family {mine[0].spec.family}"
        _one(name, "dim", [view.spec.dim for view in mine])
        _one(name, "anchored_to", [view.spec.anchored_to for view in mine])
        for view in mine:
            _check_key(view, world)
        config = _config(world, mine[0].spec, _declared_versions(views))
        _check_anchored(name, mine[0].spec, config)
        if config.partitions > 1:
            check_on_disk(config)
        check_facets([view.spec for view in mine], world, config)
        return cls(world, data, home, tuple(view.spec for view in mine), config, device)

    @property
    def family(self) -> str:
        """The family of its views."""
        return self.specs[0].family

    @property
    def version(self) -> int:
        """The version of its views."""
        return self.specs[0].version

    @property
    def anchored_to(self) -> int | None:
        """The version in whose space this one stays."""
        return self.specs[0].anchored_to

    @property
    def config_hash(self) -> str:
        """SHA-256 of all that shapes the vectors: model, events, tables, views."""
        shape = {
            "transra": self.config.hash,
            "tables": {name: t.model_dump(mode="json") for name, t in self.world.tables.items()},
            "entities": self.world.entities,
            "events": self.world.events,
            "views": [_shape(spec) for spec in self.specs],
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def versions_of(
    views: Sequence[DeclaredView], family: str | None = None
) -> dict[int, list[DeclaredView]]:
    """Return the versions of a family that a repo declares, ascending, each with its views.

    Args:
        views: all that the repo declares.
        family: its name; the only family that TransRA produces by default.

    Raises ConfigError: there is no such family, it is none of TransRA's, or there is more than
    one to choose from.
    """
    name = _only_family(views) if family is None else family
    mine = [view for view in views if view.spec.family == name]
    if not mine:
        raise ConfigError(
            f"family {name}",
            found="no embedding view of it in the feature repo",
            expected=f"one of {', '.join(_families(views)) or '(the repo declares none)'}",
            remedy="Correct the name, or declare its views in embedding_views.py.",
        )
    for view in mine:
        if view.spec.producer != PRODUCER:
            raise ConfigError(
                f"producer of {view.spec.view_name}, family {name}",
                found=repr(view.spec.producer),
                expected=f"{PRODUCER}, the producer that provender ships",
                remedy="Compute its snapshots with its own producer, then `feast materialize`.",
            )
    numbers = sorted({view.spec.version for view in mine})
    return {number: [v for v in mine if v.spec.version == number] for number in numbers}


def families_of_transra(views: Sequence[DeclaredView]) -> list[str]:
    """Return the families that TransRA produces, ascending; raises ConfigError without any."""
    known = sorted({view.spec.family for view in views if view.spec.producer == PRODUCER})
    if not known:
        raise ConfigError(
            f"embedding views of producer {PRODUCER}",
            found="none in the feature repo",
            expected="at least one view",
            remedy="Correct embedding_views.py.",
        )
    return known


def _shape(spec: EmbeddingSpec) -> dict[str, object]:
    """What of a view shapes its vectors; a raw one's is as it was before there were facets."""
    left_out = NOT_SHAPING if spec.facet else NOT_SHAPING | {"facet"}
    return spec.model_dump(mode="json", exclude=left_out)


def _only_family(views: Sequence[DeclaredView]) -> str:
    known = families_of_transra(views)
    if len(known) > 1:
        raise ConfigError(
            f"embedding views of producer {PRODUCER}",
            found=f"the families {', '.join(known)}",
            expected="one family at a time",
            remedy="Name it with --family.",
        )
    return known[0]


def _families(views: Sequence[DeclaredView]) -> list[str]:
    return sorted({view.spec.family for view in views})


def _declared_versions(views: Sequence[DeclaredView]) -> dict[str, set[int]]:
    """Family -> its versions, of all that TransRA produces."""
    found: dict[str, set[int]] = {}
    for spec in (view.spec for view in views if view.spec.producer == PRODUCER):
        found.setdefault(spec.family, set()).add(spec.version)
    return found


def _check_version(versions: dict[int, list[DeclaredView]], chosen: int) -> None:
    if chosen not in versions:
        (family,) = {view.spec.family for views in versions.values() for view in views}
        raise ConfigError(
            f"version {chosen} of family {family}",
            found="no embedding view of it in the feature repo",
            expected=f"one of the versions {', '.join(map(str, versions))}",
            remedy="Correct the number, or declare its views in embedding_views.py.",
        )


def _one(name: str, field: str, values: Sequence[T]) -> T:
    """The value that all views of a version have; raises ConfigError where they differ."""
    if len(set(values)) > 1:
        raise ConfigError(
            f"embedding views of {name}",
            found=f"{field} {', '.join(map(str, dict.fromkeys(values)))}",
            expected=f"one {field} for all: they share a space",
            remedy="Correct embedding_views.py.",
        )
    return values[0]


def _check_key(view: DeclaredView, world: World) -> None:
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


def _config(world: World, spec: EmbeddingSpec, declared: dict[str, set[int]]) -> TransRAConfig:
    where, settings = settings_of(world.transra, spec.family, spec.version, declared)
    config = TransRAConfig.parse({"dim": spec.dim, **settings}, where)
    if config.dim != spec.dim:
        raise ConfigError(
            f"section {where}, dim",
            found=str(config.dim),
            expected=f"{spec.dim}, as the embedding views declare",
            remedy="Leave dim out of the world file: it follows the views.",
        )
    return config


def _check_anchored(name: str, spec: EmbeddingSpec, config: TransRAConfig) -> None:
    if spec.anchored_to is not None and config.anchor_entities == "off":
        raise ConfigError(
            f"section transra, anchor_entities, for {name}",
            found="off",
            expected=f"tether or frozen: it is declared to stay in version {spec.anchored_to}'s "
            "space",
            remedy="Leave anchor_entities as it is by default, or leave anchored_to out and name "
            "a space of its own.",
        )
