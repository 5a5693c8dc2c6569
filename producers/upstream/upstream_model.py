"""The towers: users and pins to vectors, each alone, and both together to a logit a task.

A folder of `model.safetensors` with the dense parameters, `model.json`, which holds its SHA-256,
and `ids-<entity>` with each id table.

Legend of shapes: M rows of a tower, k tokens that it gives, w width, d dims of a vector, B
examples, T tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import sha256_of, whole_folder
from provender.plugin.id_table import IdTable, Rows
from provender.producers.upstream.config import ModelConfig, TowerConfig, UpstreamConfig
from provender.producers.upstream.dhen import Dhen
from provender.producers.upstream.inputs import (
    Batch,
    Inputs,
    Layout,
    SequenceLayout,
    TowerLayout,
)
from provender.producers.upstream.interactions import Dense
from provender.producers.upstream.straight_way import Recent, Straight, looked_up
from provender.producers.upstream.tower_tokens import TowerTokens

_FORMAT = 1
_TENSORS, _ABOUT, _IDS = "model.safetensors", "model.json", "ids-"
#: What inner products are multiplied by at first: a task's logit rises by it from orthogonal to
#: equal vectors, or falls where a positive says that they do not fit.
_SCALE = 4.0
#: What a tower's output is multiplied by at first, beside the straight way.
_QUIET = 0.3

#: entity -> the id rows that are looked up.
IdRows = Mapping[str, Rows]


@dataclass(frozen=True, eq=False)
class Towered:
    """What a tower gives: `tokens` (M, k, w) and `vector` float32 (M, d) of norm 1."""

    tokens: Tensor
    vector: Tensor

    def to(self, device: torch.device) -> Towered:
        """On a device."""
        return Towered(self.tokens.to(device), self.vector.to(device))


class Tower(nn.Module):
    """Tokens through DHEN layers, then flat through a matrix to a vector of norm 1."""

    def __init__(
        self,
        layout: TowerLayout,
        tower: TowerConfig,
        model: ModelConfig,
        own: int | None,
        pins: int | None,
    ) -> None:
        super().__init__()
        self.tokens = TowerTokens(layout, model, own, pins)
        #: Stands in where a tower is given nothing at all.
        none = self.tokens.count == 0
        self.nothing = nn.Parameter(torch.randn(1, model.width)) if none else None
        self.layers = Dhen(tower, model, self.tokens.count or 1)
        self.vector = Dense(tower.tokens * model.width, model.dim, bias=False)
        with torch.no_grad():  # Where rows know something they are to be heard first.
            self.vector.weight.mul_(_QUIET)
        self.recent = Recent(layout.sequence.events) if layout.sequence and pins else None

    def forward(
        self,
        inputs: Inputs,
        own: Rows | None,
        pins: Rows | None,
        ways: tuple[Straight | None, Straight | None],
    ) -> Towered:
        """Inputs of M rows, the id rows that are looked up, and these rows' straight ways."""
        of_own, of_pins = ways
        tokens = self.tokens(inputs, own, pins)  # (M, n, w)
        if self.nothing is not None:
            tokens = self.nothing.expand(len(inputs), -1, -1)
        tokens = self.layers(tokens)  # (M, k, w)
        vector = self.vector(tokens.flatten(1)).float()
        if of_own is not None and own is not None and inputs.ids is not None:
            vector = vector + of_own(looked_up(own, inputs.ids))
        if self.recent is not None and pins is not None and of_pins is not None:
            vector = vector + of_pins(self.recent(inputs.sequence, pins))
        return Towered(tokens, F.normalize(vector, dim=1))


