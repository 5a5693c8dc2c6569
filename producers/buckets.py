"""Edges on disk, sorted by the partitions of their ends, and how often each entity occurs.

Bucketing reads the stream twice and sorts by counting, so that its memory is a block of edges,
whatever their number: the first pass counts the edges of each bucket, which says where it begins
in the one file; the second puts each edge behind the last one of its bucket. Within a bucket edges
stay in the order of the stream. Degrees are counted partition by partition from the finished file.

An edge between a dealt and a whole type is in the bucket (p, p) of the dealt end's partition.

Legend of shapes: E edges, R relations, P partitions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provender.plugin.errors import TrainingError
from provender.plugin.files import sync, write_whole
from provender.producers.edge_streams import EdgeBlock, EdgeStream
from provender.producers.graph import RelationType
from provender.producers.partitions import Partitioning

Ints = NDArray[np.int64]
Degrees = NDArray[np.int32]
#: `head` and `tail` are rows within their type and partition; ids within their type if it is whole.
EDGE = np.dtype([("relation", "<i4"), ("head", "<i4"), ("tail", "<i4"), ("weight", "<f4")])


@dataclass(frozen=True, eq=False)
class EdgeBuckets:
    """Bucketed edges in a folder.

    Attributes:
        folder: where `edges.bin` and the degrees are.
        relations: of the stream.
        partitioning: what the edges were bucketed by.
        counts: int64 (P, P, R), the edges of each bucket and relation.
        mean_weight: float64 (R,), of the edges of each relation; 1 where it has none.
    """

    folder: Path
    relations: Sequence[RelationType]
    partitioning: Partitioning
    counts: Ints
    mean_weight: NDArray[np.float64]

    @property
    def edges(self) -> int:
        """E."""
        return int(self.counts.sum())

    def read(self, bucket: tuple[int, int]) -> NDArray[Any]:
        """The edges of one bucket, of dtype EDGE."""
        sizes = self.counts.sum(axis=2).reshape(-1)
        index = bucket[0] * self.partitioning.partitions + bucket[1]
        start = int(sizes[:index].sum())
        return np.fromfile(
            self.folder / "edges.bin", EDGE, int(sizes[index]), offset=start * EDGE.itemsize
        )

    def degrees(self, partition: int) -> dict[str, Degrees]:
        """How often each entity of a partition is an end of an edge, by dealt type."""
        before = sum(self.partitioning.size(each) for each in range(partition))
        dealt, rows = self.partitioning.dealt, self.partitioning.rows
        return self._degrees(before, {entity: rows(entity, partition) for entity in dealt})

    def whole_degrees(self) -> dict[str, Degrees]:
        """The same of the whole types."""
        deal = self.partitioning
        before = sum(deal.size(each) for each in range(deal.partitions))
        return self._degrees(before, {one: deal.counts[one] for one in sorted(deal.whole)})

    def _degrees(self, start: int, sizes: Mapping[str, int]) -> dict[str, Degrees]:
        path, count = self.folder / "degrees.i32", sum(sizes.values())
        flat = np.fromfile(path, np.int32, count, offset=4 * start)
        ends = np.cumsum(list(sizes.values()))
        return dict(zip(sizes, np.split(flat, ends[:-1]), strict=True)) if sizes else {}


def bucket_edges(folder: Path, edges: EdgeStream, partitioning: Partitioning) -> EdgeBuckets:
    """Bucket a stream into a folder; what stands there already from the same stream is taken.

    Raises TrainingError for ids that their types do not have, and for weights not above zero.
    """
    about = {
        "stream": edges.fingerprint,
        "partitions": partitioning.partitions,
        "whole": sorted(partitioning.whole),
    }
    counts, means = folder / "counts.npy", folder / "mean_weight.npy"
    done = folder / "buckets.json"
    if not done.is_file() or json.loads(done.read_bytes()) != about:
        done.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        _Bucketing(folder, edges, partitioning).run()
        write_whole(done, json.dumps(about, indent=1).encode())
    return EdgeBuckets(folder, edges.relations, partitioning, np.load(counts), np.load(means))


class _Bucketing:
    """The passes over one stream."""

    def __init__(self, folder: Path, edges: EdgeStream, partitioning: Partitioning) -> None:
        self.folder, self.edges, self.partitioning = folder, edges, partitioning
        whole, known = partitioning.whole, partitioning.counts
        self.head_whole = np.array([one.head in whole for one in edges.relations])
        self.tail_whole = np.array([one.tail in whole for one in edges.relations])
        self.heads = np.array([known[one.head] for one in edges.relations])
        self.tails = np.array([known[one.tail] for one in edges.relations])

    def run(self) -> None:
        """Write edges, counts, means and degrees, and see them on disk."""
        counts, means, whole = self._count()
        np.save(self.folder / "counts.npy", counts)
        np.save(self.folder / "mean_weight.npy", means)
        self._scatter(counts.sum(axis=2).reshape(-1))
        buckets = EdgeBuckets(self.folder, self.edges.relations, self.partitioning, counts, means)
        with (self.folder / "degrees.i32").open("wb") as file:
            for partition in range(self.partitioning.partitions):
                for degree in self._degrees(buckets, partition).values():
                    degree.tofile(file)
            for entity in sorted(whole):
                whole[entity].tofile(file)
        for path in self.folder.iterdir():
            sync(path)

    def _count(self) -> tuple[Ints, NDArray[np.float64], dict[str, Degrees]]:
        """The first pass: edges a bucket, mean weights, and the degrees of the whole types."""
        partitions, relations = self.partitioning.partitions, len(self.edges.relations)
        counts = np.zeros(partitions**2 * relations, dtype=np.int64)
        sums = np.zeros(relations)
        degrees = {
            entity: np.zeros(self.partitioning.counts[entity], np.int32)
            for entity in self.partitioning.whole
        }
        for block in self.edges.blocks():
            self._check(block)
            bucket, _ = self._place(block)
            counts += np.bincount(bucket * relations + block.relation, minlength=len(counts))
            sums += [
                block.weight[block.relation == each].sum(dtype=np.float64)
                for each in range(relations)
            ]
            for entity, degree in degrees.items():
                degree += self._occurrences(block, entity)
        shaped = counts.reshape(partitions, partitions, relations)
        edges = shaped.sum(axis=(0, 1))
        return shaped, np.where(edges > 0, sums / np.maximum(edges, 1), 1.0), degrees

    def _scatter(self, sizes: Ints) -> None:
        """The second pass: each edge behind the last one of its bucket."""
        cursor = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        descriptor = os.open(self.folder / "edges.bin", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for block in self.edges.blocks():
                bucket, records = self._place(block)
                order = np.argsort(bucket, kind="stable")
                sorted_records = records[order]
                found, counts = np.unique(bucket, return_counts=True)
                start = 0
                for which, count in zip(found.tolist(), counts.tolist(), strict=True):
                    data = sorted_records[start : start + count].tobytes()
                    os.pwrite(descriptor, data, int(cursor[which]) * EDGE.itemsize)
                    cursor[which] += count
                    start += count
        finally:
            os.close(descriptor)

    def _place(self, block: EdgeBlock) -> tuple[Ints, NDArray[Any]]:
        """The bucket p * P + q of each edge, and the edges as they lie in it."""
        partitions = self.partitioning.partitions
        head_whole, tail_whole = self.head_whole[block.relation], self.tail_whole[block.relation]
        head, tail = block.head % partitions, block.tail % partitions
        head = np.where(head_whole & ~tail_whole, tail, head)
        tail = np.where(tail_whole, head, tail)
        records = np.empty(len(block.relation), dtype=EDGE)
        records["relation"] = block.relation
        records["head"] = np.where(head_whole, block.head, block.head // partitions)
        records["tail"] = np.where(tail_whole, block.tail, block.tail // partitions)
        records["weight"] = block.weight
        return head * partitions + tail, records

    def _check(self, block: EdgeBlock) -> None:
        relation = block.relation
        bad = (relation < 0) | (relation >= len(self.edges.relations))
        self._refuse(block, bad, f"relations from 0 to {len(self.edges.relations) - 1}")
        bad = (block.head < 0) | (block.head >= self.heads[relation])
        bad |= (block.tail < 0) | (block.tail >= self.tails[relation])
        self._refuse(block, bad, "ids from 0 to below the number of their type's entities")
        self._refuse(block, ~(np.isfinite(block.weight) & (block.weight > 0)), "weights above 0")

    def _refuse(self, block: EdgeBlock, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            raise TrainingError(
                "edges",
                found=f"relation {block.relation[at]}, head {block.head[at]}, tail "
                f"{block.tail[at]}, weight {block.weight[at]} ({int(bad.sum())} such in its block)",
                expected=expected,
                remedy="Correct the edges, or the counts of the entities.",
            )

    def _occurrences(self, block: EdgeBlock, entity: str) -> Degrees:
        total = np.zeros(self.partitioning.counts[entity], np.int32)
        for index, one in enumerate(self.edges.relations):
            of = block.relation == index
            for ids, kind in ((block.head, one.head), (block.tail, one.tail)):
                if kind == entity:
                    total += np.bincount(ids[of], minlength=len(total)).astype(np.int32)
        return total

    def _degrees(self, buckets: EdgeBuckets, partition: int) -> dict[str, Degrees]:
        """The degrees of a partition's rows, by dealt type."""
        dealt = self.partitioning.dealt
        degrees = {one: np.zeros(self.partitioning.rows(one, partition), np.int32) for one in dealt}
        for other in range(self.partitioning.partitions):
            self._add(degrees, buckets.read((partition, other)), "head")
            self._add(degrees, buckets.read((other, partition)), "tail")
        return degrees

    def _add(self, degrees: dict[str, Degrees], edges: NDArray[Any], end: str) -> None:
        for index, one in enumerate(self.edges.relations):
            entity = one.head if end == "head" else one.tail
            if entity in degrees:
                rows = edges[end][edges["relation"] == index]
                degrees[entity] += np.bincount(rows, minlength=len(degrees[entity])).astype(
                    np.int32
                )
