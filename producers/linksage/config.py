"""The configuration of LinkSage: every field with its check and its help, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from provender.plugin.errors import ConfigError

NodeType = Literal["page", "pin", "board", "link"]
#: What has no bearing on the result; of the walkers, torch's two names.
NOT_SHAPING = {"training": {"checkpoint_minutes"}, "walks": {"walker"}}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GraphConfig(_Section):
    """Which pairs, pins and edges are kept, and which further nodes there are."""

    min_cohesion: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Pairs whose cohesion is below are dropped; null keeps all.",
    )
    near_duplicates: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Pins whose image vectors (texts', without images) have at least this cosine "
        "are one node; null clusters none.",
    )
    link_clusters: tuple[Literal["domain", "url"], ...] = Field(
        ("domain",),
        description="Pages of one domain, or of one canonical URL, share a further node.",
    )
    min_degree: dict[NodeType, int] = Field(
        default_factory=dict,
        description="By node type: with fewer edges a node loses them; pages stay to be embedded.",
    )
    max_degree: dict[NodeType, int] = Field(
        default={"page": 500, "pin": 500, "board": 500, "link": 500},
        description="By node type: at most so many edges to each other type, the heaviest; of "
        "equal ones those that a hash of both ends picks.",
    )


class WalkConfig(_Section):
    """Random walks from pages, which find their neighbours."""

    walks: int = Field(100, ge=1, description="Walks from each page.")
    metapaths: tuple[tuple[NodeType, ...], ...] = Field(
        (),
        description="The types that a walk goes through, from `page` to `page`, walked over and "
        "over, each by an equal share of the walks; none means any edge of the graph.",
    )
    length: int = Field(6, ge=1, description="Steps of a walk, at most.")
    restart: dict[NodeType, float] = Field(
        default={"page": 0.2},
        description="By node type: how likely a walk that comes there begins again at its start.",
    )
    neighbours: int = Field(50, ge=0, description="The most visited that are kept.")
    neighbour_types: tuple[Literal["page", "pin"], ...] = Field(
        ("pin", "page"), min_length=1, description="Which nodes count as neighbours."
    )
    folds: int = Field(
        5,
        ge=1,
        description="Training sees of a page the neighbours that it has without the pairs of one "
        "of so many folds, in which is the pair that is learned; 1 leaves all pairs there.",
    )
    walker: Literal["auto", "torch", "dgl"] = Field(
        "auto",
        description="torch walks on CPU and GPU and repeats for any sharding; dgl repeats for the "
        "same blocks of starts and threads; auto is torch.",
    )


class FeatureConfig(_Section):
    """How texts and images become vectors, where none are given."""

    text_encoder: str = Field(
        "provender.producers.linksage.hashed_text:HashedText",
        description="`module:class` of what encodes texts (encoders.py).",
    )
    text_settings: dict[str, Any] = Field(
        default_factory=dict, description="What its class is called with."
    )
    image_encoder: str = Field(
        "provender.producers.linksage.image_statistics:ImageStatistics",
        description="`module:class` of what encodes image files.",
    )
    image_settings: dict[str, Any] = Field(
        default_factory=dict, description="What its class is called with."
    )


class ModelConfig(_Section):
    """The page encoder."""

    dim: int = Field(
        256,
        ge=1,
        description="The length of page vectors; `evaluate` follows that of given targets where "
        "nothing is said.",
    )
    nested_dims: tuple[int, ...] = Field(
        (16, 32, 64, 128),
        description="Prefixes that are trained as embeddings themselves; where nothing is said, "
        "those of the default that are below dim.",
    )
    nested_weights: tuple[float, ...] | None = Field(
        None, description="Of the losses of nested_dims and dim; null weighs all alike."
    )
    width: int = Field(256, ge=8, description="The width of the Transformer.")
    layers: int = Field(2, ge=1, description="Its layers.")
    heads: int = Field(4, ge=1, description="Attention heads; they divide the width.")
    feedforward: int = Field(1024, ge=8, description="Width of the layers between attentions.")
    dropout: float = Field(0.1, ge=0, lt=1, description="In training.")
    neighbours: int = Field(
        50, ge=0, description="So many of the walks' neighbours become tokens, the first ones."
    )
    merge_neighbours: bool = Field(
        True,
        description="One token a neighbour, of its text and images together; two tokens without.",
    )
    images: Literal["mean", "tokens"] = Field(
        "mean", description="A page's images as one mean weighted by size, or a token each."
    )
    most_images: int = Field(8, ge=1, description="Tokens of a page's images, the largest first.")
    bf16: bool = Field(False, description="Matrix products in bfloat16.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "nested_dims" not in self.model_fields_set:
            below = tuple(dim for dim in self.nested_dims if dim < self.dim)
            self.__dict__["nested_dims"] = below  # a frozen model has no other way
        dims = (*self.nested_dims, self.dim)
        if any(small >= large for small, large in pairwise(dims)):
            raise ValueError("nested_dims ascending and below dim")
        if any(dim < 1 for dim in dims):
            raise ValueError("nested_dims of at least 1")
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


class TrainingConfig(_Section):
    """How it is trained."""

    targets: Literal["given", "joint"] | None = Field(
        None,
        description="Pins' given vectors, or a pin tower trained along; null takes given ones "
        "where the pins declare a `target`.",
    )
    epochs: int = Field(10, ge=1, description="Passes over the positives.")
    batch_size: int = Field(256, ge=2, description="Positives a step.")
    negatives: int = Field(
        1024, ge=0, description="Pins a step, drawn from all of them, beside those of the batch."
    )
    temperature: float = Field(0.07, gt=0, description="Cosines are divided by it.")
    log_q: bool = Field(
        True, description="Correct for how often a pin is drawn as another's negative."
    )
    learning_rate: float = Field(5e-4, gt=0, description="Of AdamW, at its height.")
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the rate rises; then it falls."
    )
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW, on matrices.")
    clip: float = Field(1.0, gt=0, description="The gradient's norm, at most.")
    neighbour_dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="How likely a positive's page is shown without neighbours, so that pages "
        "which have none fare well.",
    )
    seed: int = Field(0, ge=0, description="Of all that is drawn.")
    checkpoint_minutes: float = Field(5.0, gt=0, description="Time from one to the next.")


class IncrementalConfig(_Section):
    """Which pages a refresh embeds anew."""

    neighbourhood_change: float = Field(
        0.3,
        ge=0,
        le=1,
        description="A page whose neighbours' visits have changed by at most this share keeps its "
        "vector (half the sum of differences of the shares).",
    )
    full_after_days: float | None = Field(
        None, gt=0, description="Train anew when the model is so old; null means never."
    )


class LinkSageConfig(_Section):
    """All of it."""

    graph: GraphConfig = GraphConfig()
    walks: WalkConfig = WalkConfig()
    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    incremental: IncrementalConfig = IncrementalConfig()

    @classmethod
    def parse(cls, content: Mapping[str, Any], where: str = "linksage") -> LinkSageConfig:
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
                remedy="`provender linksage settings` lists all keys with their meaning.",
            ) from None

    def following(self, targets: int | None, where: str = "linksage") -> LinkSageConfig:
        """Itself with `model.dim` as long as given vectors of pins, if nothing is said of it.

        Args:
            targets: how long they are; None without any.
            where: what messages call the configuration.

        Raises ConfigError where nested_dims, or their weights, do not fit this length.
        """
        if targets is None or self.training.targets == "joint":
            return self
        if "dim" in self.model.model_fields_set:
            return self
        model = {**self.model.model_dump(exclude_unset=True), "dim": targets}
        return self.model_copy(update={"model": self.parse({"model": model}, where).model})

    @property
    def hash(self) -> str:
        """SHA-256 of all that shapes the vectors."""
        shape = self.model_dump(mode="json", exclude=NOT_SHAPING)
        if self.walks.walker == "dgl":  # It draws otherwise: other neighbours are found.
            shape["walks"]["walker"] = "dgl"
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