class Towers(nn.Module):
    """All dense parameters.

    A task's logit is that of its head, which sees the interaction tower's tokens, plus a learned
    multiple of the inner product of the two vectors: so the tasks teach the vectors themselves,
    which are all that a downstream ranker sees, and the interaction tower what they cannot say.
    """

    def __init__(self, config: UpstreamConfig, layout: Layout, ids: Mapping[str, int]) -> None:
        super().__init__()
        model = config.model
        pins = ids.get("pin")
        self.user = Tower(layout.user, model.user, model, ids.get("user"), pins)
        self.pin = Tower(layout.pin, model.pin, model, pins, pins)
        of_users = ids.get("user") if layout.user.ids else None
        #: Into the space of the vectors: of users' rows, and of pins', their own and those met.
        self.user_way = Straight(of_users, model.dim) if of_users is not None else None
        self.pin_way = Straight(pins, model.dim) if pins is not None else None
        self.cross = TowerTokens(layout.cross, model, None, None)
        before = model.user.tokens + model.pin.tokens + self.cross.count
        self.interaction = Dhen(model.interaction, model, before)
        tasks = len(layout.tasks)
        self.hidden = Dense(model.interaction.tokens * model.width, tasks * model.hidden)
        self.head = nn.Parameter(torch.randn(tasks, model.hidden) / model.hidden**0.5)
        sign = [1.0 if task in layout.liked else -1.0 for task in layout.tasks]
        self.scale = nn.Parameter(torch.tensor(sign) * _SCALE)
        self.bias = nn.Parameter(torch.zeros(tasks))
        learned = config.training.task_weights == "uncertainty"
        #: Of each task, where their weights are learned (tower_losses.py).
        self.log_variance = nn.Parameter(torch.zeros(tasks)) if learned else None

    def forward(self, users: Tensor, pins: Tensor, cross: Inputs) -> Tensor:
        """The heads' logits (B, T), of tokens (B, k, w) of both towers."""
        tokens = torch.cat([users, pins, self.cross(cross, None, None)], 1)
        flat = self.interaction(tokens).flatten(1)
        hidden: Tensor = self.hidden(flat).relu().view(-1, *self.head.shape)  # (B, T, hidden)
        return (hidden.float() * self.head).sum(2)


