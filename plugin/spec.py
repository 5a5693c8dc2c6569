"""The embedding view's declaration: what one version of one entity's embedding is.

Neither Feast nor torch is imported here: producers, stores and consumers all stand on this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from provender.plugin.errors import SpecError, VersionError

#: The one column (and Feast feature) that holds the vector.
VECTOR_COLUMN = "embedding"
#: The tag of a Feast feature view under which the whole declaration is kept.
SPEC_TAG = "provender.spec"

Dtype = Literal["float32", "float16", "int8"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

#: What a version number stands for: none of these may change under it.
FIXED_BY_VERSION = (
    "entity",
    "join_key",
    "dim",
    "nested_dims",
    "dtype",
    "space",
    "producer",
    "family",
    "anchored_to",
    "facet",
)
#: A relation, and the end of it at which the entity stands where that must be said.
_FACET = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:/(head|tail))?")


class EmbeddingSpec(BaseModel):
    """One version of one embedding of one entity.

    Attributes:
        name: the embedding without its version, for example ``user_transra``.
        version: 1, 2, ...; two versions are never compared or mixed.
        entity: the Feast entity's name; ``join_key`` is its key column.
        dim: floats a vector.
        nested_dims: ascending prefixes of the vector, below ``dim``, that are embeddings
            themselves (Matryoshka; Kusupati et al. 2022).
        dtype: how a value is stored online.
        space: the vector space; dot products are meaningful only within one.
        producer: what computes it.
        family: the views that are released together, such as a user and a pin view whose vectors
            only fit each other; the producer's name by default.
        anchored_to: the older version in whose space this one was trained to stay, so that what
            learned from that one can read this one. Only so may two versions share a space.
        facet: the relation as which the entity is seen, such as ``buy``: what the relation's score
            compares, h M_r + r of its heads and t M_r of its tails in TransR. ``buy/head`` or
            ``buy/tail`` where one entity type is both. None is the raw vector.
        ttl: for how long after its as-of time a vector may be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    version: int = Field(ge=1)
    entity: str = Field(min_length=1)
    join_key: str = Field(min_length=1)
    dim: int = Field(ge=1)
    nested_dims: tuple[int, ...] = ()
    dtype: Dtype = "float32"
    space: str = Field(min_length=1)
    producer: str = Field(min_length=1)
    family: str = Field(min_length=1)
    anchored_to: int | None = Field(None, ge=1)
    facet: str | None = None
    ttl: timedelta

    @model_validator(mode="before")
    @classmethod
    def _family_of_its_producer(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and fields.get("family") is None:
            return {**fields, "family": fields.get("producer")}
        return fields

    @field_validator("name")
    @classmethod
    def _no_version_in_name(cls, name: str) -> str:
        if re.search(r"_v\d+$", name):
            raise ValueError("a name without its version, which is a field of its own")
        return name

    @field_validator("ttl")
    @classmethod
    def _ttl_is_a_time(cls, ttl: timedelta) -> timedelta:
        if ttl <= timedelta(0):
            raise ValueError("a ttl above zero")
        return ttl

    @field_validator("facet")
    @classmethod
    def _facet_of_a_relation(cls, facet: str | None) -> str | None:
        if facet is not None and not _FACET.fullmatch(facet):
            raise ValueError("a relation such as 'buy', or one end of it: 'buy/head', 'buy/tail'")
        return facet

    @model_validator(mode="after")
    def _nested_dims_ascend(self) -> EmbeddingSpec:
        dims = self.nested_dims
        if any(dim < 1 for dim in dims) or list(dims) != sorted(set(dims)):
            raise ValueError(f"nested dims that ascend from 1 or more, not {list(dims)}")
        if dims and dims[-1] >= self.dim:
            raise ValueError(f"nested dims below dim {self.dim}, not {dims[-1]}")
        return self

    @model_validator(mode="after")
    def _anchor_is_older(self) -> EmbeddingSpec:
        if self.anchored_to is not None and self.anchored_to >= self.version:
            raise ValueError(
                f"anchored_to below version {self.version}, not version {self.anchored_to}"
            )
        return self

    @property
    def view_name(self) -> str:
        """The Feast feature view's name: the version shows in what users type."""
        return f"{self.name}_v{self.version}"

    @property
    def relation(self) -> str | None:
        """The relation that the facet is of; None of raw vectors."""
        return self.facet.partition("/")[0] if self.facet else None

    @property
    def end(self) -> str | None:
        """The end of that relation, ``head`` or ``tail``, where the facet says it."""
        return (self.facet or "").partition("/")[2] or None

    @classmethod
    def declare(cls, **fields: Any) -> EmbeddingSpec:
        """Build a spec, with every refusal as a :class:`SpecError` of one line."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise _spec_error(fields, error) from None

    def to_tags(self) -> dict[str, str]:
        """Return the declaration as Feast tags, which the registry keeps word for word.

        The whole is one JSON tag; beside it stands what people look for who browse Feast's UI.
        """
        shown = {
            "version": self.version,
            "dim": self.dim,
            "nested_dims": ", ".join(map(str, self.nested_dims)) or None,
            "dtype": self.dtype,
            "space": self.space,
            "producer": self.producer,
            "family": self.family,
            "anchored_to": self.anchored_to,
            "facet": self.facet,
        }
        told = {f"provender.{name}": str(v) for name, v in shown.items() if v is not None}
        return {SPEC_TAG: self.model_dump_json(), **told}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> EmbeddingSpec:
        """Read back what :meth:`to_tags` wrote; raises SpecError on anything else."""
        if SPEC_TAG not in tags:
            raise SpecError(
                "feature view",
                found=f"no tag {SPEC_TAG}",
                expected="an embedding view",
                remedy="Declare it with provender.plugin.embedding_view.embedding_view().",
            )
        try:
            return cls(**json.loads(tags[SPEC_TAG]))
        except (ValueError, TypeError):
            raise SpecError(
                f"tag {SPEC_TAG}",
                found=repr(tags[SPEC_TAG])[:200],
                expected="a declaration that this version of provender reads",
                remedy="Declare the view again and run `feast apply`.",
            ) from None


def _spec_error(fields: Mapping[str, Any], error: ValidationError) -> SpecError:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "a value")
    # What several fields say together has no place of its own.
    together = "anchored_to" if reason.startswith("anchored_to") else "nested_dims"
    where = ".".join(str(part) for part in first["loc"]) or together
    return SpecError(
        f"embedding view {fields.get('name')}, {where}",
        found=repr(first["input"] if first["loc"] else fields.get(together)),
        expected=reason,
        remedy=f"Correct {where} in the declaration.",
    )


def check_unchanged(old: EmbeddingSpec, new: EmbeddingSpec) -> None:
    """Refuse, with VersionError, a declaration that changes what its version number stands for."""
    changed = [field for field in FIXED_BY_VERSION if getattr(old, field) != getattr(new, field)]
    if (old.family, new.family) == (old.producer, new.producer) and "family" in changed:
        changed.remove("family")  # It only follows the producer, which is named already.
    if not changed:
        return
    described = [
        ", ".join(f"{field} {getattr(spec, field)!r}" for field in changed) for spec in (new, old)
    ]
    raise VersionError(
        f"embedding view {new.view_name}",
        found=described[0],
        expected=f"{described[1]}, as registered",
        remedy=f"Declare it as version {new.version + 1}; both can live side by side.",
    )
