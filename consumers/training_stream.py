"""Impressions and the features of a service as ready batches, in bounded memory.

    stream = TrainingStream(store, "impressions.parquet", "ranker_transra", batch_size=4096, seed=0)
    for epoch in range(3):
        for batch in stream: ...                    # or stream.loader(workers=2)

Impressions, which are narrow, are laid out once by time. An epoch goes through pools of their row
groups in an order by (seed, epoch), so that every pool mixes several times; the rows of a pool are
shuffled, and their features, which are wide, are asked for in that very order, so that nothing wide
is ever moved again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from torch.utils.data import DataLoader, IterableDataset

from provender.consumers.epoch_share import EpochShare, own_rank, own_worker
from provender.consumers.example_rows import Actions, to_batch
from provender.consumers.feature_join import FeatureJoin
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.impression_file import impression_file
from provender.consumers.impression_sources import Source
from provender.consumers.negative_sampling import NegativeSampling
from provender.consumers.training_join import TrainingSet, training_join
from provender.consumers.used_runs import Runs, UsedRuns
from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.example_order import POOL, pools
from provender.plugin.read_ahead import read_ahead

#: Rows whose features are in memory at once, and as many again that are read ahead.
POOL_ROWS = 131_072
#: What a state is of: it goes on only with the same.
_SAME = ("seed", "batch_size", "rows", "rank", "ranks", "in_order", "pool_rows")
State = dict[str, Any]


class TrainingStream(IterableDataset[RankerBatch]):
    """Batches of exactly `batch_size` rows but for a rank's last (two).

    The order is a function of seed, epoch, rank and ranks alone: workers change nothing. Every rank
    has equally many batches, and all of them together every row once (epoch_share.py). Memory is
    bounded by two pools of features in a process; each worker of a DataLoader holds one.

    Iterating goes through one epoch, the next time through the next. It may be pickled.

    Attributes:
        layout: what the service holds.
        epoch: the epoch that is gone through, or is the next.
    """

    def __init__(
        self,
        store: FeatureStore,
        impressions: Source,
        service: str | FeatureLayout,
        *,
        batch_size: int = 4096,
        seed: int = 0,
        in_order: bool = False,
        backfills: bool = False,
        actions: Actions | None = None,
        negatives: float = 1.0,
        rank: int | None = None,
        ranks: int | None = None,
        pool_rows: int = POOL_ROWS,
        work: Path | None = None,
    ) -> None:
        """Lay the impressions out by time, unless they are a Parquet file that lies so.

        Args:
            store: a feature store, of which only public methods are used.
            impressions: see `impression_sources`.
            service: the registered feature service, or a layout of registered views.
            batch_size: rows a batch.
            seed: of the order, and of which negatives are kept.
            in_order: by time, not shuffled, as for an evaluation.
            backfills: whether values written after an impression count.
            actions: where the past of each row's user is found; without it there is no history.
            negatives: share of the rows without a positive that is kept (negative_sampling.py).
            rank: this process's number among `ranks`; by default torch.distributed's.
            ranks: processes that share an epoch.
            pool_rows: rows that are shuffled and joined at once, which bounds the memory.
            work: a folder for the laid out impressions; by default one that goes with the stream.

        Raises:
            ConfigError: a service that is not there, or numbers that can't be.
            FetchError, SourceError, MappingError: impressions that can't be read, or lack a key.
        """
        super().__init__()
        self.layout = service if isinstance(service, FeatureLayout) else _layout(store, service)
        if pool_rows < POOL:
            raise ConfigError(
                "pool_rows",
                found=str(pool_rows),
                expected=f"at least {POOL}",
                remedy="Take as many as fit into memory with their features.",
            )
        self._join = FeatureJoin(store, self.layout, backfills)
        self._actions = actions
        self._seed, self._in_order, self._pool_rows = seed, in_order, pool_rows
        self._batch_size = batch_size
        self._rank, self._ranks = own_rank(rank, ranks)
        folder = work or Path(tempfile.mkdtemp(prefix="provender-stream-"))
        if work is None:  # A worker's copy is another object, which owns nothing.
            weakref.finalize(self, _remove, folder, os.getpid())
        self.impressions = impression_file(
            impressions,
            self.layout,
            folder,
            group_rows=max(pool_rows // POOL, 1),
            sampling=NegativeSampling(negatives, seed),
        )
        self._share = EpochShare.of(len(self.impressions), batch_size, self._rank, self._ranks)
        self.epoch, self._done, self._resumed = 0, 0, False

    def __len__(self) -> int:
        """Batches of this rank an epoch."""
        return len(self._share)

    def __iter__(self) -> Iterator[RankerBatch]:
        """The batches of the epoch, or what is left of it after :meth:`load_state_dict`.

        In a worker of a DataLoader only this worker's; see :meth:`loader`.
        """
        worker, workers = own_worker()
        start = self._begin()
        batches: Iterator[RankerBatch] = (
            batch for _, batch in self._examples(start, self.epoch, worker, workers)
        )
        if workers == 1:
            batches = read_ahead(batches, self._pool_batches)
        return self._counted(batches)

    def loader(self, workers: int = 0, **options: Any) -> Iterator[RankerBatch]:
        """The same batches, made by so many processes beside this one.

        The state of the stream counts what has come out of here: use this, rather than a
        DataLoader of your own, where the stream is to be resumed.

        With a DataLoader of your own, every epoch wants its :meth:`set_epoch` first.

        Args:
            options: of torch.utils.data.DataLoader.
        """
        if not workers:
            return iter(self)
        self._begin(keep=True)
        return self._counted(
            iter(DataLoader(self, batch_size=None, num_workers=workers, **options))
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin with this epoch the next time."""
        self.epoch, self._done, self._resumed = epoch, 0, False

    def state_dict(self) -> State:
        """Where the iteration is: what comes next is the batch after the last that came out."""
        return {"epoch": self.epoch, "batches": self._done, **self._identity()}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state, bit for bit; with any number of workers.

        Raises CheckpointError for the state of another stream.
        """
        own = self._identity()
        for name in _SAME:
            if state.get(name) != own[name]:
                raise CheckpointError(
                    "state of a training stream",
                    found=f"{name} {state.get(name)!r}",
                    expected=f"{own[name]!r}, as this stream has it",
                    remedy="Make the stream with the arguments that it had, or begin anew.",
                )
        self.epoch, self._done, self._resumed = state["epoch"], state["batches"], True

    def window(self) -> tuple[datetime, datetime]:
        """Times of the first and the last impression, over all ranks."""
        return self.impressions.window()

    def runs(self) -> Runs:
        """View -> the runs that its vectors can have come from."""
        return UsedRuns(self._join.store, self.layout).runs(*self.window())

    def sample(self, rows: int) -> TrainingSet:
        """At most so many rows, evenly over the times, joined in memory: to fit scalings to."""
        total = len(self.impressions)
        chosen = np.unique(np.linspace(0, total - 1, min(rows, total)).astype(np.int64))
        ends = np.cumsum(self.impressions.group_rows)
        parts = []
        for group, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
            places = chosen[(chosen >= start) & (chosen < end)] - start
            if len(places):
                parts.append(self.impressions.read([group]).take(pa.array(places)))
        return self._set(pa.concat_tables(parts) if parts else self.impressions.read([]))

    def joined(self, impressions: pa.Table) -> RankerBatch:
        """Join some impressions, in memory, as those of the stream are."""
        return self._set(impressions).rows

    def to_parquet(self, path: Path, *, frame: Literal["flat", "vectors"] = "vectors") -> int:
        """Write all rows by time to a Parquet file; see `dataset_files`. Returns how many."""
        from provender.consumers import dataset_files

        return dataset_files.to_parquet(self, path, frame=frame)

    def to_pandas(self, *, frame: Literal["flat", "vectors"] = "flat") -> pd.DataFrame:
        """All rows by time as a data frame; see `dataset_files`."""
        from provender.consumers import dataset_files

        return dataset_files.to_pandas(self, frame=frame)

    def examples(self) -> Iterator[tuple[pa.Table, RankerBatch]]:
        """All impressions by time, beside what is made of them; of all ranks, once."""
        whole = EpochShare.of(len(self.impressions), self._batch_size, 0, 1)
        return self._examples(0, 0, 0, 1, share=whole, in_order=True)

    def _set(self, impressions: pa.Table) -> TrainingSet:
        join, actions = self._join, self._actions
        return training_join(
            join.store, impressions, self.layout, backfills=join.backfills, actions=actions
        )

    @property
    def _pool_batches(self) -> int:
        return max(self._pool_rows // self._batch_size, 1)

    def _identity(self) -> State:
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "rows": len(self.impressions),
            "rank": self._rank,
            "ranks": self._ranks,
            "in_order": self._in_order,
            "pool_rows": self._pool_rows,
        }

    def _begin(self, *, keep: bool = False) -> int:
        """Start at the beginning of the epoch, or where a state said; `keep` for the workers."""
        if not self._resumed:
            self._done = 0
        self._resumed = keep
        return self._done

    def _counted(self, batches: Iterator[RankerBatch]) -> Iterator[RankerBatch]:
        self._resumed = False
        for batch in batches:
            self._done += 1
            yield batch
        self.epoch, self._done = self.epoch + 1, 0

    def _examples(
        self,
        start: int,
        epoch: int,
        worker: int,
        workers: int,
        *,
        share: EpochShare | None = None,
        in_order: bool | None = None,
    ) -> Iterator[tuple[pa.Table, RankerBatch]]:
        """The worker's batches from number `start` on, joined some at a time."""
        share = share or self._share
        in_order = self._in_order if in_order is None else in_order
        tables = islice(self._cut(share, start, epoch, in_order), worker, None, workers)
        while pool := list(islice(tables, self._pool_batches)):
            yield from self._joined(pool)

    def _joined(self, pool: list[pa.Table]) -> Iterator[tuple[pa.Table, RankerBatch]]:
        """Ask for the features of several batches at once, and hand them out one by one.

        All are full but for the last (two) of an epoch, which may be halves.
        """
        size = len(pool[0])
        full = [table for table in pool if len(table) == size]
        columns = self._join.parts(pa.concat_tables(full), size)
        for table, some in zip(full, columns, strict=True):
            yield table, to_batch(self.layout, table, some, self._actions)
        if len(full) < len(pool):
            yield from self._joined(pool[len(full) :])

    def _cut(self, share: EpochShare, start: int, epoch: int, in_order: bool) -> Iterator[pa.Table]:
        """The impressions of each batch from number `start` on."""
        sizes = share.sizes()[start:]
        skipped = share.start + int(share.bounds[start])
        groups = self.impressions.group_rows
        order = pools(groups, self._seed, epoch, in_order=in_order, start=skipped)
        held: pa.Table | None = None
        for size in sizes:
            while held is None or len(held) < size:
                pool = next(order)
                table = self.impressions.read(pool.groups.tolist())
                rows = table.take(pa.array(pool.order(len(table))))
                held = rows if held is None else pa.concat_tables([held, rows])
            yield held.slice(0, size)
            held = held.slice(size)


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder in the process that made it, and in no fork of it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _layout(store: FeatureStore, service: str) -> FeatureLayout:
    return FeatureLayout.of_service(store, service)