@dataclass(frozen=True, eq=False)
class UpstreamModel:
    """The towers and their id tables, `user` and `pin` where declared: changed by training."""

    config: UpstreamConfig
    layout: Layout
    towers: Towers
    tables: Mapping[str, IdTable]

    @classmethod
    def new(
        cls, config: UpstreamConfig, layout: Layout, tables: Mapping[str, IdTable], seed: int
    ) -> UpstreamModel:
        """An untrained one: the same of the same seed, whatever else has been drawn.

        Raises ConfigError for an unknown interaction module, and for a weight of an unknown task.
        """
        _check_tasks(config, layout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = Towers(config, layout, {name: table.dim for name, table in tables.items()})
        return cls(config, layout, towers, dict(tables))

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.towers.scale.device

    @property
    def task_weights(self) -> list[float]:
        """The fixed weights of the tasks' losses, 1 where nothing is said or they are learned."""
        declared = self.config.training.task_weights
        fixed = {} if isinstance(declared, str) else declared
        return [fixed.get(task, 1.0) for task in self.layout.tasks]

    @property
    def liked(self) -> list[int]:
        """Which of the tasks are liked."""
        return [place for place, task in enumerate(self.layout.tasks) if task in self.layout.liked]

    def to(self, device: torch.device) -> UpstreamModel:
        """Itself, moved; the tables are copies where they move."""
        tables = {name: table.to(device) for name, table in self.tables.items()}
        return replace(self, towers=self.towers.to(device), tables=tables)

    def leaves(self, batch: Batch) -> dict[str, Rows]:
        """The id rows that a batch looks up, as leaves: what `IdTable.update` is for."""
        ids: dict[str, list[Tensor]] = {"user": [], "pin": []}
        if batch.users.ids is not None:
            ids["user"].append(batch.users.ids)
        if batch.pins.ids is not None:
            ids["pin"].append(batch.pins.ids)
        if batch.users.sequence is not None:
            ids["pin"].append(batch.users.sequence.pin)
        return {name: table.leaf(*ids[name]) for name, table in self.tables.items() if ids[name]}

    def users(self, inputs: Inputs, leaf: IdRows | None = None) -> Towered:
        """The user tower, of M rows; without `leaf` id rows are the tables', as they are."""
        rows = self._rows() if leaf is None else leaf
        with self._products():
            found: Towered = self.towers.user(
                inputs,
                rows.get("user"),
                rows.get("pin"),
                (self.towers.user_way, self.towers.pin_way),
            )
        return found

    def pins(self, inputs: Inputs, leaf: IdRows | None = None) -> Towered:
        """The pin tower, likewise."""
        rows = self._rows() if leaf is None else leaf
        with self._products():
            found: Towered = self.towers.pin(
                inputs, rows.get("pin"), None, (self.towers.pin_way, None)
            )
        return found

    def scores(
        self, users: Towered, pins: Towered, cross: Inputs, user: Tensor, pin: Tensor
    ) -> Tensor:
        """Logits float32 (B, T) of examples: `user` and `pin`, int64 (B,), are rows of the two."""
        with self._products():
            logits = self.towers(
                users.tokens.index_select(0, user), pins.tokens.index_select(0, pin), cross
            )
        product = users.vector.index_select(0, user) * pins.vector.index_select(0, pin)
        found: Tensor = logits + product.sum(1, keepdim=True) * self.towers.scale
        return found + self.towers.bias

    def save(self, folder: Path) -> None:
        """Write it whole or not at all; raises FileExistsError where something stands already."""
        tensors = {name: value.contiguous() for name, value in self.towers.state_dict().items()}
        with whole_folder(folder.parent, folder) as staged:
            save_file(tensors, staged / _TENSORS)
            for name, table in self.tables.items():
                table.save(staged / f"{_IDS}{name}")
            about = {
                "format": _FORMAT,
                "sha256": sha256_of(staged / _TENSORS),
                "config": self.config.model_dump(mode="json"),
                "layout": asdict(self.layout),
                "tables": sorted(self.tables),
            }
            (staged / _ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> UpstreamModel:
        """Read a saved one onto the CPU; raises CheckpointError if it is not whole."""
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_bytes())
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            if sha256_of(folder / _TENSORS) != about["sha256"]:
                raise ValueError("the tensors' SHA-256 is another")
            config = UpstreamConfig.parse(about["config"], where=str(folder / _ABOUT))
            tables = {name: IdTable.load(folder / f"{_IDS}{name}") for name in about["tables"]}
            model = cls.new(config, _layout(about["layout"]), tables, seed=0)
            model.towers.load_state_dict(load_file(folder / _TENSORS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                str(folder),
                found=f"{type(error).__name__}: {error}",
                expected="whole upstream towers",
                remedy="Train them anew.",
            ) from None
        model.towers.eval()
        return model

    def _rows(self) -> dict[str, Rows]:
        return {name: Rows(table.values) for name, table in self.tables.items()}

    def _products(self) -> AbstractContextManager[object]:
        """Matrix products in bfloat16 where the configuration says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.model.bf16)


def _check_tasks(config: UpstreamConfig, layout: Layout) -> None:
    declared = config.training.task_weights
    unknown = set() if isinstance(declared, str) else set(declared) - set(layout.tasks)
    if unknown:
        raise ConfigError(
            "training.task_weights",
            found=", ".join(sorted(unknown)),
            expected=f"tasks, {', '.join(layout.tasks)}",
            remedy="Name them as the sources' labels are named.",
        )


def _layout(told: Mapping[str, Any]) -> Layout:
    """What `asdict` has made of a layout; raises KeyError or TypeError."""
    towers = {}
    for name in ("user", "pin", "cross"):
        tower = dict(told[name])
        given = tower.pop("sequence")
        towers[name] = TowerLayout(**tower, sequence=SequenceLayout(**given) if given else None)
    return Layout(**towers, tasks=tuple(told["tasks"]), liked=tuple(told["liked"]))
