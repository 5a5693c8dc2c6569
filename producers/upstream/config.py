"""The configuration of upstream towers: each field with its check and help, no unknown keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from provender.plugin.errors import ConfigError

#: What has no bearing on the result.
NOT_SHAPING = {"training": {"checkpoint_minutes"}}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TowerConfig(_Section):
    """A stack of DHEN layers (Zhang et al. 2022, "DHEN", section 3)."""

    layers: int = Field(2, ge=1, description="DHEN layers.")
    modules: tuple[str, ...] = Field(
        ("cross", "self_attention"),
        min_length=1,
        description="Interaction modules of each layer, by name: masknet, self_attention, cross, "
        "mlp, linear, pairwise_dot, or one that was registered.",
    )
    ensemble: Literal["sum", "concat"] = Field(
        "sum",
        description="How the modules' outputs become one: added up, or side by side "
        "through a matrix.",
    )
    tokens: int = Field(4, ge=1, description="Tokens that a layer gives.")


class ModelConfig(_Section):
    """The three towers."""

    dim: int = Field(64, ge=1, description="The length of the embeddings.")
    nested_dims: tuple[int, ...] = Field((), description="Prefixes that are embeddings themselves.")
    nested_weights: tuple[float, ...] | None = Field(
        None, description="Of the losses of nested_dims and dim; null weighs all alike."
    )
    width: int = Field(32, ge=8, description="The length of a token.")
    heads: int = Field(4, ge=1, description="Attention heads; they divide the width.")
    hidden: int = Field(64, ge=8, description="Width of the hidden layers of modules and heads.")
    rank: int = Field(16, ge=1, description="Of the factors of a `cross`'s matrix.")
    sequence_tokens: int = Field(2, ge=1, description="Tokens that a sequence becomes.")
    user: TowerConfig = TowerConfig()
    pin: TowerConfig = TowerConfig()
    interaction: TowerConfig = TowerConfig(modules=("cross", "masknet"))
    dropout: float = Field(0.0, ge=0, lt=1, description="In training, behind each layer.")
    bf16: bool = Field(False, description="Matrix products in bfloat16.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dims = (*self.nested_dims, self.dim)
        if any(small >= large for small, large in pairwise(dims)) or any(dim < 1 for dim in dims):
            raise ValueError("nested_dims of at least 1, ascending and below dim")
        if self.nested_weights is not None and (
            len(self.nested_weights) != len(dims)
            or any(weight < 0 for weight in self.nested_weights)
            or not self.nested_weights[-1]
        ):
            raise ValueError(
                "a weight for each of nested_dims and dim, none negative, the last above 0"
            )
        if self.width % self.heads:
            raise ValueError("heads that divide the width")
        return self


class ContrastiveConfig(_Section):
    """The self-supervised task between the towers: a user's pin among those of the batch."""

    weight: float = Field(1.0, ge=0, description="Of its loss beside the tasks'; 0 leaves it out.")
    temperature: float = Field(0.07, gt=0, description="Inner products are divided by it.")
    log_q: bool = Field(
        True, description="Correct for how often a pin is in a batch (Yi et al. 2019, section 4)."
    )
    hardness: float = Field(
        0.0,
        ge=0,
        description="How much more a negative counts the nearer it is: weights of exp(hardness x "
        "inner product) (Robinson et al. 2021, equation 4); 0 counts all alike.",
    )


class TrainingConfig(_Section):
    """How they are trained."""

    epochs: int = Field(1, ge=1, description="Passes over all examples at the first refresh.")
    history_days: float | None = Field(
        None, gt=0, description="The first refresh learns from so many days; null from all."
    )
    batch_size: int = Field(1024, ge=2, description="Examples a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Of AdamW, at its height.")
    refresh_learning_rate: float = Field(
        5e-4, gt=0, description="In the refreshes that follow, from first to last step."
    )
    id_learning_rate: float = Field(0.05, gt=0, description="Of row-wise Adagrad, on id tables.")
    warmup: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the first training's steps in which the rate rises; then it falls.",
    )
    weight_decay: float = Field(1e-4, ge=0, description="Of AdamW, on matrices.")
    clip: float = Field(1.0, gt=0, description="The gradient's norm, at most.")
    id_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="How likely a row of an id table is hidden, so that new keys fare well.",
    )
    context_dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="How likely a row's context is hidden, so that the towers can do without: it "
        "says where a pin was shown, and nothing of user and pin.",
    )
    task_weights: dict[str, float] | Literal["uncertainty"] = Field(
        "uncertainty",
        description="By task, 1 where nothing is said; or learned "
        "(Kendall et al. 2018, section 3).",
    )
    stay: float = Field(
        0.3,
        ge=0,
        description="In refreshes: weight of how far vectors leave those of the last refresh's "
        "towers for the same inputs (1 - cosine), so that a version stays in one space.",
    )
    contrastive: ContrastiveConfig = ContrastiveConfig()
    seed: int = Field(0, ge=0, description="Of all that is drawn.")
    checkpoint_minutes: float = Field(5.0, gt=0, description="Time from one to the next.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.task_weights, dict) and any(w < 0 for w in self.task_weights.values()):
            raise ValueError("task_weights of at least 0")
        return self


class EmbeddingConfig(_Section):
    """Who gets a vector at a refresh, and which."""

    active_days: float = Field(
        30.0, gt=0, description="Users with an event in so many days; others keep their last one."
    )
    live_days: float | None = Field(
        None,
        gt=0,
        description="Without a table of pins: those with an event in so many days; null means all.",
    )
    aggregate: Literal["latest", "decayed_mean"] = Field(
        "latest",
        description="A user's vector is that of this refresh, or the mean of all of theirs, each "
        "weighing half as much after half_life_days.",
    )
    half_life_days: float = Field(7.0, gt=0, description="Of decayed_mean.")


class UpstreamConfig(_Section):
    """All of it."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str = "upstream") -> UpstreamConfig:
        """The checked configuration; raises ConfigError with the first key that does not fit."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            unknown = first["type"] == "extra_forbidden"
            raise ConfigError(
                f"section {where}, {key}" if key else f"section {where}",
                found="an unknown key" if unknown else repr(first["input"]),
                expected="only known keys"
                if unknown
                else first["msg"].removeprefix("Value error, "),
                remedy="`provender upstream settings` lists all keys with their meaning.",
            ) from None

    @property
    def hash(self) -> str:
        """SHA-256 of all that shapes the vectors."""
        shape = self.model_dump(mode="json", exclude=NOT_SHAPING)
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
