"""Tables larger than the card: rows in host memory, or in files, the hot ones on the device.

    table = HostTable.of(table, capacity=1_000_000, folder=Path("rows")).to("cuda")
    table.prefetch(next_rows)  # while the step on this batch goes on

Legend of shapes: N exact rows, H hashed ones behind them, R = N + H, C slots of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.row_cache import CacheCounts, RowCache
from provender.plugin.errors import ConfigError
from provender.plugin.row_adagrad import adagrad_rows

#: Hot rows on the device, if nothing is said.
CAPACITY = 65_536
#: Rows that are copied at once.
_BLOCK = 65_536


class HostTable(EntityTable):
    """An :class:`EntityTable` whose rows stay in host memory; it comes to the same bits.

    A call may go through more rows than the cache has: it takes them in parts.

    Args:
        keys, values, training: as of an EntityTable; `values` may be mapped from a file.
        capacity: C, rows on the device, each d + 1 numbers.
        folder: where files for the rows are made, for tables larger than memory; in memory if
            None. They are what the table works on and no checkpoint: save it with `save_table`.

    The state dict holds all rows, flushed, not copied.
    """

    def __init__(
        self,
        keys: pa.Array,
        values: Tensor,
        training: RowTraining | None = None,
        *,
        capacity: int = CAPACITY,
        folder: Path | None = None,
    ) -> None:
        if capacity < 1:
            raise ConfigError(
                "capacity of a table's cache",
                found=str(capacity),
                expected="at least one row",
                remedy="Give as many rows as a batch goes through, and more if there is room.",
            )
        self._capacity, self._folder = capacity, folder
        super().__init__(keys, values, training)

    @classmethod
    def of(cls, table: EntityTable, *, capacity: int, folder: Path | None = None) -> Self:
        """One with the rows, the sums and the steps of another table."""
        made = cls(table.keys, table.values, table.row_training, capacity=capacity, folder=folder)
        made.load_state_dict(table.state_dict())
        return made

    @property
    def counts(self) -> CacheCounts:
        """Hits and misses of the cache so far."""
        return self.cache.counts

    @property
    def device(self) -> torch.device:
        """Where the hot rows lie."""
        return self.cache.values.device

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        """float32 (R, d) on the CPU, after what the cache holds was written there."""
        self.cache.flush()
        return self.cache.host_values

    @property
    def squares(self) -> Tensor:  # type: ignore[override]
        """float32 (R,), likewise."""
        self.cache.flush()
        return self.cache.host_squares

    def prefetch(self, rows: Tensor) -> None:
        """Begin to read the rows of the next call, int64 (...), from host memory."""
        numbers = rows.cpu().unique()
        self.cache.read_ahead(numbers[numbers >= 0].numpy())

    def _hold(self, values: Tensor, places: Tensor) -> None:
        host = _memory(self._folder, "values", tuple(values.shape))
        for start in range(0, len(values), _BLOCK):
            part = places[start : start + _BLOCK]
            host[start : start + len(part)] = values[part]
        host[len(places) :] = values[len(places) :]
        squares = _memory(self._folder, "squares", (len(values),))
        self.cache = RowCache(host, squares, min(self._capacity, max(len(values), 1)))

    def _taken(self, numbers: Tensor) -> Tensor:
        parts = [
            self.cache.values.index_select(0, self.cache.slots(part.cpu().numpy()))
            for part in self._parts(numbers)
        ]
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _learn(self, numbers: Tensor, gradient: Tensor, rate: float) -> None:
        parts, gradients = self._parts(numbers), self._parts(gradient)
        for part, share in zip(parts, gradients, strict=True):
            slots = self.cache.slots(part.cpu().numpy(), write=True)
            adagrad_rows(self.cache.values, self.cache.squares, slots, share, rate=rate)

    def _write(self, numbers: Tensor, values: Tensor) -> None:
        self.values[numbers] = values.cpu()
        self.cache.drop()

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        size = self.cache.capacity
        return tuple(rows[start : start + size] for start in range(0, max(len(rows), 1), size))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}values"] = self.values
        destination[f"{prefix}squares"] = self.squares

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        missing, unexpected, errors = args[2:]
        for name in ("values", "squares"):
            into, given = getattr(self, name), state_dict.get(f"{prefix}{name}")
            if given is None:
                missing.append(f"{prefix}{name}")
                continue
            if f"{prefix}{name}" in unexpected:
                unexpected.remove(f"{prefix}{name}")
            if given.shape != into.shape:
                errors.append(f"{prefix}{name} of shape {given.shape} for one of {into.shape}")
                continue
            for part in _blocks(len(into)):
                into[part] = given[part].cpu()
        self.cache.drop()


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)


def _memory(folder: Path | None, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return zeros in memory, or in a new file of a folder."""
    if folder is None or 0 in shape:
        return torch.zeros(shape)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.f32"
    path.unlink(missing_ok=True)  # Another table may still look at it: it keeps its own.
    return torch.from_numpy(np.memmap(path, np.float32, "w+", shape=shape))
