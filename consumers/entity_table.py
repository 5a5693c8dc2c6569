"""A learned row an entity, trained with the ranker: a step costs what its rows cost, not the table.

    table = EntityTable.from_view(store, "pin_transra_v1", as_of=start, keys=pins)
    rows = table(table.rows_of(batch.keys["pin_id"]))  # (B, d), with a gradient in training
    loss.backward()
    table.step()

Legend of shapes: N exact rows, H hashed ones behind them, d the length of a row, U rows that a step
goes through, each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from feast import FeatureStore
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from provender.consumers.new_rows import KeyVectors, Neighbours, begun
from provender.consumers.row_gradients import RowGradients, gathered, summed
from provender.plugin.errors import ConfigError
from provender.plugin.history import MISSING
from provender.plugin.id_table import KeyedVectors, hashes_of, small_rows
from provender.plugin.instants import instant
from provender.plugin.key_index import normalized
from provender.plugin.row_adagrad import adagrad_rows
from provender.plugin.view_lookup import open_lookup

#: Keys without an exact row share so many.
BUCKETS = 1024
#: The root mean square of rows that begin as vectors. As large as other inputs, 64 numbers that are
#: an entity's own are soon learned by heart.
SIZE = 0.1
#: How vectors become rows: together to a mean square of 1, or as they are.


class RowTraining(BaseModel):
    """How rows of a table learn: at their own rate, and not from the first step on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(0.02, gt=0, description="of row-wise Adagrad")
    freeze_steps: int = Field(0, ge=0, description="steps in which rows stay as they are")
    warmup_steps: int = Field(0, ge=0, description="steps after these in which the rate grows")

    def rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        since = step - self.freeze_steps
        if since < 0:
            return 0.0
        return self.rate * min(1.0, (since + 1) / (self.warmup_steps + 1))


@dataclass(frozen=True, eq=False)
class _Leaf:
    """Rows (U,) that a forward pass has gone through, and their values, which get the gradient."""

    numbers: Tensor
    values: Tensor


