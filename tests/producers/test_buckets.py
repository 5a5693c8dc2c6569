"""Partitions, buckets and their order: every edge in one bucket, every bucket once, few loads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError, SourceError, TrainingError
from provender.producers import edge_streams
from provender.producers.bucket_order import loads, renamed, visits
from provender.producers.buckets import EdgeBuckets, bucket_edges
from provender.producers.edge_streams import EdgeBlock, GraphEdges, ParquetEdges
from provender.producers.partitions import Layout, PartitionFiles, Partitioning
from tests.producers.disk_world import RELATIONS, Relation, planted

Edge = tuple[int, int, int, float]


@dataclass(frozen=True)
class ListedEdges:
    """Edges given one by one, in blocks of three."""

    edges: list[Edge]
    counts: dict[str, int]
    relations: tuple[Relation, ...] = RELATIONS
    fingerprint: str = "listed"

    def blocks(self) -> Iterator[EdgeBlock]:
        for start in range(0, len(self.edges), 3):
            rows = list(zip(*self.edges[start : start + 3], strict=True))
            relation, head, tail = (np.array(column, dtype=np.int64) for column in rows[:3])
            yield EdgeBlock(relation, head, tail, np.array(rows[3], dtype=np.float32))


def _read_back(buckets: EdgeBuckets, bucket: tuple[int, int]) -> Iterator[Edge]:
    deal = buckets.partitioning
    for relation, head, tail, weight in buckets.read(bucket).tolist():
        one = RELATIONS[relation]
        ids = [
            row if entity in deal.whole else row * deal.partitions + partition
            for entity, row, partition in zip(
                (one.head, one.tail), (head, tail), bucket, strict=True
            )
        ]
        yield relation, ids[0], ids[1], weight


@st.composite
def _streams(draw: st.DrawFn) -> ListedEdges:
    counts = {entity: draw(st.integers(1, 12)) for entity in ("user", "pin", "item")}
    edges = []
    for _ in range(draw(st.integers(1, 40))):
        relation = draw(st.integers(0, len(RELATIONS) - 1))
        head, tail = (
            draw(st.integers(0, counts[each] - 1))
            for each in (RELATIONS[relation].head, RELATIONS[relation].tail)
        )
        edges.append((relation, head, tail, draw(st.sampled_from([0.5, 1.0, 2.0]))))
    return ListedEdges(edges, counts)


@settings(max_examples=40, deadline=None)
@given(edges=_streams(), partitions=st.integers(1, 5), whole_below=st.integers(0, 8))
def test_each_edge_is_in_the_bucket_of_its_ends_and_in_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    edges: ListedEdges,
    partitions: int,
    whole_below: int,
) -> None:
    deal = Partitioning.of(edges.counts, partitions, whole_below)
    buckets = bucket_edges(tmp_path_factory.mktemp("edges"), edges, deal)
    found: Counter[Edge] = Counter()
    for p in range(partitions):
        for q in range(partitions):
            own = list(_read_back(buckets, (p, q)))
            found.update(own)
            for relation, head, tail, _ in own:
                one = RELATIONS[relation]
                assert one.head in deal.whole or head % partitions == p
                assert one.tail in deal.whole or tail % partitions == q
    assert found == Counter(edges.edges)
    _degrees_are_right(buckets, edges)
    for relation in range(len(RELATIONS)):
        weights = [weight for which, *_, weight in edges.edges if which == relation] or [1.0]
        assert buckets.mean_weight[relation] == pytest.approx(np.mean(weights))


def _degrees_are_right(buckets: EdgeBuckets, edges: ListedEdges) -> None:
    wanted: Counter[tuple[str, int]] = Counter()
    for relation, head, tail, _ in edges.edges:
        wanted[RELATIONS[relation].head, head] += 1
        wanted[RELATIONS[relation].tail, tail] += 1
    deal, found = buckets.partitioning, {}
    for partition in range(deal.partitions):
        for entity, degrees in buckets.degrees(partition).items():
            for row, degree in enumerate(degrees.tolist()):
                found[entity, row * deal.partitions + partition] = degree
    for entity, degrees in buckets.whole_degrees().items():
        found |= {(entity, each): degree for each, degree in enumerate(degrees.tolist())}
    assert len(found) == sum(edges.counts.values())
    assert +Counter(found) == wanted


def test_buckets_that_stand_are_taken_and_those_of_other_edges_are_not(tmp_path: Path) -> None:
    deal = Partitioning.of({"user": 3, "pin": 3, "item": 3}, 2, 0)
    edges = ListedEdges([(0, 1, 2, 1.0)], dict(deal.counts))
    bucket_edges(tmp_path, edges, deal)
    # The same fingerprint: whatever it would yield now is not read.
    again = bucket_edges(tmp_path, replace(edges, edges=[(0, 9, 9, 1.0)]), deal)
    assert list(_read_back(again, (1, 0))) == [(0, 1, 2, 1.0)]
    other = replace(edges, edges=[(1, 0, 1, 1.0)], fingerprint="other")
    assert list(_read_back(bucket_edges(tmp_path, other, deal), (0, 1))) == [(1, 0, 1, 1.0)]


@pytest.mark.parametrize(
    "edge", [(0, 3, 0, 1.0), (0, 0, -1, 1.0), (3, 0, 0, 1.0), (0, 0, 0, 0.0), (0, 0, 0, math.nan)]
)
def test_an_edge_that_can_not_be_is_refused_by_name(tmp_path: Path, edge: Edge) -> None:
    edges = ListedEdges([(0, 0, 0, 1.0), edge], {"user": 3, "pin": 3, "item": 3})
    expected = f"relation {edge[0]}, head {edge[1]}, tail {edge[2]}, weight {edge[3]} "
    with pytest.raises(TrainingError, match=expected):
        bucket_edges(tmp_path, edges, Partitioning.of(edges.counts, 2, 0))
    assert not (tmp_path / "buckets.json").exists()


def test_a_graph_and_its_parquet_give_the_same_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_streams, "BLOCK", 50)
    graph = planted()
    blocks = list(GraphEdges(graph).blocks())
    assert len(blocks) > 5
    columns = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("relation", "head", "tail", "weight")
    }
    pq.write_table(pa.table(columns), tmp_path / "edges.parquet")
    stream = ParquetEdges([tmp_path / "edges.parquet"], RELATIONS, graph.counts)
    for name, values in columns.items():
        read = np.concatenate([getattr(block, name) for block in stream.blocks()])
        assert np.array_equal(read, values)
    assert columns["head"].max() == graph.counts["user"] - 1
    pq.write_table(pa.table({"head": [1]}), tmp_path / "bad.parquet")
    with pytest.raises(SourceError, match="relation, tail, weight as well"):
        list(replace(stream, paths=[tmp_path / "bad.parquet"]).blocks())


@pytest.mark.parametrize("held", [2, 3, 5])
@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7, 8, 16])
def test_an_epoch_meets_every_pair_once_with_few_loads(partitions: int, held: int) -> None:
    order = visits(partitions, held)
    met = [bucket for visit in order for bucket in visit.buckets]
    assert sorted(met) == [(p, q) for p in range(partitions) for q in range(partitions)]
    for visit in order:
        assert len(set(visit.held)) == len(visit.held) <= held
        assert {p for bucket in visit.buckets for p in bucket} <= set(visit.held)
    # No order needs fewer: each load makes at most held - 1 new pairs meet.
    pairs = partitions * (partitions - 1) / 2
    first = min(partitions, held)
    least = first + math.ceil((pairs - first * (first - 1) / 2) / (held - 1))
    assert least <= loads(order) <= 1.15 * least + 1
    names = np.random.default_rng(0).permutation(partitions).tolist()
    assert loads(renamed(order, names)) == loads(order)


@settings(deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(1, 20), min_size=1),
    partitions=st.integers(1, 6),
    whole_below=st.integers(0, 10),
)
def test_every_entity_has_one_row_and_no_two_share_one(
    counts: dict[str, int], partitions: int, whole_below: int
) -> None:
    deal = Partitioning.of(counts, partitions, whole_below)
    layout = Layout(deal, partitions)
    slices = [at for each in range(partitions) for at in layout.parts(each, each)] + layout.whole()
    rows = [row for at in slices for row in range(at.start, at.stop)]
    assert len(rows) == len(set(rows)) == sum(counts.values())
    assert max(rows) < sum(layout.sizes.values())


def _parts(files: PartitionFiles, partition: int, value: float) -> list[torch.Tensor]:
    rows = [files.partitioning.rows(each, partition) for each in files.partitioning.dealt]
    return [torch.full((n, files.dim), value) for n in rows] + [
        torch.full((n,), -value) for n in rows
    ]


def test_partitions_come_back_as_the_last_commit_has_them(tmp_path: Path) -> None:
    deal = Partitioning.of({"user": 5, "pin": 2}, 2, 0)
    files = PartitionFiles(tmp_path, deal, dim=3)
    for version, value in enumerate([1.0, 2.0]):
        for partition in range(2):
            files.write(partition, _parts(files, partition, value + 10 * partition), version)
    files.sync()
    files.commit()
    named = files.versions.clone()
    files.write(0, _parts(files, 0, 99.0), 2)  # Killed before the next commit, and
    files._path(1, 3).write_bytes(b"half")  # in the middle of a write.
    again = PartitionFiles(tmp_path, deal, dim=3)
    again.restore(named)
    for partition in range(2):
        read = _parts(again, partition, 0.0)
        again.read(partition, read)
        wanted = _parts(again, partition, 2.0 + 10 * partition)
        assert all(torch.equal(a, b) for a, b in zip(read, wanted, strict=True))
    assert len(list(tmp_path.iterdir())) == 2
    users = np.concatenate(list(again.in_order("user")))
    assert users[:, 0].tolist() == [2.0, 12.0, 2.0, 12.0, 2.0]
    again.path(1).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="5 bytes; expected 48 bytes"):
        again.read(1, _parts(again, 1, 0.0))
