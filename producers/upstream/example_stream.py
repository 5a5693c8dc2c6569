"""Examples as batches of tensors, from a file larger than memory; an epoch can be resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from provender.plugin.counter_random import mix64, walker_keys
from provender.plugin.example_order import pools
from provender.plugin.read_ahead import read_ahead
from provender.producers.upstream.example_files import ExampleFile, integers
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.inputs import Batch
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.timed_rows import Ints
from provender.producers.upstream.tower_set import TowerSet

#: Microseconds that users are set apart by in draws: a prime beyond 2^40.
_APART = 1_099_511_627_791


class ExampleStream:
    """All examples of a tower set, `batch_size` a batch but for the last one of an epoch."""

    def __init__(
        self,
        tower_set: TowerSet,
        reader: FeatureReader,
        fitted: Fitted,
        batch_size: int,
        seed: int,
        *,
        context_dropout: float = 0.0,
    ) -> None:
        """Over the examples of a set; the context of some rows, or all, is hidden."""
        self.features = reader.using(fitted)
        self._file, self._tasks = ExampleFile(tower_set), tower_set.tasks
        self._batch_size, self._seed = batch_size, seed
        self._hidden = context_dropout
        self._log_q = self._file.log_q

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._file)

    def count(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self) // self._batch_size)

    def batches(self, epoch: int, start: int = 0, *, in_order: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; those before are not read again.

        Args:
            in_order: by time, as a refresh goes once through what is new; else shuffled by
                (seed, epoch).
        """
        tables = self._tables(epoch, start, in_order=in_order)
        return read_ahead(self._batch(table, epoch) for table in tables)

    def _tables(self, epoch: int, start: int, *, in_order: bool) -> Iterator[pa.Table]:
        """The rows of each batch."""
        held: list[pa.Table] = []
        for pool in pools(
            self._file.rows,
            self._seed,
            epoch,
            in_order=in_order,
            start=start * self._batch_size,
        ):
            table = self._file.read(pool.groups.tolist())
            rows = pool.rows(self._together(table))
            table = pa.concat_tables([*held, table.take(pa.array(rows))])
            whole = table.num_rows - table.num_rows % self._batch_size
            for first in range(0, whole, self._batch_size):
                yield table.slice(first, self._batch_size)
            held = [table.slice(whole)]
        if held and held[0].num_rows:
            yield held[0]

    def _together(self, table: pa.Table) -> Ints:
        """The same number for rows that give the user tower the same input."""
        times = self.features.reader.user.floored(integers(table["time"]))
        return _pairs(integers(table["user"]), times)[0]

    def _context(self, table: pa.Table, epoch: int) -> dict[str, pa.ChunkedArray]:
        """The columns of the context, null where it is hidden: by seed, epoch, user and time."""
        columns = {
            name: table[name]
            for name in table.column_names
            if name.startswith(("number_", "category_"))
        }
        if not self._hidden or not columns:
            return columns
        rows = integers(table["time"]) + integers(table["user"]) * _APART
        drawn = walker_keys(mix64(self._seed) ^ epoch, torch.from_numpy(rows), torch.arange(1))
        hidden = pa.array(drawn[:, 0].numpy() < self._hidden * 2**32 - 2**31)
        return {
            name: pc.if_else(hidden, pa.scalar(None, column.type), column)
            for name, column in columns.items()
        }

    def _batch(self, table: pa.Table, epoch: int) -> Batch:
        user, pin, time = (integers(table[name]) for name in ("user", "pin", "time"))
        reader = self.features.reader
        users, user_times, user_rows = _distinct(user, reader.user.floored(time))
        pins, pin_times, pin_rows = _distinct(pin, reader.pin.floored(time))
        labels, known = _labels(table, self._tasks)
        columns = self._context(table, epoch)
        return Batch(
            users=self.features.users(users, user_times),
            pins=self.features.pins(pins, pin_times),
            cross=self.features.cross(user, pin, time, columns),
            user=torch.from_numpy(user_rows),
            pin=torch.from_numpy(pin_rows),
            user_id=torch.from_numpy(users),
            pin_id=torch.from_numpy(pins),
            labels=labels,
            known=known,
            weight=torch.from_numpy(np.array(table["weight"].to_numpy(), np.float32)),
            source=torch.from_numpy(integers(table["source"])),
            log_q=torch.from_numpy(self._log_q[pins]),
        )


def _distinct(ids: Ints, times: Ints) -> tuple[Ints, Ints, Ints]:
    """Each pair of an entity and a time once, and the place of each row's pair: int64 (B,)."""
    numbers, instants = _pairs(ids, times)
    pairs, rows = np.unique(numbers, return_inverse=True)
    return pairs // len(instants), instants[pairs % len(instants)], rows


def _pairs(ids: Ints, times: Ints) -> tuple[Ints, Ints]:
    """One number for each pair of an entity and a time, and the distinct times that it counts."""
    instants, place = np.unique(times, return_inverse=True)
    return ids * len(instants) + place, instants


def _labels(table: pa.Table, tasks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Labels float32 (B, T), 0 where unknown, and which are known, bool (B, T)."""
    columns = [table[f"label_{task}"] for task in tasks]
    labels = [pc.fill_null(column, 0).to_numpy() for column in columns]
    known = [column.is_valid().to_numpy() for column in columns]
    return (
        torch.from_numpy(np.stack(labels, axis=1).astype(np.float32)),
        torch.from_numpy(np.stack(known, axis=1)),
    )
