"""A job of LinkSage: one version of one family of its views, to be computed from a world's data.

linksage:
  pages: {table: pages, key: page_id, text: [title], time: crawled_at}
  pins: {table: pins, key: pin_id, text: [title], time: created_at}
  pairs:
    links: {table: pins, pin: pin_id, page: page_id, time: created_at}
  training: {epochs: 5}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provender.plugin.checked_yaml import check
from provender.plugin.errors import ConfigError, MappingError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.world import World
from provender.producers.declared_versions import check_key, numbers_of, the_one, the_version
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.declarations import PageSources
from provender.producers.settings import settings_of
from provender.producers.version_job import VersionJob, with_dims

PRODUCER = "linksage"
#: What its views may be of.
ENTITIES = ("page", "pin")
#: What a view declares without a bearing on its vectors.
_NOT_SHAPING = {"ttl", "family", "facet"}


@dataclass(frozen=True)
class PageJob(VersionJob):
    """What to compute: a world's data, the views of one version to fill, and how."""

    producer = PRODUCER

    sources: PageSources
    config: LinkSageConfig
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
    ) -> PageJob:
        """Put a job together; the model's dim and nested dims are the views' own.

        Raises ConfigError where the repo has no such view of this producer, where its views have
        several dims or keys of another type than the world declares, are of another entity or of a
        facet, where settings do not fit, or where a model would be trained into a space that it
        can't keep; MappingError where the declared tables don't fit.
        """
        mine = the_version(views, PRODUCER, family, version)
        first = mine[0].spec
        name = f"version {first.version} of family {first.family}"
        for field in ("dim", "nested_dims", "space", "anchored_to"):
            the_one(name, field, [getattr(view.spec, field) for view in mine])
        for view in mine:
            _check_view(view)
            check_key(view, world)
        where, section = settings_of(
            world.linksage,
            first.family,
            first.version,
            numbers_of(views, PRODUCER),
            producer=PRODUCER,
        )
        sources, settings = split(section, f"{world.path or 'world'}: {where}")
        config = LinkSageConfig.parse(with_dims(settings, first, where), where)
        _check_tables(sources, world)
        job = cls(world, data, home, tuple(v.spec for v in mine), sources, config, device)
        _check_space(job, where)
        return job

    @property
    def learns_space(self) -> bool:
        """Whether pins' vectors are trained with the model: each training makes another space."""
        targets = self.config.training.targets
        return targets == "joint" or (targets is None and self.sources.pins.target is None)

    @property
    def key_types(self) -> dict[str, str]:
        """Types of the keys of pages and pins, as the world declares them."""
        return {each: self.world.entities[each] for each in ENTITIES if each in self.world.entities}

    @property
    def config_hash(self) -> str:
        """SHA-256 of all that shapes the vectors: model, declarations, tables, views."""
        shape = {
            "linksage": self.config.hash,
            "sources": self.sources.model_dump(mode="json"),
            "tables": {name: t.model_dump(mode="json") for name, t in self.world.tables.items()},
            "entities": self.key_types,
            "views": [spec.model_dump(mode="json", exclude=_NOT_SHAPING) for spec in self.specs],
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def split(section: Mapping[str, Any], where: str) -> tuple[PageSources, dict[str, Any]]:
    """What a section says of its tables, checked, and what it says of the model.

    Raises MappingError for declarations that can't be.
    """
    known = PageSources.model_fields
    sources = check(PageSources, {k: v for k, v in section.items() if k in known}, where)
    return sources, {k: v for k, v in section.items() if k not in known}


def _check_view(view: DeclaredView) -> None:
    spec = view.spec
    if spec.entity not in ENTITIES:
        raise ConfigError(
            f"embedding view {spec.view_name}",
            found=f"entity {spec.entity}",
            expected=f"one of {', '.join(ENTITIES)}: LinkSage embeds pages, and the pins beside",
            remedy="Correct the entity, or the producer, in embedding_views.py.",
        )
    if spec.facet is not None:
        raise ConfigError(
            f"embedding view {spec.view_name}, facet",
            found=repr(spec.facet),
            expected="none: LinkSage has no relations to be seen by",
            remedy="Leave facet out in embedding_views.py.",
        )


def _check_space(job: PageJob, where: str) -> None:
    """Raise ConfigError where a model with a space of its own is to stay in one that is there."""
    named = f"version {job.version} of family {job.family}"
    asked = {
        f"section {where}, incremental.full_after_days": job.config.incremental.full_after_days,
        f"{named}, anchored_to": job.anchored_to,
    }
    for thing, value in asked.items():
        if job.learns_space and value is not None:
            raise ConfigError(
                thing,
                found=f"{value:g}",
                expected=f"none: {named} trains its pins' vectors along, and each training makes "
                "another space",
                remedy="Leave it out and declare a new version with a space of its own, or give "
                "pins' vectors (`pins.target`), whose space stays.",
            )


def _check_tables(sources: PageSources, world: World) -> None:
    declared = {"pages": sources.pages.table, "pins": sources.pins.table}
    declared |= {f"pairs.{name}": pair.table for name, pair in sources.pairs.items()}
    declared |= {"boards": sources.boards.table} if sources.boards else {}
    for name, table in declared.items():
        if table not in world.tables:
            raise MappingError(
                f"{world.path or 'world'}: linksage.{name}.table",
                found=repr(table),
                expected=f"one of {', '.join(sorted(world.tables))}",
                remedy="Correct it or declare it under `tables`.",
            )
