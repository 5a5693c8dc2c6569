"""What a release, and a refresh, has to pass: ``releases.yaml`` beside ``feature_store.yaml``.

    transra:
      coverage: 0.95
      quality: 0.98
      drift: {cosine: 0.8}
      keep_days: 90

A family that is not in the file, and a repo without the file, have the defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from provender.plugin.checked_yaml import check, load_yaml

FILE = "releases.yaml"
Share = Annotated[float, Field(ge=0, le=1)]


class DriftGates(BaseModel):
    """How far a refresh may be from the former one of the same view.

    Measured on the three worlds that ship (benchmarks/refresh_drift.py), a refresh that is tethered
    to the former one has a mean cosine of 0.94 to 0.99 (after a day, two weeks or six), a norm
    ratio of 0.96 to 1 and 0.16 to 0.56 of the neighbours changed; one that was trained afresh, in
    a space turned otherwise, has a cosine of 0.03 at most and 0.41 to 0.91 of the neighbours
    changed. So the cosine tells the two apart; the neighbours tell vectors that have lost what they
    knew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosine: float = Field(
        0.85, ge=-1, le=1, description="mean cosine of the same entities' vectors, at least"
    )
    coverage: Share = Field(0.9, description="share of the former entities that are kept, at least")
    norm: float = Field(1.5, ge=1, description="ratio of the mean lengths, either way, at most")
    neighbours: Share = Field(
        0.8, description="share of an entity's nearest neighbours that have changed, at most"
    )


class Gates(BaseModel):
    """What a version has to pass before it is promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: Share = Field(
        0.95, description="share of the live version's entities that it has, at least"
    )
    quality: float = Field(
        0.95, ge=0, description="its quality as a share of the live version's, at least"
    )
    sample: int = Field(
        1_000, ge=1, description="rows a view whose online and offline vectors are compared"
    )
    drift: DriftGates = DriftGates()
    keep_days: int | None = Field(
        None,
        ge=1,
        description="`provender gc` drops snapshots that are so much older than the newest; "
        "null keeps all, which is what training joins over history need",
    )


def gates_of(repo: Path, family: str) -> Gates:
    """Return the gates of a family; raises MappingError where the file is no such file."""
    path = repo / FILE
    if not path.is_file():
        return Gates()
    content = load_yaml(path).get(family)
    return check(Gates, content or {}, f"{path}: {family}")
