"""A job of upstream towers: one version of one family of their views, from a world's data.

upstream:
  sources:
    shown: {table: impressions, user: user_id, pin: pin_id, time: event_timestamp, labels: {...}}
  training: {epochs: 2}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provender.plugin.checked_yaml import check
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.world import World
from provender.producers.declared_versions import check_key, numbers_of, the_one, the_version
from provender.producers.event_mapping import EventMapping
from provender.producers.settings import settings_of
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.declarations import (
    TowerSources,
    check_declared,
    default_features,
)
from provender.producers.upstream.tower_set import ENTITIES
from provender.producers.version_job import VersionJob, with_dims

PRODUCER = "upstream"
#: What a view declares without a bearing on its vectors.
_NOT_SHAPING = {"ttl", "family", "facet"}


@dataclass(frozen=True)
class TowerJob(VersionJob):
    """What to compute: a world's data, the views of one version to fill, and how."""

    producer = PRODUCER

    sources: TowerSources
    config: UpstreamConfig
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
    ) -> TowerJob:
        """Put a job together; the towers' dim and nested dims are the views' own.

        Raises ConfigError where the repo has no such view of this producer, where its views have
        several dims or keys of another type than the world declares, are of another entity, of a
        facet or anchored to another version, or where settings do not fit; MappingError where the
        declared sources and features do not fit the world.
        """
        mine = the_version(views, PRODUCER, family, version)
        first = mine[0].spec
        name = f"version {first.version} of family {first.family}"
        for field in ("dim", "nested_dims", "space"):
            the_one(name, field, [getattr(view.spec, field) for view in mine])
        for view in mine:
            _check_view(view)
            check_key(view, world)
        where, section = settings_of(
            world.upstream,
            first.family,
            first.version,
            numbers_of(views, PRODUCER),
            producer=PRODUCER,
        )
        sources, settings = split(section, world, f"{world.path or 'world'}: {where}")
        config = UpstreamConfig.parse(with_dims(settings, first, where), where)
        return cls(world, data, home, tuple(v.spec for v in mine), sources, config, device)

    @property
    def config_hash(self) -> str:
        """SHA-256 of all that shapes the vectors: model, declarations, tables, events, views."""
        shape = {
            "upstream": self.config.hash,
            "sources": self.sources.model_dump(mode="json"),
            "tables": {name: t.model_dump(mode="json") for name, t in self.world.tables.items()},
            "entities": {each: self.world.entities.get(each) for each in ENTITIES},
            "events": self.world.events,
            "views": [spec.model_dump(mode="json", exclude=_NOT_SHAPING) for spec in self.specs],
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def split(
    section: Mapping[str, Any], world: World, where: str
) -> tuple[TowerSources, dict[str, Any]]:
    """What a section says of sources and features, checked and whole, and what of the model.

    Raises MappingError for declarations that can't be, or that the world does not fit.
    """
    known = TowerSources.model_fields
    sources = check(TowerSources, {k: v for k, v in section.items() if k in known}, where)
    if sources.features is None:
        events = EventMapping.from_world(world).events
        ends = {
            name: (one.head_entity, one.tail_entity)
            for name, one in events.items()
            if one.time is not None
        }
        sources = sources.model_copy(update={"features": default_features(ends)})
    check_declared(sources, world)
    return sources, {k: v for k, v in section.items() if k not in known}


def _check_view(view: DeclaredView) -> None:
    spec = view.spec
    if spec.entity not in ENTITIES:
        raise ConfigError(
            f"embedding view {spec.view_name}",
            found=f"entity {spec.entity}",
            expected=f"one of {', '.join(ENTITIES)}: the towers that there are",
            remedy="Correct the entity, or the producer, in embedding_views.py.",
        )
    for name, why in (
        ("facet", "towers have no relations to be seen by"),
        ("anchored_to", "towers trained anew make another space"),
    ):
        value = getattr(spec, name)
        if value is not None:
            raise ConfigError(
                f"embedding view {spec.view_name}, {name}",
                found=repr(value),
                expected=f"none: {why}",
                remedy=f"Leave {name} out in embedding_views.py.",
            )
