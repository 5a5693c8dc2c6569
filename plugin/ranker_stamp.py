"""What a ranker's checkpoint says of itself, readable without torch: views, runs, window.

A checkpoint is one safetensors file: eight bytes with the length of a JSON header, the header, the
tensors. The stamp is an entry of the header's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from provender.plugin.manifest import RunRecord
from provender.plugin.spec import EmbeddingSpec

#: The entry of the metadata.
STAMP = "provender.stamp"
#: No header is longer: a file that says so is none of ours.
_LONGEST_HEADER = 100 * 2**20


class TrainedOn(BaseModel):
    """One embedding view that a ranker learned from, and the runs whose vectors it saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: EmbeddingSpec
    runs: tuple[RunRecord, ...] = ()


class RankerStamp(BaseModel):
    """Where a ranker comes from.

    Attributes:
        run_id: follows from all else that is said here, save when it was trained.
        config_hash: SHA-256 of the model's and the training's configuration.
        service: the feature service.
        window_start, window_end: times of the first and the last impression learned from.
        rows: impressions learned from.
        views: the embeddings, in the service's order.
        dense: the ordinary features, by Feast's full names.
        preprocessing: SHA-256 of what the features' shaping was fitted to.
        accepts_anchored: whether a version that is anchored to one of `views` may be served.
        parent: run id of the ranker that this one was started from; always None today.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    config_hash: str
    code_version: str
    service: str
    window_start: AwareDatetime
    window_end: AwareDatetime
    rows: int
    views: tuple[TrainedOn, ...]
    dense: tuple[str, ...]
    preprocessing: str
    accepts_anchored: bool = False
    parent: str | None = None
    trained_at: AwareDatetime

    def reads(self, view_name: str) -> bool:
        """Whether the ranker was trained on an embedding view."""
        return any(on.spec.view_name == view_name for on in self.views)

    def specs_of(self, family: str) -> list[EmbeddingSpec]:
        """The views of a family that it was trained on."""
        return [on.spec for on in self.views if on.spec.family == family]


def read_stamp(path: Path) -> RankerStamp | None:
    """Return a checkpoint's stamp; None of a file that has none, or is no checkpoint."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _LONGEST_HEADER:
                return None
            header = json.loads(file.read(length))
        return RankerStamp.model_validate_json(header["__metadata__"][STAMP])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def read_stamps(folder: Path) -> dict[Path, RankerStamp]:
    """Return the stamps of a folder's checkpoints, by path."""
    stamps = {path: read_stamp(path) for path in sorted(folder.rglob("*.safetensors"))}
    return {path: stamp for path, stamp in stamps.items() if stamp is not None}
