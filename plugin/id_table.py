"""A learned row an entity, apart from the dense model: only the rows that a batch has are touched.

Legend of shapes: R rows of a table, U of them in a batch, each once, d their length, n keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from provender.plugin.counter_random import walker_keys
from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import sha256_of
from provender.plugin.row_adagrad import adagrad_rows

_FORMAT = 1
_ABOUT, _TENSORS, _KEYS = "table.json", "table.safetensors", "keys.parquet"
#: Numbers of a row that starts from nothing are uniform between this and its negative.
_SMALL = 0.05


class KeyedVectors(Protocol):
    """Vectors by key."""

    @property
    def keys(self) -> pa.Array[Any]:
        """(n,), int64 or string, unique."""

    @property
    def vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(n, dim) float32."""

    @property
    def dim(self) -> int:
        """The length of one vector."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table: `values` (U, d) of the rows `numbers` int64 (U,), ascending.

    `numbers` is None where they are all rows.
    """

    values: Tensor
    numbers: Tensor | None = None

    def places(self, ids: Tensor) -> Tensor:
        """Where in `values` the rows of `ids` are, which are among them; -1 where it is -1."""
        if self.numbers is None:
            return ids
        return torch.where(ids < 0, -1, torch.searchsorted(self.numbers, ids))


