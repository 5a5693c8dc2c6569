"""What a job of any producer has: a version's views, and the ids of its runs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from provender.plugin.errors import ConfigError
from provender.plugin.files import stamp
from provender.plugin.home import Home
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World


@dataclass(frozen=True)
class VersionJob(ABC):
    """One version of one family of views, to be computed from a world's data."""

    producer: ClassVar[str]

    world: World
    data: Path
    home: Home
    specs: tuple[EmbeddingSpec, ...]
    #: The Feast repo of the views, where it is not the home's.
    repo: Path | None = field(default=None, kw_only=True)

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
    @abstractmethod
    def config_hash(self) -> str:
        """SHA-256 of all that shapes the vectors."""


def run_id_of(job: VersionJob, as_of: datetime, parent: Snapshot | None) -> str:
    """The id of a job's run: what makes its vectors, hashed."""
    lineage = f"{job.config_hash} {as_of.isoformat()} {parent.manifest.run_id if parent else None}"
    return f"{job.producer}-{stamp(as_of)}-{hashlib.sha256(lineage.encode()).hexdigest()[:10]}"


def with_dims(settings: Mapping[str, Any], spec: EmbeddingSpec, where: str) -> dict[str, Any]:
    """The settings with the views' dims; raises ConfigError where they say something else."""
    model = settings.get("model", {})
    declared = {"dim": spec.dim, "nested_dims": spec.nested_dims}
    for name, dims in declared.items():
        if isinstance(model, Mapping) and name in model:
            raise ConfigError(
                f"section {where}, model.{name}",
                found=repr(model[name]),
                expected=f"nothing: it follows the embedding views, which declare {dims}",
                remedy="Leave it out of the world file.",
            )
    return {**settings, "model": {**model, **declared} if isinstance(model, Mapping) else model}
