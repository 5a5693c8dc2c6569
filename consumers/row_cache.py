"""The hot rows of a table that is larger than the card: a cache of fixed size over host memory.

Which rows stay is decided by a clock with counters (Smith 1978, generalised clock): a hand goes
round the slots and takes a use off each that it passes; the first without any is let go. So what
is used often stays, at the cost of what is brought in, however large the cache.

Legend of shapes: R rows of the table, C slots, U rows of a call, each once, d the length of a row.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Numbers = npt.NDArray[np.int64]
#: Uses that are remembered of a row: so many rounds of the hand it outlives the last one.
_MOST_USES = 7
#: Slots that the hand looks at together, at least.
_LOOK = 1024


@dataclass
class CacheCounts:
    """What a cache did: rows found in it, rows brought in, of these read ahead, rows let go."""

    hits: int = 0
    misses: int = 0
    read_ahead: int = 0
    evicted: int = 0


class _Read(NamedTuple):
    """Rows read ahead: numbers (U,), ascending, their values (U, d) and squares (U,)."""

    numbers: Numbers
    values: Tensor
    squares: Tensor


@dataclass
class _Pending:
    """A read that goes on, and the rows that were written back since: what it has may be old."""

    read: Future[_Read]
    written: list[Numbers] = field(default_factory=list)


class RowCache(nn.Module):
    """Rows of host memory on a device; the module's own device is where the slots lie.

    Args:
        host_values: float32 (R, d) on the CPU, perhaps mapped from a file.
        host_squares: float32 (R,), likewise.
        capacity: C.

    Attributes:
        values: float32 (C, d), squares: float32 (C,), what the slots hold. Their rows in host
            memory are behind until :meth:`flush`.
        counts: what happened since the cache was made.
    """

    values: Tensor
    squares: Tensor

    def __init__(self, host_values: Tensor, host_squares: Tensor, capacity: int) -> None:
        super().__init__()
        self.host_values, self.host_squares = host_values, host_squares
        self.capacity = capacity
        shape = (capacity, host_values.shape[1])
        self.register_buffer("values", torch.zeros(shape), persistent=False)
        self.register_buffer("squares", torch.zeros(capacity), persistent=False)
        self.counts = CacheCounts()
        self._pending: _Pending | None = None
        self._reader: ThreadPoolExecutor | None = None
        self.drop()

    def drop(self) -> None:
        """Forget all rows, written back or not: as where host memory was set anew."""
        self._slot_of = np.full(len(self.host_values), -1, np.int32)
        self._row_of = np.full(self.capacity, -1, np.int64)
        self._uses = np.zeros(self.capacity, np.uint8)
        self._dirty = np.zeros(self.capacity, np.bool_)
        self._filled = self._hand = 0
        self._wait()
        self._pending = None

    def slots(self, rows: Numbers, *, write: bool = False) -> Tensor:
        """The slots int64 (U,), on the device, of at most C rows that all differ.

        Those that are not there are brought in. With `write` the caller changes what they hold.
        """
        slots = self._slot_of[rows].astype(np.int64)
        missing = slots < 0
        self.counts.hits += int((~missing).sum())
        if missing.any():
            slots[missing] = self._freed(int(missing.sum()), slots[~missing])
            self._bring(rows[missing], slots[missing])
        self._uses[slots] = np.minimum(self._uses[slots] + 1, _MOST_USES)
        self._dirty[slots] |= write
        return torch.from_numpy(slots).to(self.values.device)

    def read_ahead(self, rows: Numbers) -> None:
        """Begin to read rows, ascending and each once, for a call that comes soon."""
        self._wait()
        missing = rows[self._slot_of[rows] < 0]
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "row-cache")
        self._pending = _Pending(self._reader.submit(self._read, missing))

    def flush(self) -> None:
        """Write to host memory what was changed in the slots."""
        self._write_back(np.flatnonzero(self._dirty))

    def _freed(self, count: int, busy: Numbers) -> Numbers:
        """Return so many slots for new rows, none of them busy."""
        fresh = np.arange(self._filled, min(self._filled + count, self.capacity), dtype=np.int64)
        self._filled += len(fresh)
        if len(fresh) == count:
            return fresh
        gone = self._least_used(count - len(fresh), np.concatenate([busy, fresh]))
        self._write_back(gone[self._dirty[gone]])
        self._slot_of[self._row_of[gone]] = -1
        self.counts.evicted += len(gone)
        return np.concatenate([fresh, gone])

    def _least_used(self, count: int, busy: Numbers) -> Numbers:
        kept = np.zeros(self.capacity, np.bool_)
        kept[busy] = True
        found: list[Numbers] = []
        while count:
            size = min(self.capacity, max(2 * count, _LOOK))
            seen = (self._hand + np.arange(size)) % self.capacity
            idle = np.flatnonzero(~kept[seen] & (self._uses[seen] == 0))[:count]
            if len(idle) == count:
                seen = seen[: idle[-1] + 1]  # The hand stops at the last one that it takes.
            self._hand = int(seen[-1] + 1) % self.capacity
            taken = seen[idle]
            kept[taken] = True
            passed = seen[~kept[seen]]
            self._uses[passed] -= 1
            found.append(taken)
            count -= len(taken)
        return np.concatenate(found)

    def _bring(self, rows: Numbers, slots: Numbers) -> None:
        self.counts.misses += len(rows)
        values, squares = self._values_of(rows)
        places = torch.from_numpy(slots).to(self.values.device)
        self.values.index_copy_(0, places, values.to(self.values.device))
        self.squares.index_copy_(0, places, squares.to(self.squares.device))
        self._slot_of[rows], self._row_of[slots] = slots, rows
        self._uses[slots], self._dirty[slots] = 0, False

    def _values_of(self, rows: Numbers) -> tuple[Tensor, Tensor]:
        """Return rows of host memory, from what was read ahead where that is still so."""
        if self._pending is None:
            plain = self._read(rows)
            return plain.values, plain.squares
        ahead = self._pending.read.result()
        place = np.searchsorted(ahead.numbers, rows)
        place = np.minimum(place, max(len(ahead.numbers) - 1, 0))
        known = ahead.numbers[place] == rows if len(ahead.numbers) else np.zeros(len(rows), bool)
        for written in self._pending.written:
            known &= ~np.isin(rows, written)
        self.counts.read_ahead += int(known.sum())
        there, other = torch.from_numpy(known), self._read(rows[~known])
        values = torch.empty(len(rows), self.host_values.shape[1])
        squares = torch.empty(len(rows))
        from_ahead = torch.from_numpy(place[known])
        values[there], squares[there] = ahead.values[from_ahead], ahead.squares[from_ahead]
        values[~there], squares[~there] = other.values, other.squares
        return values, squares

    def _read(self, rows: Numbers) -> _Read:
        places = torch.from_numpy(rows)
        return _Read(
            rows,
            self.host_values.index_select(0, places),
            self.host_squares.index_select(0, places),
        )

    def _write_back(self, slots: Numbers) -> None:
        if not len(slots):
            return
        rows, places = self._row_of[slots], torch.from_numpy(slots).to(self.values.device)
        if self._pending is not None:
            self._pending.written.append(rows)
        numbers = torch.from_numpy(rows)
        self.host_values.index_copy_(0, numbers, self.values.index_select(0, places).cpu())
        self.host_squares.index_copy_(0, numbers, self.squares.index_select(0, places).cpu())
        self._dirty[slots] = False

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.read.result()

    def __getstate__(self) -> dict[str, Any]:
        """All but the thread, so that it can be copied."""
        return {**self.__dict__, "_pending": None, "_reader": None}
