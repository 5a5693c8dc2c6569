"""Which rows of an epoch are whose, and how they are cut into batches.

An epoch is one sequence of rows. Each rank takes an unbroken piece of it, the first ranks one row
more than the others where it does not divide, and cuts it into batches; its workers take turns at
them. So what a rank sees does not depend on how many workers it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch.distributed
from torch.utils.data import get_worker_info

from provender.plugin.errors import ConfigError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochShare:
    """A rank's piece of an epoch's rows.

    Every rank has equally many batches, so that none waits for another's gradients in vain: where
    the last batch of some ranks would be empty, they halve the one before it.

    Attributes:
        start: its first row; rows: how many it has.
        bounds: int64 (batches + 1,), where its batches begin and end, counted from `start`.
    """

    start: int
    rows: int
    bounds: Ints

    @classmethod
    def of(cls, rows: int, batch_size: int, rank: int, ranks: int) -> EpochShare:
        """The piece of one rank.

        Args:
            rows: of the whole epoch.

        Raises ConfigError where ranks would go without rows, or can't have equally many batches.
        """
        _check(rows, batch_size, rank, ranks)
        each, more = divmod(rows, ranks)
        own = each + (rank < more)
        batches = -(-(each + (more > 0)) // batch_size)
        bounds = np.minimum(np.arange(batches + 1) * batch_size, own)
        if batches and bounds[-2] == own:
            bounds[-2] = own - batch_size // 2
        return cls(each * rank + min(rank, more), own, bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def sizes(self) -> list[int]:
        """Rows of each batch."""
        return [int(end - start) for start, end in pairwise(self.bounds)]


def _check(rows: int, batch_size: int, rank: int, ranks: int) -> None:
    if batch_size < 1 or not 0 <= rank < ranks:
        raise ConfigError(
            "batches of an epoch",
            found=f"batches of {batch_size} for rank {rank} of {ranks}",
            expected="at least one row a batch, and a rank from 0 on below their number",
            remedy="Correct batch_size, rank or ranks.",
        )
    uneven = rows % ranks and (batch_size == 1 or rows < ranks)
    if uneven:
        raise ConfigError(
            "batches of an epoch",
            found=f"{rows} rows in batches of {batch_size} for {ranks} ranks",
            expected="rows for every rank, in equally many batches",
            remedy="Take fewer ranks, or batches of two rows and more.",
        )


def own_rank(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """The rank and how many there are: as given, or torch.distributed's, or the only one.

    Raises ConfigError for one without the other.
    """
    if (rank is None) != (ranks is None):
        raise ConfigError(
            "rank", found=f"rank {rank} of {ranks}", expected="both or none", remedy="Give both."
        )
    if rank is not None and ranks is not None:
        return rank, ranks
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def own_worker() -> tuple[int, int]:
    """The number of this worker of a DataLoader, and how many there are; (0, 1) outside of one."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
