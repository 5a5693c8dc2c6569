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
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from provender.consumers.attention_head import AttentionHead
from provender.consumers.calibration import Calibrations
from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker_config import TASKS, RankerConfig, TableConfig
from provender.consumers.ranker_loss import entire_space_loss
from provender.consumers.ranker_parts import check_tables, head_of, inputs_of
from provender.consumers.table_tensors import is_key, key_tensors, table_of
from provender.consumers.vector_inputs import VectorInputs
from provender.plugin.errors import CheckpointError, FetchError
from provender.plugin.files import write_whole
from provender.plugin.ranker_stamp import STAMP, RankerStamp

__all__ = [
    "TASKS",
    "Places",
    "Ranker",
    "RankerConfig",
    "Rates",
    "Scores",
    "TableConfig",
    "entire_space_loss",
    "load_ranker",
    "save_ranker",
]


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


class Places(NamedTuple):
    """Where the rows of entities are: table -> int64 (B,), and of the past's items (U,)."""

    rows: Mapping[str, Tensor]
    items: Mapping[str, Tensor]


class Ranker(nn.Module):
    """Scores impressions or candidates; one object with its preprocessing and its views.

    Attributes:
        stamp: what it was trained on; None of a ranker that was put together by hand.
        calibration: task -> what makes its scores probabilities; empty until it was fitted.

    Args:
        tables: those that the configuration names, by name.

    Raises:
        ConfigError: tables that are not those of the configuration, or an attention head without a
            candidate.
    """

    def __init__(
        self,
        config: RankerConfig,
        layout: FeatureLayout,
        preprocessing: Preprocessing,
        tables: Mapping[str, EntityTable] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.layout, self.preprocessing = config, layout, preprocessing
        self.stamp: RankerStamp | None = None
        self.calibration: Calibrations = {}
        self.tables = nn.ModuleDict(dict(tables or {}))
        check_tables(config, tables or {})
        self.head: AttentionHead | None = None
        self.plain: VectorInputs | None = None
        width = preprocessing.width
        if config.reads == "attention":
            self.head = head_of(config, layout)
        elif config.reads == "concat" or config.tables or config.history is not None:
            self.plain = inputs_of(config, layout)
            width += self.plain.width
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        self.deep = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
        )
        self.tasks = nn.Linear(width + config.hidden, len(TASKS))

    def start_at(self, rates: Rates) -> None:
        """Begin with the base rates as prediction: the first steps need not find them."""
        with torch.no_grad():
            self.tasks.weight.mul_(0.1)
            self.tasks.bias.copy_(torch.tensor([_logit(rate) for rate in rates]))

    def fit_inputs(self, rows: RankerBatch) -> None:
        """Take the sizes of vectors from training rows, before the first step."""
        if self.plain is not None:
            self.plain.fit(rows.vectors, rows.present)
        if self.head is not None:
            self.head.fit(rows.vectors, rows.present, rows.history)

    def places(self, batch: RankerBatch) -> Places:
        """Look up the rows of a batch's entities; raises FetchError where it has not their keys."""
        rows, items = {}, {}
        for config in self.config.tables:
            table = self.table(config.name)
            if config.join_key not in batch.keys:
                raise FetchError(
                    "ranker's batch",
                    found=f"keys {', '.join(batch.keys) or '(none)'}",
                    expected=f"{config.join_key}, of which the table {config.name} has rows",
                    remedy="Join or fetch with a layout that has this key.",
                )
            rows[config.name] = table.rows_of(batch.keys[config.join_key])
            if self.head is not None and config.name in self.head.past_tables and batch.history:
                items[config.name] = table.rows_of(batch.history.keys)
        return Places(rows, items)

    def logits(self, inputs: Tensor, batch: RankerBatch, places: Places | None = None) -> Tensor:
        """Return the logits (B, 2) of click and of conversion given click.

        Args:
            inputs: (B, X), what ``preprocessing`` makes of the batch.
            places: of the batch, where they were looked up before.

        Raises:
            FetchError: the ranker looks at the past, and the batch has none.
        """
        if self.config.history is not None and batch.history is None:
            raise FetchError(
                "ranker's batch",
                found="no history",
                expected="the users' last actions, which the ranker learned from",
                remedy="Pass the actions: to the training join, or with the request.",
            )
        found = places or self.places(batch)
        rows = {name: self.table(name)(row) for name, row in found.rows.items()}
        if self.plain is not None:
            plain = self.plain(batch.vectors, batch.present, rows, batch.history)
            inputs = torch.cat([inputs, plain], dim=1)
        crossed = inputs
        for layer in self.cross:
            crossed = inputs * layer(crossed) + crossed
        logits: Tensor = self.tasks(torch.cat([crossed, self.deep(inputs)], dim=1))
        if self.head is not None:
            items = {name: self.table(name)(row) for name, row in found.items.items()}
            logits = logits + self.head(batch.vectors, batch.present, rows, batch.history, items)
        return logits

    def forward(self, batch: RankerBatch) -> Scores:
        """Return the probabilities of every row, before calibration."""
        click, conversion = self.logits(self.preprocessing(batch), batch).sigmoid().unbind(1)
        return Scores(click, conversion)

    def table(self, name: str) -> EntityTable:
        """One of its tables."""
        return cast("EntityTable", self.tables[name])

    def dense_parameters(self) -> list[nn.Parameter]:
        """All that an ordinary optimiser trains: everything but the tables."""
        return [each for name, each in self.named_parameters() if not name.startswith("tables.")]

    def step_tables(self) -> None:
        """Take the step of each table on the rows that the last backward pass went through."""
        for name in self.tables:
            self.table(name).step()

    def kept(self) -> dict[str, Tensor]:
        """A copy of all that was learned so far."""
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Return to what :meth:`kept` gave."""
        self.load_state_dict(dict(kept))

    @torch.no_grad()
    def score(self, batch: RankerBatch, *, calibrated: bool = True) -> Scores:
        """Score without training: no dropout, no gradient; calibrated where that was fitted."""
        was_training = self.training
        self.eval()
        try:
            scores: Scores = self(batch)
        finally:
            self.train(was_training)
        return _calibrated(scores, self.calibration) if calibrated else scores


def _calibrated(scores: Scores, calibration: Calibrations) -> Scores:
    if not calibration:
        return scores
    click, both = scores.click, scores.conversion
    if "click" in calibration:
        click = calibration["click"](click)
    if "conversion" in calibration:
        both = calibration["conversion"](both)
    # No conversion is counted without its click: p(both) is at most p(click).
    given = torch.where(click > 0, both / click.clamp(min=1e-12), 0.0).clamp(max=1.0)
    return Scores(click, given)


def _logit(rate: float) -> float:
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(rate / (1 - rate))


#: What a checkpoint holds: since format 3 vectors are read as heads and inputs read them now.
_FORMAT = 3


class _Card(BaseModel):
    """What a checkpoint says of its ranker."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    config: RankerConfig
    layout: FeatureLayout
    preprocessing: Preprocessing
    calibration: Calibrations = {}
    tables: dict[str, RowTraining] = {}


