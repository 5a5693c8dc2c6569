"""A table of entities larger than memory: which rows a partition has, and its files.

Every entity type is dealt out over P partitions like cards: the entity with id i within its type is
row i // P of partition i mod P. So partitions are alike in size and in popularity, whatever the
order of the keys, and no table of who is where is needed. Types of few entities are not dealt out:
they stay in memory as a whole, as PyTorch-BigGraph keeps types with one partition (Lerer et al.
2019, section 4.1).

A partition's file is raw little-endian float32: the vectors of all dealt types, one type after the
other, then Adagrad's sums in the same order. Every change of it is a new file beside the old one,
under a version number; which versions belong together is the checkpoint's to say. What a killed run
leaves, whole or in part, no checkpoint names, and `PartitionFiles` removes it. Files are synced
when a checkpoint is about to name them: many are replaced before they would have reached the disk.

Legend of shapes: N entities, d dims, P partitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.plugin.errors import CheckpointError
from provender.plugin.files import sync

Rows = NDArray[np.float32]
#: Rows that pass at once between a file and a device that files cannot be read into.
_BLOCK = 2**15


@dataclass(frozen=True)
class Partitioning:
    """How the entities of each type are dealt out; `whole` types are not."""

    counts: Mapping[str, int]
    partitions: int
    whole: frozenset[str]

    @classmethod
    def of(cls, counts: Mapping[str, int], partitions: int, whole_below: int) -> Partitioning:
        """Deal out every type that has at least `whole_below` entities."""
        small = {entity for entity, count in counts.items() if count < whole_below}
        return cls(dict(counts), partitions, frozenset(small if partitions > 1 else ()))

    @property
    def dealt(self) -> list[str]:
        """The entity types that are dealt out, in order."""
        return [entity for entity in self.counts if entity not in self.whole]

    def rows(self, entity: str, partition: int) -> int:
        """How many entities of a dealt type a partition has."""
        return (self.counts[entity] + self.partitions - 1 - partition) // self.partitions

    def ids(self, entity: str, partition: int) -> NDArray[np.int64]:
        """Which entities of a dealt type a partition has, by row: their ids within the type."""
        return np.arange(partition, self.counts[entity], self.partitions)

    def size(self, partition: int) -> int:
        """How many rows a partition has."""
        return sum(self.rows(entity, partition) for entity in self.dealt)


@dataclass(frozen=True)
class Layout:
    """Where rows lie in a table in memory that has room for `slots` partitions.

    The rows of one type lie together: those of slot 0, of slot 1 and so on; a whole type has all of
    its rows once. With one partition and one slot this is the order of global ids.
    """

    partitioning: Partitioning
    slots: int

    def stride(self, entity: str) -> int:
        """The rows that a slot has for a type; those of a whole type."""
        if entity in self.partitioning.whole:
            return self.partitioning.counts[entity]
        return self.partitioning.rows(entity, 0)

    @property
    def sizes(self) -> dict[str, int]:
        """The rows of each type in all slots."""
        whole = self.partitioning.whole
        return {
            entity: self.stride(entity) * (1 if entity in whole else self.slots)
            for entity in self.partitioning.counts
        }

    def start(self, entity: str, slot: int) -> int:
        """Where a type's rows of a slot begin; for a whole type, of every slot."""
        before = 0
        for other, size in self.sizes.items():
            if other == entity:
                break
            before += size
        return before if entity in self.partitioning.whole else before + slot * self.stride(entity)

    def parts(self, partition: int, slot: int) -> list[slice]:
        """Where the rows of a partition lie when it is in a slot, a slice for each dealt type."""
        rows = self.partitioning.rows
        starts = {entity: self.start(entity, slot) for entity in self.partitioning.dealt}
        return [slice(at, at + rows(entity, partition)) for entity, at in starts.items()]

    def whole(self) -> list[slice]:
        """Where the rows of the whole types lie."""
        counts = self.partitioning.counts
        starts = {entity: self.start(entity, 0) for entity in counts}
        whole = [entity for entity in counts if entity in self.partitioning.whole]
        return [slice(starts[entity], starts[entity] + counts[entity]) for entity in whole]


