"""A snapshot's manifest: what it holds, from which run, and the checksums to prove it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from provender.plugin.errors import SnapshotError
from provender.plugin.spec import Dtype

#: The underscore hides it from Spark, DuckDB globs over *.parquet and pyarrow data sets alike.
MANIFEST_NAME = "_manifest.json"


class VectorPage(BaseModel):
    """Where the vectors of one row group lie in their file, as raw little-endian float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int = Field(ge=0)
    rows: int = Field(ge=1)


class SnapshotFile(BaseModel):
    """One Parquet file of a snapshot; without pages, its vectors are found by decoding it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    pages: tuple[VectorPage, ...] = ()


class RunRecord(BaseModel):
    """Where vectors come from: what a manifest says of its run, kept wherever they are used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    producer: str
    config_hash: str
    code_version: str
    as_of: AwareDatetime
    window_start: AwareDatetime
    window_end: AwareDatetime
    parent: str | None
    checksum: str
    supplement_of: str | None = None


class Manifest(BaseModel):
    """What one refresh of one view is. Times are UTC.

    Attributes:
        run_id: the producer's run; snapshots of one run (user and pin) belong together.
        config_hash: SHA-256 of the producer's whole configuration.
        family: the views that are released together; None in manifests that are older than it.
        facet: the relation as which the entity is seen; None of raw vectors.
        window_start: time of the oldest event used; window_end: the as-of cut (exclusive).
        checksum: SHA-256 over keys and vectors, whatever file layout they lie in.
        metrics: the producer's own evaluation, which a release gate reads.
        parent: run id of the refresh that this one was warm-started from.
        supplement_of: run id of the refresh that lacks these rows, of entities that came after it;
            None of a refresh itself. Who looks for a refresh must not take it for one.
        notes: what is to be remembered of it, such as why it was written in spite of its drift.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    run_id: str
    producer: str
    config_hash: str
    code_version: str
    view: str
    version: int
    entity: str
    join_key: str
    dim: int
    dtype: Dtype
    space: str
    family: str | None = None
    facet: str | None = None
    as_of: AwareDatetime
    window_start: AwareDatetime
    window_end: AwareDatetime
    rows: int
    files: tuple[SnapshotFile, ...]
    checksum: str
    metrics: dict[str, float | None] = {}
    parent: str | None = None
    supplement_of: str | None = None
    notes: dict[str, str] = {}
    created_at: AwareDatetime

    @property
    def record(self) -> RunRecord:
        """What online tables and rankers keep of it."""
        return RunRecord(**{name: getattr(self, name) for name in RunRecord.model_fields})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in ``folder``; raises SnapshotError if it is missing or no manifest."""
        path = folder / MANIFEST_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            found = f"it can't be read ({error.strerror})"
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise SnapshotError(
            f"manifest {path}",
            found=found,
            expected="the manifest that the snapshot was written with",
            remedy="Remove the snapshot's folder and run the producer again for its as-of date.",
        )


@dataclass(frozen=True)
class RunInfo:
    """What a producer's run says of itself in every snapshot it writes."""

    run_id: str
    producer: str
    config_hash: str
    window_start: datetime
    window_end: datetime
    metrics: dict[str, float | None] = field(default_factory=dict)
    parent: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    supplement_of: str | None = None


def code_version() -> str:
    """Return the installed version of provender, or ``unknown`` outside an installation."""
    try:
        return version("provender")
    except PackageNotFoundError:
        return "unknown"