def save_ranker(path: Path, ranker: Ranker) -> None:
    """Write one safetensors file, whole or not at all: weights, tables, stamp, checksum."""
    card = _Card(
        format=_FORMAT,
        config=ranker.config,
        layout=ranker.layout,
        preprocessing=ranker.preprocessing,
        calibration=ranker.calibration,
        tables={name: ranker.table(name).row_training for name in ranker.tables},
    )
    weights = {name: tensor.contiguous() for name, tensor in ranker.state_dict().items()}
    for name in ranker.tables:
        weights |= key_tensors(f"tables.{name}.", ranker.table(name).keys)
    told = card.model_dump_json()
    stamp = {} if ranker.stamp is None else {STAMP: ranker.stamp.model_dump_json()}
    checksum = _checksum(told + stamp.get(STAMP, ""), weights)
    metadata = {"provender": told, "sha256": checksum, **stamp}
    write_whole(path, save(weights, metadata=metadata))


def _checksum(told: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(told.encode())
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)} {weights[name].dtype}".encode())
        digest.update(weights[name].numpy().reshape(-1).view(np.uint8).data)
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
        if card.format < _FORMAT and card.config.reads != "none":
            raise ValueError("vectors that are read in an older way, which is no more")
        tables = {name: table_of(name, weights, how) for name, how in card.tables.items()}
        ranker = Ranker(card.config, card.layout, card.preprocessing, tables)
        ranker.load_state_dict({n: tensor for n, tensor in weights.items() if not is_key(n)})
        ranker.calibration = card.calibration
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
