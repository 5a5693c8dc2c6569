"""A job: one version of one family of views, to be computed from a world's data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.declared_versions import check_key, numbers_of, the_one, the_version
from provender.producers.disk_training import check_on_disk
from provender.producers.facets import check_facets
from provender.producers.settings import settings_of
from provender.producers.transra_config import TransRAConfig
from provender.producers.version_job import VersionJob

PRODUCER = "transra"
#: What a view declares without a bearing on its vectors; an anchor shows in the parent.
NOT_SHAPING = {"ttl", "family", "anchored_to"}


@dataclass(frozen=True)
class Job(VersionJob):
    """What to compute: a world's data, the views of one version to fill, and how."""

    producer = PRODUCER

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
        mine = the_version(views, PRODUCER, family, version)
        chosen = mine[0].spec.version
        name = f"version {chosen} of family {mine[0].spec.family}"
        the_one(name, "dim", [view.spec.dim for view in mine])
        the_one(name, "anchored_to", [view.spec.anchored_to for view in mine])
        for view in mine:
            check_key(view, world)
        config = _config(world, mine[0].spec, numbers_of(views, PRODUCER))
        _check_anchored(name, mine[0].spec, config)
        if config.partitions > 1:
            check_on_disk(config)
        check_facets([view.spec for view in mine], world, config)
        return cls(world, data, home, tuple(view.spec for view in mine), config, device)

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


def _shape(spec: EmbeddingSpec) -> dict[str, object]:
    """What of a view shapes its vectors; a raw one's is as it was before there were facets."""
    left_out = NOT_SHAPING if spec.facet else NOT_SHAPING | {"facet"}
    return spec.model_dump(mode="json", exclude=left_out)


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
