"""What a training from disk takes of its parent: first rows, and anchors beside the table.

The parent's vectors are dealt out as the table is, into files of their own, so that at each visit
those of the partitions in memory lie in the same places as the rows that they hold. A row that the
parent knows starts there; a new one at the mean of its known neighbours, as in memory. One pass
over all visits, before the first epoch, sums those neighbours up.

Legend of shapes: d dims, P partitions, n rows of the table in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.producers.bucket_order import Visit
from provender.producers.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from provender.producers.graph import TripleGraph
from provender.producers.held_partitions import HeldPartitions
from provender.producers.mapped_rows import BLOCK
from provender.producers.partitions import PartitionFiles, Rows
from provender.producers.visit_sources import VisitSources
from provender.producers.warm_start import Parent, Reference, align

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Former:
    """A parent, and the keys of today's entities by type, in the order of their ids."""

    parent: Parent
    keys: Mapping[str, pa.Array[Any]]


class FormerPartitions:
    """A parent in partitions; raises ConfigError where it does not fit.

    Attributes:
        known: files of the parent's vectors and, in the place of sums, 1 for whom it knows.
    """

    def __init__(
        self, folder: Path, former: Former, sources: VisitSources, order: Sequence[Visit], mark: str
    ) -> None:
        self._former, self._sources = former, sources
        self._deal, dim = sources.buckets.partitioning, sources.config.dim
        self.known = PartitionFiles(folder / "known", self._deal, dim)
        self._near = PartitionFiles(folder / "near", self._deal, dim)
        whole = [each for each in self._deal.counts if each in self._deal.whole]
        self._whole = [self._align({each: former.keys[each]}) for each in whole]
        found = load_checkpoint(folder / "checkpoints", mark)
        held = dict(found.tensors) if found else self._prepare(order)
        self.known.restore(held["known"])
        self._near.restore(held["near"])
        self._whole_near = [
            (held[f"total/{index}"], held[f"weight/{index}"]) for index in range(len(whole))
        ]
        if found is None:
            save_checkpoint(folder / "checkpoints", mark, Checkpoint(Position(0, 0, 0), held))

    def held(self, device: torch.device) -> HeldPartitions:
        """The parent's vectors beside the table; `squares` is 1 for whom it knows."""
        held = HeldPartitions(self.known, self._sources.layout, device, _never)
        for at, one in zip(self._sources.layout.whole(), self._whole, strict=True):
            held.entity[at], held.squares[at] = one.vectors, one.known
        return held

    def start(self, partition: int, parts: Sequence[Tensor]) -> None:
        """Put first vectors into tensors (m, d) of random ones, one for each dealt type."""
        known, near = self.known.mapped(partition), self._near.mapped(partition)
        for rows, vectors, is_known, total, weight in zip(parts, *known, *near, strict=True):
            _start(rows, vectors, is_known, total, weight)

    def start_whole(self, parts: Sequence[Tensor]) -> None:
        """The same for the types that are not dealt out."""
        for rows, one, (total, weight) in zip(parts, self._whole, self._whole_near, strict=True):
            beside = (one.vectors, one.known.float(), total, weight)
            _start(rows, *(each.numpy() for each in beside))

    def _prepare(self, order: Sequence[Visit]) -> dict[str, Tensor]:
        """Deal the parent out and sum up neighbours; returns what is to be remembered of it."""
        keys = self._former.keys
        for partition in range(self._deal.partitions):
            mine = {
                each: keys[each].take(pa.array(self._deal.ids(each, partition)))
                for each in self._deal.dealt
            }
            one = self._align(mine)
            self.known.write(partition, [one.vectors, one.known.float()], version=0)
        near = self._sum_neighbours(order)
        self.known.sync()
        self._near.sync()
        held = {"known": self.known.versions, "near": self._near.versions}
        for index, at in enumerate(self._sources.layout.whole()):
            # Clones: a slice would keep the whole table.
            held |= {
                f"total/{index}": near.entity[at].clone(),
                f"weight/{index}": near.squares[at].clone(),
            }
        return held

    def _align(self, keys: Mapping[str, pa.Array[Any]]) -> Reference:
        """The parent's vectors of some entities."""
        nothing = torch.zeros(0, dtype=torch.int64)
        some = TripleGraph((), keys, nothing, nothing, nothing, nothing.float())
        return align(some, self._sources.config.dim, self._former.parent)

    def _sum_neighbours(self, order: Sequence[Visit]) -> HeldPartitions:
        """Sum up, for who is new, the vectors of known neighbours and the edges' weights."""
        with (
            self.held(_CPU) as known,
            HeldPartitions(self._near, self._sources.layout, _CPU, _zero) as near,
        ):
            for turn, visit in enumerate(order):
                known.hold(visit.held, version=None)
                near.hold(visit.held, version=turn)
                if turn + 1 < len(order):
                    known.read_ahead(order[turn + 1].held)
                    near.read_ahead(order[turn + 1].held)
                graph = self._sources.graph(visit, near.slot)
                is_known = known.squares > 0
                for new, old in ((graph.head, graph.tail), (graph.tail, graph.head)):
                    for edge in (is_known[old] & ~is_known[new]).nonzero()[:, 0].split(BLOCK):
                        weight = graph.weight[edge]
                        vectors = known.entity.index_select(0, old[edge]) * weight.unsqueeze(1)
                        near.entity.index_add_(0, new[edge], vectors)
                        near.squares.index_add_(0, new[edge], weight)
            near.flush(version=len(order))
        return near


def _start(rows: Tensor, vectors: Rows, known: Rows, total: Rows, weight: Rows) -> None:
    """Let random rows (m, d) begin where the parent, or their neighbours, are; in blocks."""
    for start in range(0, len(rows), BLOCK):
        of = slice(start, start + BLOCK)
        own = rows[of].cpu()
        # Copies: what is mapped from a file can't be written to, which torch wants to be sure of.
        former, is_known, sums, weights = (
            torch.from_numpy(np.array(one[of])) for one in (vectors, known, total, weight)
        )
        new = weights > 0
        own[new] = sums[new].div_(weights[new].unsqueeze(1)).add_(own[new], alpha=0.1)
        own[is_known > 0] = former[is_known > 0]
        rows[of] = own


def _never(partition: int, parts: Sequence[Tensor]) -> None:
    raise AssertionError(f"partition {partition} of the parent was not written")


def _zero(_: int, parts: Sequence[Tensor]) -> None:
    for part in parts:
        part.zero_()
