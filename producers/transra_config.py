"""The configuration of TransRA: every field with its check and its help, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from provender.plugin.errors import ConfigError

#: What has no bearing on the result.
NOT_SHAPING = {"checkpoint_minutes"}


class EarlyStopping(BaseModel):
    """How a refresh finds its number of epochs (producers/rehearsal.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hold_out_days: float = Field(
        1.0, gt=0, description="The last days before the as-of time, which judge the rehearsal."
    )
    every: int = Field(1, ge=1, description="Judge after so many epochs, and after the last.")
    patience: int = Field(
        2, ge=1, description="Stop after so many judgements in a row that are no better."
    )


class HardNegatives(BaseModel):
    """Further negatives for the tails of one relation: `from` or `shared` (hard_negatives.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    shown: str | None = Field(
        None,
        alias="from",
        description="Tails that the head has under this relation, such as impressions, and not "
        "under the one that is learned.",
    )
    shared: str | None = Field(
        None,
        description="Tails that share the true tail's neighbour under this relation, such as pins "
        "of one advertiser, and are not the head's under the one that is learned.",
    )
    count: int = Field(4, ge=1, description="So many a triple, or as many as there are.")

    @model_validator(mode="after")
    def _one_kind(self) -> HardNegatives:
        if (self.shown is None) == (self.shared is None):
            raise ValueError("one of `from` and `shared`")
        return self


class TransRAConfig(BaseModel):
    """How the graph is built and how TransRA is trained on it.

    The two anchors are ours (DESIGN.md): `anchor_relation` has the identity as its projection, and
    `anchor_entities` says how rows known to the last refresh are held to their vectors. With both
    off the model is plain TransR (Lin et al. 2015) with square projections that start at the
    identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # The graph.
    relations: dict[str, float] | None = Field(
        None,
        description="The relations to learn from and the weight of each in the loss; null means "
        "all of the world's events, each with weight 1.",
    )
    half_life_days: float | None = Field(
        14.0, gt=0, description="An event's weight halves in so many days; null means never."
    )
    degree_cap: int | None = Field(
        200,
        ge=1,
        description="At most so many heaviest edges per entity and relation; null means no cap.",
    )

    # The model.
    model: Literal["transra", "transr", "transe", "rotate", "distmult", "complex"] = Field(
        "transra",
        description="The score function: distances of moved heads to tails (transe, transr, "
        "transra, rotate) or dot products (distmult, complex). transra is transr with anchors.",
    )
    dim: int = Field(64, ge=1, description="The length of entity and relation vectors.")
    anchor_relation: str | None = Field(
        "click",
        description="The relation whose projection is the identity, so that raw vectors can be "
        "compared; null switches this anchor off.",
    )
    anchor_entities: Literal["tether", "frozen", "off"] = Field(
        "tether",
        description="What becomes of rows that the last refresh knows: held by a spring, held "
        "fast, or only started from their old vectors.",
    )
    tether: float = Field(
        1.0, ge=0, description="The spring's weight: tether * |x - x_old|^2 a row and chunk."
    )
    principal_axes: bool = Field(
        True,
        description="Turn the space of a first refresh so that its widest directions come first; "
        "no score changes, and prefixes of the vectors become embeddings themselves.",
    )

    keep_vanished_days: float | None = Field(
        30.0,
        ge=0,
        description="Remember entities for so many days after the events have lost them, so that "
        "who returns starts where it was; null means for ever. They are in no snapshot.",
    )

    # The loss.
    loss: Literal["softmax", "self_adversarial", "margin"] = Field(
        "softmax", description="Sampled softmax, RotatE's self-adversarial loss, or a hinge."
    )
    score_scale: float = Field(
        8.0, gt=0, description="Scores are multiplied by it before the loss (1 / temperature)."
    )
    margin: float = Field(
        4.0, ge=0, description="The margin of `margin` and `self_adversarial`, in scaled scores."
    )
    adversarial_temperature: float = Field(
        1.0, ge=0, description="How sharply `self_adversarial` prefers hard negatives."
    )
    negatives: int = Field(
        128,
        ge=1,
        description="Negatives per side that the triples of a chunk share; a thousand rather than "
        "a hundred where entities are many and events few.",
    )
    degree_power: float = Field(
        0.75, ge=0, le=1, description="Negatives are drawn by degree to this power ..."
    )
    uniform_share: float = Field(
        0.25, gt=0, le=1, description="... mixed with so much of the uniform distribution."
    )

    end_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="So much of the negatives is drawn among the heads or tails that the chunk's "
        "relation has, corrected for like all draws: worth it where one type has many relations.",
    )

    filter_negatives: bool = Field(
        False,
        description="Negatives that the graph knows to be true for a triple do not count. Worth it "
        "where a head has a good part of all tails; it costs time by the entities' degrees.",
    )
    hard_negatives: dict[str, HardNegatives] = Field(
        default_factory=dict,
        description="By relation, negatives of each triple's own beside the shared ones: `from` "
        "another relation of its head, or `shared` with its tail. A relation that is named here "
        "and not in `relations` is read and not learned from.",
    )

    # What keeps it from learning the sample by heart.
    shrinkage: float = Field(
        1.5,
        ge=0,
        description="Pulls entities to the origin: shrinkage * |x|^2 a row and chunk. What little "
        "is known of then ranks by popularity. Less of it where each event tells much.",
    )
    deviation_shrinkage: float = Field(
        0.3,
        ge=0,
        description="Pulls projections to the identity: shrinkage * |deviation|^2 a triple.",
    )

    # The optimisation.
    epochs: int = Field(5, ge=1, description="Passes over the edges of a first refresh.")
    refresh_epochs: int = Field(
        3, ge=1, description="Passes over the edges where a parent's vectors are the start."
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="Find the number of epochs, at most those above, by rehearsing the refresh as "
        "of some days earlier: it takes about twice the time. null trains all of them.",
    )
    chunk_size: int = Field(512, ge=1, description="Triples of one relation trained at once.")
    learning_rate: float = Field(0.1, gt=0, description="Of row-wise Adagrad on the entities.")
    refresh_learning_rate: float = Field(
        0.03, gt=0, description="The same where a parent's vectors are the start."
    )
    state_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The share of the last refresh's Adagrad sums that a refresh begins with, so "
        "that rows that are well known move by small steps; Adam's moments come along as they are. "
        "0 begins afresh.",
    )
    relation_learning_rate: float = Field(
        0.002, gt=0, description="Of Adam on relation vectors and projections."
    )
    init_norm: float = Field(
        0.5, gt=0, description="The expected length of an entity's random first vector."
    )
    seed: int = Field(0, ge=0, description="Of every draw.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the matrix products; tables and sums stay float32. bfloat16 is faster "
        "where the machine multiplies it in hardware.",
    )
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="A checkpoint each so many minutes, and one at the end."
    )
    cpu_threads: int = Field(
        1,
        ge=1,
        description="Threads that train at once on the CPU, without locks. Only runs with one "
        "repeat to the bit.",
    )
    partitions: int = Field(
        1,
        ge=1,
        description="Deal the entities out over so many files and train pairs of them, where the "
        "table is larger than memory; 1 keeps it there. Of `produce` and `refresh`.",
    )
    partitions_held: int = Field(
        3,
        ge=2,
        description="So many partitions are in memory at once, and one more that is read ahead; "
        "of the parent's vectors, where there is one, as many again.",
    )

    @field_validator("relations")
    @classmethod
    def _positive(cls, relations: dict[str, float] | None) -> dict[str, float] | None:
        if relations is not None and not (relations and all(w > 0 for w in relations.values())):
            raise ValueError("needs at least one relation, and weights above zero")
        return relations

    def relation_weight(self, relation: str) -> float:
        """The weight of a relation in the loss; 0 where it is not learned from."""
        return 1.0 if self.relations is None else self.relations.get(relation, 0.0)

    @property
    def aside(self) -> set[str]:
        """The relations that hard negatives are made of."""
        declared = self.hard_negatives.items()
        sources = {one.shown or one.shared or "" for _, one in declared}
        return {relation for relation, _ in declared} | sources

    @property
    def hash(self) -> str:
        """A SHA-256 of all that shapes the vectors, the same wherever it is computed."""
        text = json.dumps(self.model_dump(mode="json", exclude=NOT_SHAPING), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "transra") -> TransRAConfig:
        """Check the values of a world's `transra` section; raises ConfigError."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{where}: {field}",
                found=repr(first["input"]),
                expected=first["msg"],
                remedy=f"The fields are {', '.join(cls.model_fields)}.",
            ) from None