@dataclass(frozen=True, eq=False)
class IdTable:
    """Rows by entity key, changed in place by training.

    Attributes:
        values: float32 (R, d).
        squares: float32 (R,), the accumulators of row-wise Adagrad.
        keys: of the rows, int64 or string (R,), unique; None where keys are hashed into R rows.
        start_scale: what vectors that rows start from are multiplied by; None before there was one.
    """

    values: Tensor
    squares: Tensor
    keys: pa.Array[Any] | None = None
    start_scale: float | None = None

    @classmethod
    def exact(cls, key_type: pa.DataType, dim: int) -> IdTable:
        """One without rows, which `grown` adds, for keys of int64 or string."""
        return cls(torch.zeros(0, dim), torch.zeros(0), pa.array([], key_type))

    @classmethod
    def hashed(cls, buckets: int, dim: int, seed: int) -> IdTable:
        """One of so many rows, each for all keys whose hash says so."""
        rows = np.arange(buckets, dtype=np.int64)
        return cls(small_rows(hashes_of(pa.array(rows)), dim, seed), torch.zeros(buckets))

    @property
    def dim(self) -> int:
        """The length of a row."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> IdTable:
        """On a device."""
        return replace(self, values=self.values.to(device), squares=self.squares.to(device))

    def rows_of(self, keys: pa.Array[Any]) -> Tensor:
        """The rows of keys, int64 (n,): -1 for null, and for one that an exact table has not."""
        if self.keys is None:
            known = np.array(keys.is_valid())
            hashed = hashes_of(keys.drop_null()) % np.uint64(len(self))
            rows = np.full(len(keys), -1, np.int64)
            rows[known] = hashed.astype(np.int64)
            return torch.from_numpy(rows)
        self._check_type(keys)
        found = pc.index_in(keys, value_set=self.keys, skip_nulls=True)
        return torch.from_numpy(found.fill_null(-1).to_numpy().astype(np.int64))

    def grown(self, keys: pa.Array[Any], start: KeyedVectors | None, seed: int) -> IdTable:
        """One that has rows for these keys too, behind its own, in the order that they come in.

        Args:
            keys: of any entities, in any order; where keys are hashed nothing grows.
            start: vectors that new rows begin as, times the number that brings their mean square
                to 1 at the first growth that has any: what later refreshes add is of one scale
                with it.
            seed: keys without a vector begin with small numbers, a hash of it and the key, so that
                no order and no other key changes them.

        Raises:
            ConfigError: keys of another type, or vectors of another length.
        """
        if self.keys is None:
            return self
        self._check_type(keys)
        new = pc.filter(keys, pc.invert(pc.is_in(keys, value_set=self.keys))).unique().drop_null()
        values = small_rows(hashes_of(new), self.dim, seed)
        scale = self.start_scale
        if start is not None and len(start.keys):
            self._check_start(start)
            if scale is None:
                size = float(np.sqrt(np.square(start.vectors, dtype=np.float64).mean()))
                scale = 1 / size if size else 1.0
            place = pc.index_in(new, value_set=start.keys)
            known = np.array(place.is_valid())
            rows = start.vectors[place.drop_null().to_numpy()] * np.float32(scale)
            values[torch.from_numpy(known)] = torch.from_numpy(rows)
        device = self.values.device
        return IdTable(
            torch.cat([self.values, values.to(device)]),
            torch.cat([self.squares, torch.zeros(len(new), device=device)]),
            pa.concat_arrays([self.keys, new]),
            scale,
        )

    def leaf(self, *ids: Tensor) -> Rows:
        """The rows of a batch, each once, as a leaf (U, d) that gets a gradient; -1 is no row."""
        numbers = torch.cat([each.flatten() for each in ids]).unique()
        numbers = numbers[numbers >= 0]
        return Rows(self.values.index_select(0, numbers).requires_grad_(), numbers)

    def update(self, numbers: Tensor, gradient: Tensor, rate: float) -> None:
        """A step of row-wise Adagrad on rows (U,) that all differ; `gradient` is overwritten."""
        adagrad_rows(self.values, self.squares, numbers, gradient, rate=rate)

    def save(self, folder: Path) -> None:
        """Write it into a folder, which is made."""
        folder.mkdir(parents=True)
        save_file({"values": self.values, "squares": self.squares}, folder / _TENSORS)
        if self.keys is not None:
            pq.write_table(pa.table({"key": self.keys}), folder / _KEYS)
        files = [_TENSORS] if self.keys is None else [_TENSORS, _KEYS]
        about = {
            "format": _FORMAT,
            "sha256": {name: sha256_of(folder / name) for name in files},
            "start_scale": self.start_scale,
        }
        (folder / _ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> IdTable:
        """Read one onto the CPU; raises CheckpointError if it is not whole."""
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            for name, digest in about["sha256"].items():
                if sha256_of(folder / name) != digest:
                    raise ValueError(f"the SHA-256 of {name} is another")
            exact = _KEYS in about["sha256"]
            keys = pq.read_table(folder / _KEYS)["key"].combine_chunks() if exact else None
            tensors = load_file(folder / _TENSORS)
            return cls(tensors["values"], tensors["squares"], keys, about["start_scale"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                str(folder),
                found=f"{type(error).__name__}: {error}",
                expected="a whole id table",
                remedy="Train the towers anew.",
            ) from None

    def _check_type(self, keys: pa.Array[Any]) -> None:
        if self.keys is not None and keys.type != self.keys.type:
            raise ConfigError(
                "keys of an id table",
                found=str(keys.type),
                expected=str(self.keys.type),
                remedy="Declare the entity's key type as it was, or start a new version.",
            )

    def _check_start(self, start: KeyedVectors) -> None:
        if start.dim != self.dim:
            raise ConfigError(
                "vectors that rows of an id table start from",
                found=f"{start.dim} numbers",
                expected=str(self.dim),
                remedy="Set the table's `dim` to the view's, or leave `view` out.",
            )


def hashes_of(keys: pa.Array[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A hash of 64 bits each (n,), the same everywhere and always."""
    found = keys.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(found, categorize=False)


def small_rows(hashes: np.ndarray[Any, np.dtype[np.uint64]], dim: int, seed: int) -> Tensor:
    """Small numbers (n, dim), by seed and hash alone."""
    drawn = walker_keys(seed, torch.from_numpy(hashes.view(np.int64)), torch.arange(dim))
    return drawn.float() * (_SMALL / 2**31)