class PartitionFiles:
    """The files of P partitions in one folder, and which version of each is the newest.

    `versions` int64 (P,) is -1 where a partition was never written.
    """

    def __init__(self, folder: Path, partitioning: Partitioning, dim: int) -> None:
        self.folder, self.partitioning, self.dim = folder, partitioning, dim
        self.versions = torch.full((partitioning.partitions,), -1, dtype=torch.int64)
        self._committed = self.versions.clone()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, partition: int) -> Path:
        """Where the newest version of a partition lies."""
        return self._path(partition, int(self.versions[partition]))

    def written(self, partition: int) -> bool:
        """Whether a partition has a file."""
        return int(self.versions[partition]) >= 0

    def write(self, partition: int, parts: Sequence[Tensor], version: int) -> None:
        """Write the parts, vectors then sums, as a new version."""
        with FileIO(self._path(partition, version), "w") as file:
            for part in parts:
                write_rows(file, part)
        former = int(self.versions[partition])
        self.versions[partition] = version
        if former != int(self._committed[partition]):
            self._path(partition, former).unlink(missing_ok=True)

    def read(self, partition: int, parts: Sequence[Tensor]) -> None:
        """Read the newest version into the parts.

        Raises CheckpointError where it is not there as it was written.
        """
        with FileIO(self._found(partition)) as file:
            for part in parts:
                _read(file, part)

    def mapped(self, partition: int) -> tuple[list[Rows], list[Rows]]:
        """The vectors (m, d) and the sums (m,) of each dealt type, read when they are looked at."""
        deal = self.partitioning
        counts = [deal.rows(each, partition) for each in deal.dealt]
        ends, total = np.cumsum(counts)[:-1], sum(counts)
        if not total:
            nothing = np.zeros((0, self.dim), np.float32)
            return [nothing for _ in counts], [nothing[:, 0] for _ in counts]
        flat = np.memmap(self._found(partition), "<f4", "r")
        vectors, sums = flat[: total * self.dim].reshape(total, self.dim), flat[total * self.dim :]
        return np.split(vectors, ends), np.split(sums, ends)

    def in_order(self, entity: str) -> Iterator[Rows]:
        """The vectors of a dealt type in the order of ids, a block (b, d) at a time."""
        deal, which = self.partitioning, self.partitioning.dealt.index(entity)
        mapped = [self.mapped(partition)[0][which] for partition in range(deal.partitions)]
        step = max(1, _BLOCK // deal.partitions)
        for start in range(0, deal.rows(entity, 0), step):
            parts = [rows[start : start + step] for rows in mapped]
            block = np.empty((sum(map(len, parts)), self.dim), dtype=np.float32)
            for partition, part in enumerate(parts):
                block[partition :: deal.partitions] = part
            yield block

    def sync(self) -> None:
        """Make the newest versions outlast a loss of power, so that a checkpoint can name them."""
        for each in torch.nonzero(self.versions != self._committed).flatten().tolist():
            sync(self.path(each))
        sync(self.folder)

    def commit(self) -> None:
        """Forget what no checkpoint needs, once one that names the newest versions is whole."""
        self._committed = self.versions.clone()
        kept = {self.path(each) for each in range(len(self.versions)) if self.written(each)}
        for path in self.folder.glob("partition-*"):
            if path not in kept:
                path.unlink()

    def restore(self, versions: Tensor) -> None:
        """Take up the versions of a checkpoint; all other files go."""
        self.versions = versions.clone()
        self.commit()

    def _path(self, partition: int, version: int) -> Path:
        return self.folder / f"partition-{partition:05d}-{version:010d}.f32"

    def _found(self, partition: int) -> Path:
        """The newest version's path; CheckpointError where it is not there as it was written."""
        path = self.path(partition)
        found = path.stat().st_size if path.is_file() else None
        if found != self._bytes(partition):
            raise CheckpointError(
                str(path),
                found="no such file" if found is None else f"{found} bytes",
                expected=f"{self._bytes(partition)} bytes, as the checkpoint says",
                remedy="Delete the folder to train from the beginning.",
            )
        return path

    def _bytes(self, partition: int) -> int:
        return 4 * (self.dim + 1) * self.partitioning.size(partition)


def write_rows(file: FileIO, part: Tensor) -> None:
    """Append a tensor to an unbuffered file."""
    for block in part.split(_BLOCK):
        data = _octets(block.cpu()) if len(block) else memoryview(b"")
        while data:  # A raw file may take less than all.
            data = data[file.write(data) :]


def _read(file: FileIO, part: Tensor) -> None:
    for block in part.split(_BLOCK):
        if not len(block):
            continue
        host = block if block.device.type == "cpu" else torch.empty_like(block, device="cpu")
        data = _octets(host)
        while data:
            count = file.readinto(data)
            if not count:
                raise EOFError(f"{file.name} has become shorter")
            data = data[count:]
        if host is not block:
            block.copy_(host)


def _octets(block: Tensor) -> memoryview:
    """The bytes of a tensor of CPU memory, in place."""
    values: NDArray[Any] = block.numpy()
    return memoryview(values.data).cast("B")
