"""Edges that come in blocks, because they are in a graph or in files larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from provender.plugin.errors import SourceError
from provender.producers.graph import RelationType, TripleGraph

#: Edges a block, at most.
BLOCK = 2**21
_COLUMNS = ("relation", "head", "tail", "weight")


@dataclass(frozen=True, eq=False)
class EdgeBlock:
    """`relation`, `head` and `tail` int64 (n,), the ids those within their type; `weight` (n,)."""

    relation: NDArray[np.int64]
    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    weight: NDArray[np.float32]


class EdgeStream(Protocol):
    """Edges with each (relation, head, tail) once, that can be read again and come out the same."""

    @property
    def relations(self) -> Sequence[RelationType]:
        """What the positions in `EdgeBlock.relation` mean."""

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of entities of each type."""

    @property
    def fingerprint(self) -> str:
        """The same for streams of the same edges, and no other's."""

    def blocks(self) -> Iterator[EdgeBlock]:
        """All edges, a block at a time."""


@dataclass(frozen=True, eq=False)
class GraphEdges:
    """The edges of a graph in memory."""

    graph: TripleGraph

    @property
    def relations(self) -> Sequence[RelationType]:
        """The graph's."""
        return self.graph.relations

    @property
    def counts(self) -> Mapping[str, int]:
        """The graph's."""
        return self.graph.counts

    @property
    def fingerprint(self) -> str:
        """The graph's."""
        return self.graph.fingerprint

    def blocks(self) -> Iterator[EdgeBlock]:
        """All edges in the graph's order."""
        graph, offsets = self.graph, self.graph.offsets
        heads = np.array([offsets[one.head] for one in graph.relations], dtype=np.int64)
        tails = np.array([offsets[one.tail] for one in graph.relations], dtype=np.int64)
        for start in range(0, graph.edges, BLOCK):
            of = slice(start, start + BLOCK)
            relation = graph.relation[of].numpy()
            yield EdgeBlock(
                relation,
                graph.head[of].numpy() - heads[relation],
                graph.tail[of].numpy() - tails[relation],
                graph.weight[of].numpy(),
            )


@dataclass(frozen=True, eq=False)
class ParquetEdges:
    """Edges in Parquet files with the columns relation, head, tail (integers) and weight."""

    paths: Sequence[Path]
    relations: Sequence[RelationType]
    counts: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """By the files' names, sizes and times: reading them all would take as long as training."""
        digest = hashlib.sha256(repr([*self.counts.items()]).encode())
        for one in self.relations:
            digest.update(f"{one.name}\0{one.head}\0{one.tail}\0".encode())
        for path in self.paths:
            about = path.stat()
            digest.update(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def blocks(self) -> Iterator[EdgeBlock]:
        """All edges, file after file; raises SourceError for files without the columns."""
        files = ds.dataset([str(path) for path in self.paths], format="parquet")
        if missing := set(_COLUMNS) - set(files.schema.names):
            raise SourceError(
                f"edges in {self.paths[0]}",
                found=f"the columns {', '.join(files.schema.names)}",
                expected=f"{', '.join(sorted(missing))} as well",
                remedy="Write one row an edge, with ids counted from 0 within each entity type.",
            )
        batches = files.to_batches(
            columns=list(_COLUMNS), batch_size=BLOCK, batch_readahead=1, fragment_readahead=1
        )
        for batch in batches:
            relation, head, tail = (
                batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64)
                for name in _COLUMNS[:3]
            )
            weight = batch.column("weight").to_numpy(zero_copy_only=False).astype(np.float32)
            yield EdgeBlock(relation, head, tail, weight)