class EntityTable(nn.Module):
    """Rows by key; unknown keys share hashed rows. No dense optimiser ever sees it.

    Args:
        keys: (N,) int64 or string, each once.
        values: float32 (N + H, d), the hashed rows last.
        training: how rows learn.

    Attributes:
        keys: ascending.
        values: float32 (N + H, d), in the order of the keys.
        squares: float32 (N + H,), the sums of Adagrad.
        steps: int64 (), steps taken so far.
        scale: float64 (), what the vectors that rows began as were multiplied by.

    The state dict holds all but the keys. Under DistributedDataParallel set
    `broadcast_buffers=False`, else every step sends the whole table, and give `step` the group.

    Raises:
        ConfigError: a key that is null or stands twice, or fewer values than keys.
    """

    values: Tensor
    squares: Tensor
    steps: Tensor
    scale: Tensor

    def __init__(self, keys: pa.Array, values: Tensor, training: RowTraining | None = None) -> None:
        super().__init__()
        given = normalized(keys)
        _check(given, values)
        order = pc.sort_indices(given)
        places = torch.from_numpy(order.to_numpy().astype(np.int64))
        self.keys = given.take(order)
        self.row_training = training or RowTraining()
        self._hold(values, places)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self._leaves: list[_Leaf] = []

    @classmethod
    def from_nothing(
        cls,
        keys: pa.Array,
        dim: int,
        *,
        seed: int,
        buckets: int = BUCKETS,
        training: RowTraining | None = None,
    ) -> Self:
        """One whose rows are small numbers, by seed and key alone."""
        known = normalized(keys)
        shared = pa.array(np.arange(buckets, dtype=np.int64))
        values = torch.cat(
            [small_rows(hashes_of(known), dim, seed), small_rows(hashes_of(shared), dim, ~seed)]
        )
        return cls(known, values, training)

    @classmethod
    def of_zeros(
        cls,
        keys: pa.Array,
        dim: int,
        *,
        buckets: int = BUCKETS,
        training: RowTraining | None = None,
    ) -> Self:
        """One that corrects the vectors of a view (TableConfig.corrects): nothing at first."""
        known = normalized(keys)
        return cls(known, torch.zeros(len(known) + buckets, dim), training)

    @classmethod
    def from_view(
        cls,
        store: FeatureStore,
        view: str,
        as_of: datetime,
        keys: pa.Array,
        *,
        seed: int,
        buckets: int = BUCKETS,
        training: RowTraining | None = None,
        backfills: bool = False,
        size: float | None = SIZE,
    ) -> Self:
        """One whose rows begin as a view's vectors at a time, as its point-in-time join gives them.

        Keys without a vector begin as in :meth:`from_nothing`.

        Args:
            as_of: nothing that was known later counts; that of the first row to be learned from.
            keys: the entities, each once.
            backfills: whether vectors count that were written later, as in `training_join`.
            size: all vectors are multiplied by the number that brings their root mean square to
                it, so that tables of all views learn alike; None leaves them as they are.

        Raises:
            ConfigError: no such embedding view, or keys of another type.
        """
        start = vectors_at(store, view, as_of, keys, backfills=backfills)
        table = cls.from_nothing(keys, start.dim, seed=seed, buckets=buckets, training=training)
        vectors = torch.from_numpy(start.vectors)
        if size is not None and len(vectors):
            found = vectors.double().square().mean().sqrt()
            table.scale.copy_(size / found.clamp(min=1e-12))
        if len(vectors):
            table._write(table.rows_of(start.keys), vectors * table.scale.float())
        return table

    @property
    def dim(self) -> int:
        """The length of a row."""
        return self.values.shape[1]

    @property
    def buckets(self) -> int:
        """H, how many rows the unknown keys share."""
        return len(self.values) - len(self.keys)

    def rows_of(self, keys: pa.Array) -> Tensor:
        """The rows of keys, int64 (n,): a hashed one for a key it has not, -1 for null.

        Without hashed rows an unknown key is -1 as well. Raises ConfigError for keys of another
        type.
        """
        wanted = normalized(keys)
        if wanted.null_count == len(wanted):
            return torch.full((len(wanted),), -1)
        self._check_type(wanted)
        filled = wanted.fill_null(wanted.drop_null()[0])
        rows = self._hashed(filled)
        if len(self.keys):
            places = pc.search_sorted(self.keys, filled).to_numpy().astype(np.int64)
            places = np.minimum(places, len(self.keys) - 1)
            same = pc.equal(self.keys.take(pa.array(places)), filled)
            rows = np.where(same.to_numpy(zero_copy_only=False), places, rows)
        present = wanted.is_valid().to_numpy(zero_copy_only=False)
        return torch.from_numpy(np.where(present, rows, -1))

    def forward(self, rows: Tensor) -> Tensor:
        """The rows (..., d) of numbers int64 (...), zeros for -1; in training with a gradient.

        They lie on the table's device, wherever the numbers were.
        """
        rows = rows.to(self.device)
        numbers, place = rows.unique(return_inverse=True)
        absent = int(numbers.numel() > 0 and int(numbers[0]) < 0)  # They ascend: -1 is the first.
        numbers = numbers[absent:]
        held = self._taken(numbers)
        if self.training and torch.is_grad_enabled():
            self._leaves.append(_Leaf(numbers, held.requires_grad_()))
        if not absent:
            return functional.embedding(place, held)
        padded = torch.cat([held.new_zeros(1, self.dim), held])
        return functional.embedding(place, padded)

    @torch.no_grad()
    def step(self, group: ProcessGroup | None = None, *, scale: float = 1.0) -> None:
        """Row-wise Adagrad on the rows of all forward passes since the last step.

        Args:
            group: processes that each went through a part of the batch: the gradients of all are
                summed, so that all take the same step. All have to call it, those without rows too.
            scale: what gradients are multiplied by: 1 / processes where each took the mean of its
                own part, 1 / factor where the loss was scaled against underflow.
        """
        used = [
            RowGradients(leaf.numbers, leaf.values.grad)
            for leaf in self._leaves
            if leaf.values.grad is not None
        ]
        self._leaves.clear()
        rate = self.row_training.rate_at(int(self.steps))
        self.steps += 1
        if not rate:
            return
        found = summed(used, self.dim, self.device)
        if group is not None:
            found = gathered(found, group)
        if scale != 1:
            found = found._replace(gradient=found.gradient * scale)
        if len(found.numbers):
            self._learn(*found, rate)

    def forget(self) -> None:
        """Drop what forward passes left for the next step, as where a batch is given up."""
        self._leaves.clear()

    @torch.no_grad()
    def adopt(
        self,
        keys: pa.Array,
        neighbours: Neighbours | None = None,
        vectors: KeyedVectors | None = None,
    ) -> int:
        """Give exact rows to keys that have none, and return to how many.

        A new row begins as the mean of its neighbours' rows; without any in the table, as its
        vector, moved by how far training has taken the rows of others from theirs on the mean;
        without one, as the hashed row that it had, so that no score changes. Old rows and their
        sums keep every bit, but not their numbers: look rows up again.

        Args:
            keys: int64 or string; nulls and those that the table has are passed over.
            neighbours: of the new ones.
            vectors: of a newer snapshot (`vectors_at`), of old keys too: they tell the way.

        Raises:
            ConfigError: keys of another type, or vectors of another length.
        """
        given = normalized(keys).drop_null().unique()
        if not len(given):
            return 0
        self._check_type(given)
        had = self.rows_of(given).numpy()
        new = given.filter(pa.array((had < 0) | (had >= len(self.keys))))
        device, count = self.device, len(self.keys)
        rows = begun(self, new, neighbours, vectors)
        every = pa.concat_arrays([self.keys, new]) if count else new
        order = pc.sort_indices(every)
        places = torch.from_numpy(order.to_numpy().astype(np.int64))
        values, squares = self.values, self.squares
        fresh = squares.new_zeros(len(new))
        grown = torch.cat([squares[:count], fresh, squares[count:]])
        self.forget()
        self.keys = every.take(order)
        self._hold(torch.cat([values[:count], rows.to(values.device), values[count:]]), places)
        self.squares.copy_(torch.cat([grown[places], grown[len(every) :]]))
        self.to(device)
        return len(new)

    @property
    def device(self) -> torch.device:
        """Where rows are looked at and learn."""
        return self.values.device

    def _hold(self, values: Tensor, places: Tensor) -> None:
        """Keep all rows: first those at `places`, then those behind them."""
        self.register_buffer("values", torch.cat([values[places], values[len(places) :]]))
        self.register_buffer("squares", torch.zeros(len(values)))

    def _taken(self, numbers: Tensor) -> Tensor:
        """A copy (U, d) of rows that all differ."""
        return self.values.index_select(0, numbers)

    def _write(self, numbers: Tensor, values: Tensor) -> None:
        """Set rows (U,) that all differ."""
        self.values[numbers] = values.to(self.values.device)

    def _learn(self, numbers: Tensor, gradient: Tensor, rate: float) -> None:
        """Take a step on rows (U,) that all differ; `gradient` (U, d) is overwritten."""
        adagrad_rows(self.values, self.squares, numbers, gradient, rate=rate)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Tables of the first checkpoints did not tell it.
        state_dict.setdefault(f"{prefix}scale", self.scale)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _hashed(self, keys: pa.Array) -> np.ndarray:
        if not self.buckets:
            return np.full(len(keys), -1, np.int64)
        places = (hashes_of(keys) % np.uint64(self.buckets)).astype(np.int64)
        return np.asarray(places + len(self.keys))

    def _check_type(self, keys: pa.Array) -> None:
        if len(self.keys) and keys.type != self.keys.type:
            raise ConfigError(
                "keys of an ID table",
                found=str(keys.type),
                expected=f"{self.keys.type}, as the table has them",
                remedy="Convert them, or declare the entity's type as it is.",
            )


def vectors_at(
    store: FeatureStore, view: str, as_of: datetime, keys: pa.Array, *, backfills: bool = False
) -> KeyVectors:
    """Return the vectors of a view in force at a time, of those keys that have one.

    Arguments and errors are those of :meth:`EntityTable.from_view`.
    """
    given = normalized(keys)
    known = given.take(pc.sort_indices(given))
    lookup = open_lookup(store, view, known, backfills=backfills)
    found = lookup.find(np.arange(len(known)), np.full(len(known), instant(as_of)))
    there = found != MISSING
    return KeyVectors(known.filter(pa.array(there)), lookup.take(found[there]))


def _check(keys: pa.Array, values: Tensor) -> None:
    found = None
    if keys.null_count:
        found = f"{keys.null_count} null keys"
    elif len(keys.unique()) < len(keys):
        found = f"{len(keys) - len(keys.unique())} keys that stand there before"
    elif values.ndim != 2 or len(values) < len(keys):
        found = f"values of shape {tuple(values.shape)} for {len(keys)} keys"
    if found is not None:
        raise ConfigError(
            "ID table",
            found=found,
            expected="each key once, and a row for each",
            remedy="Give distinct keys: `keys.unique()`.",
        )
