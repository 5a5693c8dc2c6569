"""The partitions in memory: those in training, the next one read ahead, the last written behind.

One thread does all reading and writing in the order in which it was asked, so a partition that was
given up is on disk before it, or another in its place, is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from provender.producers.partitions import Layout, PartitionFiles


class HeldPartitions:
    """A table with room for some partitions, each in a slot.

    `entity` (n, d) and `squares` (n,) have their rows where `layout` says; `slot` int64 (P,) is -1
    for partitions that are not in memory. `first` draws the vectors of a partition that was never
    written into tensors (m, d), one for each dealt type.
    """

    def __init__(
        self,
        files: PartitionFiles,
        layout: Layout,
        device: torch.device,
        first: Callable[[int, Sequence[Tensor]], None],
    ) -> None:
        rows = sum(layout.sizes.values())
        self.files, self.layout, self._first = files, layout, first
        self.entity = torch.zeros(rows, files.dim, device=device)
        self.squares = torch.zeros(rows, device=device)
        self.slot = torch.full((layout.partitioning.partitions,), -1, dtype=torch.int64)
        self._changed: set[int] = set()
        self._reading: dict[int, Future[None]] = {}
        self._writing: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1)

    def hold(self, partitions: Sequence[int], version: int | None) -> None:
        """Have these partitions in memory and no others.

        Those that go are written as `version`; without one, nothing is to be changed.
        """
        for gone in sorted(self._present() - set(partitions)):
            self._give_up(gone, version)
        self.read_ahead(partitions)
        for each in partitions:
            if each in self._reading:
                self._reading.pop(each).result()
        if version is not None:
            self._changed.update(partitions)
        self._raise_failed(wait=False)

    def read_ahead(self, partitions: Sequence[int]) -> None:
        """Begin to read those of the partitions that are not here, as far as there is room."""
        for each in partitions:
            free = set(range(self.layout.slots)) - set(self.slot.tolist())
            if int(self.slot[each]) < 0 and free:
                self.slot[each] = min(free)
                self._reading[each] = self._thread.submit(self._read, each, self._parts(each))

    def flush(self, version: int) -> None:
        """Write what has changed, and wait until all of it is on disk."""
        for each in sorted(self._changed):
            self._submit_write(each, version)
        self._changed.clear()
        self._raise_failed(wait=True)

    def restore(self, slot: Tensor) -> None:
        """Read partitions into the slots where they were."""
        self.slot = slot.clone()
        for each in sorted(self._present()):
            self._read(each, self._parts(each))

    def _present(self) -> set[int]:
        return set(torch.nonzero(self.slot >= 0).flatten().tolist())

    def _give_up(self, partition: int, version: int | None) -> None:
        if version is not None and partition in self._changed:
            self._submit_write(partition, version)
            self._changed.remove(partition)
        self.slot[partition] = -1

    def _parts(self, partition: int) -> list[Tensor]:
        places = self.layout.parts(partition, int(self.slot[partition]))
        return [self.entity[at] for at in places] + [self.squares[at] for at in places]

    def _submit_write(self, partition: int, version: int) -> None:
        parts = self._parts(partition)
        self._writing.append(self._thread.submit(self.files.write, partition, parts, version))

    def _read(self, partition: int, parts: list[Tensor]) -> None:
        if self.files.written(partition):
            self.files.read(partition, parts)
            return
        self._first(partition, parts[: len(parts) // 2])
        for part in parts[len(parts) // 2 :]:
            part.zero_()

    def _raise_failed(self, *, wait: bool) -> None:
        for one in self._writing:
            if wait or one.done():
                one.result()
        self._writing = [one for one in self._writing if not one.done()]

    def __enter__(self) -> HeldPartitions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=error is not None)
