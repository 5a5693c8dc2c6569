"""All scales and vocabularies of a version: fitted at its first training, unchanged ever after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from provender.plugin.errors import CheckpointError
from provender.plugin.files import write_whole
from provender.producers.upstream.scales import Scale
from provender.producers.upstream.vocabularies import Vocabulary

#: Rises when the same file comes to mean something else.
_FORMAT = 1
_FILE = "preprocessing.json"


class TowerTransforms(BaseModel):
    """Of one tower: scales of its numbers and vocabularies of its categories, by name, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: Mapping[str, Scale]
    categories: Mapping[str, Vocabulary]


class Fitted(BaseModel):
    """Of all towers; `cross` is what the interaction tower sees beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: TowerTransforms
    pin: TowerTransforms
    cross: TowerTransforms

    @property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        told = {"format": _FORMAT, "sha256": self.hash, "fitted": self.model_dump(mode="json")}
        write_whole(folder / _FILE, json.dumps(told, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """What was saved there; raises CheckpointError where it is damaged or absent."""
        try:
            told = json.loads((folder / _FILE).read_bytes())
            if told["format"] != _FORMAT:
                raise ValueError(f"format {told['format']}")
            fitted = cls.model_validate(told["fitted"])
            if fitted.hash != told["sha256"]:
                raise ValueError("it is not what was saved: its SHA-256 is another")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                str(folder / _FILE),
                found=" ".join(f"{type(error).__name__}: {error}".split())[:300],
                expected="scales and vocabularies as they were fitted",
                remedy="Restore the file, or train a new version.",
            ) from None
        return fitted
