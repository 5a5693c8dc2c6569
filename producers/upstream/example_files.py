"""The file of examples, read by row groups: a pool of them at a time, or a sample of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.producers.upstream.tower_set import TowerSet

Ints = NDArray[np.int64]
#: Row groups whose pins are counted at once: a million rows.
_COUNTED = 64


class ExampleFile:
    """examples.parquet of a tower set, opened anew for each read, so that threads don't meet."""

    def __init__(self, tower_set: TowerSet) -> None:
        self._path, self._pins = tower_set.examples, tower_set.entities("pin").num_rows
        with pq.ParquetFile(self._path) as file:
            groups = [file.metadata.row_group(at) for at in range(file.num_row_groups)]
        #: Rows of each row group: int64 (g,).
        self.rows = np.array([group.num_rows for group in groups], np.int64)

    def __len__(self) -> int:
        return int(self.rows.sum())

    def read(self, groups: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some row groups, in the order in which the groups are named."""
        with pq.ParquetFile(self._path) as file:
            return file.read_row_groups(list(groups), columns=columns, use_threads=False)

    def sample(self, most: int, seed: int) -> pa.Table:
        """`most` rows spread over the whole file, in its order; all rows if there are fewer.

        One is drawn from each of as many equal parts: neither a time of the day nor the negatives
        that follow each positive can fall in step with it.
        """
        total = len(self)
        rows = np.arange(total)
        if total > most:
            edges = np.arange(most + 1) * total // most
            rows = edges[:-1] + (_uniform(seed, most) * np.diff(edges)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(self.rows)])
        bounds = np.searchsorted(rows, starts)
        parts = [
            self.read([group]).take(pa.array(rows[bounds[group] : bounds[group + 1]] - start))
            for group, start in enumerate(starts[:-1])
        ]
        return pa.concat_tables(parts) if parts else self.read([])

    @property
    def log_q(self) -> NDArray[np.float32]:
        """Log of the share of all examples that have each pin: (pins,), -inf for none."""
        counts = np.zeros(self._pins, np.int64)
        for start in range(0, len(self.rows), _COUNTED):
            groups = range(start, min(start + _COUNTED, len(self.rows)))
            pins = self.read(groups, ["pin"])["pin"].to_numpy()
            counts += np.bincount(pins, minlength=self._pins)
        with np.errstate(divide="ignore"):
            return np.log(counts / max(len(self), 1)).astype(np.float32)


def _uniform(seed: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1): a function of the seed alone, whatever numpy's version."""
    raw = np.random.Philox(key=seed).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)


def integers(column: pa.ChunkedArray) -> Ints:
    """A column without nulls as int64 (n,)."""
    return np.asarray(column.to_numpy(), np.int64)
