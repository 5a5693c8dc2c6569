"""The reference ranker: a deep-and-cross network with two tasks, and, if wanted, an attention head.

CTR and CVR are learned over the entire space of impressions (Ma et al. 2018, ESMM): the conversion
probability of an impression is p(click) x p(conversion | click), so the second task sees every
impression and not only the clicked ones. The cross layers are DCNv2's (Wang et al. 2021, eq. 1).

Legend of shapes: B rows, X inputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from provender.consumers.attention_head import AttentionHead
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.preprocessing import Preprocessing
from provender.plugin.errors import CheckpointError
from provender.plugin.files import write_whole
from provender.plugin.ranker_stamp import STAMP, RankerStamp

TASKS = ("click", "conversion")


class RankerConfig(BaseModel):
    """The ranker's sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_layers: int = Field(2, ge=1, description="DCNv2 cross layers")
    hidden: int = Field(32, ge=1, description="width of the deep part")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the deep part")
    head_width: int = Field(32, ge=1, description="d of the attention head")
    attention_heads: int = Field(4, ge=1, description="they divide head_width")
    facet_dropout: float = Field(0.1, ge=0, lt=1, description="share of facets hidden in training")
    query: str | None = Field(None, description="view of the candidate; none: no attention head")
    accepts_anchored: bool = Field(
        False, description="may be served a version anchored to the one it learned from"
    )


class Rates(NamedTuple):
    """How often a click happens, and a conversion given a click, in the training rows."""

    click: float
    conversion_given_click: float


class Scores(NamedTuple):
    """Probabilities (B,): of a click, of a conversion given a click, and of both."""

    click: Tensor
    conversion_given_click: Tensor

    @property
    def conversion(self) -> Tensor:
        """p(click and conversion) of an impression."""
        return self.click * self.conversion_given_click


class Ranker(nn.Module):
    """Scores impressions or candidates; one object with its preprocessing and its views.

    Attributes:
        stamp: what it was trained on; None of a ranker that was put together by hand.
    """

    def __init__(
        self, config: RankerConfig, layout: FeatureLayout, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.config, self.layout, self.preprocessing = config, layout, preprocessing
        self.stamp: RankerStamp | None = None
        width = preprocessing.width
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        self.deep = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
        )
        self.tasks = nn.Linear(width + config.hidden, len(TASKS))
        self.head: AttentionHead | None = None
        if config.query is not None:
            self.head = AttentionHead(
                layout.embeddings,
                config.query,
                tasks=len(TASKS),
                width=config.head_width,
                heads=config.attention_heads,
                facet_dropout=config.facet_dropout,
            )

    def start_at(self, rates: Rates) -> None:
        """Begin with the base rates as prediction: the first steps need not find them."""
        with torch.no_grad():
            self.tasks.weight.mul_(0.1)
            self.tasks.bias.copy_(torch.tensor([_logit(rate) for rate in rates]))

    def logits(self, inputs: Tensor, batch: RankerBatch) -> Tensor:
        """Return the logits (B, 2) of click and of conversion given click.

        Args:
            inputs: (B, X), what ``preprocessing`` makes of the batch.
        """
        crossed = inputs
        for layer in self.cross:
            crossed = inputs * layer(crossed) + crossed
        logits: Tensor = self.tasks(torch.cat([crossed, self.deep(inputs)], dim=1))
        if self.head is not None:
            logits = logits + self.head(batch.vectors, batch.present)
        return logits

    def forward(self, batch: RankerBatch) -> Scores:
        """Return the probabilities of every row."""
        click, conversion = self.logits(self.preprocessing(batch), batch).sigmoid().unbind(1)
        return Scores(click, conversion)

    @torch.no_grad()
    def score(self, batch: RankerBatch) -> Scores:
        """Score without training: no dropout, no gradient."""
        was_training = self.training
        self.eval()
        try:
            scores: Scores = self(batch)
            return scores
        finally:
            self.train(was_training)


def entire_space_loss(logits: Tensor, click: Tensor, conversion: Tensor) -> Tensor:
    """Return the mean loss: log loss of click plus log loss of click-and-conversion (ESMM, eq. 3).

    Args:
        logits: (B, 2); click, conversion: (B,) of 0 and 1.

    The product of two sigmoids is kept in logarithms, so that rare events keep their gradient.
    """
    on_click = functional.binary_cross_entropy_with_logits(logits[:, 0], click)
    log_both = functional.logsigmoid(logits).sum(1)
    log_neither = torch.log1p(-log_both.exp().clamp(max=1 - 1e-6))
    both = click * conversion
    return on_click - (both * log_both + (1 - both) * log_neither).mean()


def _logit(rate: float) -> float:
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(rate / (1 - rate))


class _Card(BaseModel):
    """What a checkpoint says of its ranker."""

    model_config = ConfigDict(extra="forbid")

    config: RankerConfig
    layout: FeatureLayout
    preprocessing: Preprocessing


def save_ranker(path: Path, ranker: Ranker) -> None:
    """Write one safetensors file, whole or not at all: weights, views, stamp, and a checksum."""
    card = _Card(config=ranker.config, layout=ranker.layout, preprocessing=ranker.preprocessing)
    weights = {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}
    told = card.model_dump_json()
    stamp = {} if ranker.stamp is None else {STAMP: ranker.stamp.model_dump_json()}
    checksum = _checksum(told + stamp.get(STAMP, ""), weights)
    metadata = {"provender": told, "sha256": checksum, **stamp}
    write_whole(path, save(weights, metadata=metadata))


def _checksum(told: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(told.encode())
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)} {weights[name].dtype}".encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()


def load_ranker(path: Path) -> Ranker:
    """Read a ranker back; raises CheckpointError for a file that is no whole ranker.

    Rankers from before there were stamps have none: what they learned from is their layout.
    """
    try:
        blob = path.read_bytes()
        length = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + length])
        metadata, weights = header["__metadata__"], load(blob)
        told, stamp = metadata["provender"], metadata.get(STAMP)
        if _checksum(told + (stamp or ""), weights) != metadata.get("sha256"):
            raise ValueError("another checksum than was written with it")
        card = _Card.model_validate_json(told)
        ranker = Ranker(card.config, card.layout, card.preprocessing)
        ranker.load_state_dict(weights)
        ranker.stamp = RankerStamp.model_validate_json(stamp) if stamp else None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"ranker {path}",
            found=str(found).splitlines()[0],
            expected="a ranker that provender wrote",
            remedy="Train it again: `provender rank`.",
        ) from None
    ranker.eval()
    return ranker
