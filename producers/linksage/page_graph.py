"""The heterogeneous graph of pages, pins, boards and link clusters, after pruning."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.plugin.files import STAGING
from provender.plugin.tables import literal, open_tables
from provender.producers.linksage.config import GraphConfig
from provender.producers.linksage.near_duplicates import Clusters, find_clusters
from provender.producers.linksage.page_edges import (
    KINDS,
    create_edges,
    create_nodes,
    create_pairs,
    key_hash,
)
from provender.producers.linksage.page_tables import PageSet
from provender.producers.linksage.pruning import prune

if TYPE_CHECKING:
    from provender.producers.linksage.features import Features

Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True, eq=False)
class Csr:
    """Edges from n nodes of one type to nodes of another, sorted by their source.

    `offsets` int64 (n + 1,): the edges of node i are ``targets[offsets[i] : offsets[i + 1]]``.
    `targets` int64 (m,), ascending in a row. `weights` float32 (m,), above zero.
    """

    offsets: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def degrees(self) -> Tensor:
        """Edges of each node: int64 (n,)."""
        return self.offsets.diff()

    def to(self, device: torch.device | str) -> Csr:
        """The same edges on a device."""
        return Csr(self.offsets.to(device), self.targets.to(device), self.weights.to(device))


@dataclass(frozen=True, eq=False)
class PageGraph:
    """Nodes by type and number, and their edges.

    Attributes:
        counts: nodes of `page`, `pin`, `board` and `link`. Pages are numbered as the rows of
            pages.parquet; a pin node is a cluster of near duplicates.
        edges: (source type, target type) -> its edges, both directions of every kind.
        cluster: int64 (raw pins,), the pin node of each row of pins.parquet.
        representative: int64 (pin nodes,), the row of pins.parquet that stands for each: its first
            one, or the first with a given target where there is one.
        positive_pin, positive_page: int64 (p,), nodes of the pairs to learn from, each pair once.
        positive_weight: float32 (p,), the sum of the weights of the pair's rows.
        page_hashes: int64 (pages,), of the pages' keys: what random walks are seeded by.
        report: degrees before and after pruning, sizes of clusters, dropped pairs; JSON-able.
    """

    counts: Mapping[str, int]
    edges: Mapping[tuple[str, str], Csr]
    cluster: Tensor
    representative: Tensor
    positive_pin: Tensor
    positive_page: Tensor
    positive_weight: Tensor
    page_hashes: Tensor
    report: Mapping[str, Any]

    def to(self, device: torch.device | str) -> PageGraph:
        """The same graph on a device, where walks then go over it."""
        moved = {
            one.name: getattr(self, one.name).to(device)
            for one in fields(self)
            if isinstance(getattr(self, one.name), Tensor)
        }
        return replace(self, edges={k: csr.to(device) for k, csr in self.edges.items()}, **moved)


def build_graph(pages: PageSet, features: Features, config: GraphConfig) -> PageGraph:
    """Cluster near duplicates, drop pairs that do not fit and prune, all by `config`.

    DuckDB joins, sums and prunes out of core, with its files beside the page set's folder. Edges
    between two nodes weigh what the rows of their pairs weigh together; boards and link clusters
    1 a pin or page. Ties are broken by hashes of keys, so that the order of rows changes nothing.

    Args:
        pages: as it was read.
        features: of its pages and pins, in the order of its files.
        config: what is kept.

    Raises:
        ConfigError: many pins to be clustered, and faiss is not installed.
    """
    clusters = _clusters(features, config)
    work = pages.folder.parent / STAGING / f"graph.{os.getpid()}"
    try:
        connection = open_tables({}, pages.data, work)
        try:
            return _built(connection, pages, features, config, clusters, work)
        finally:
            connection.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _built(
    connection: Connection,
    pages: PageSet,
    features: Features,
    config: GraphConfig,
    clusters: Clusters,
    work: Path,
) -> PageGraph:
    counts = create_nodes(connection, pages, clusters.labels, config)
    pairs = create_pairs(connection, pages, features, config.min_cohesion, work)
    create_edges(connection)
    pruned = prune(connection, config, counts)
    edges: dict[tuple[str, str], Csr] = {}
    for source, target in KINDS:
        edges[source, target] = _csr(connection, source, target, "a", "b", counts[source])
        edges[target, source] = _csr(connection, source, target, "b", "a", counts[target])
    pin, page, weight = _columns(
        connection,
        "SELECT node, page, sum(weight::DOUBLE)::FLOAT FROM pairs JOIN pin_row r "
        "ON pairs.pin = r.number WHERE positives GROUP BY node, page ORDER BY node, page",
    )
    hash_of = key_hash("CAST(key AS VARCHAR)")
    hashes = _columns(connection, f"SELECT {hash_of} FROM page_node ORDER BY number")[0]
    report = {"nodes": counts, "pairs": pairs, "near_duplicates": clusters.report, **pruned}
    return PageGraph(
        counts={str(kind): count for kind, count in counts.items()},
        edges=edges,
        cluster=torch.from_numpy(clusters.labels),
        representative=torch.from_numpy(_representatives(clusters.labels, features.targets)),
        positive_pin=torch.from_numpy(pin),
        positive_page=torch.from_numpy(page),
        positive_weight=torch.from_numpy(weight),
        page_hashes=torch.from_numpy(hashes.view(np.int64)),
        report=report | {"positives": len(pin)},
    )


def _clusters(features: Features, config: GraphConfig) -> Clusters:
    """Clusters by pins' mean images, by their texts where no pin has an image."""
    pins = features.pins
    if config.near_duplicates is None:
        return Clusters(np.arange(len(pins.keys)), {"threshold": None})
    of_images = bool(pins.images.shape[1]) and len(pins.images) > 0
    found = find_clusters(pins.mean_images() if of_images else pins.text, config.near_duplicates)
    return Clusters(found.labels, found.report | {"of": "images" if of_images else "text"})


def _representatives(
    labels: NDArray[np.int64], targets: NDArray[np.float32] | None
) -> NDArray[np.int64]:
    """The first row of each cluster; rows without a given target come after those with one."""
    rows = np.arange(len(labels))
    lacks = np.zeros(len(labels), bool) if targets is None else np.isnan(targets).any(axis=1)
    order = np.lexsort((rows, lacks, labels))
    first = np.diff(labels[order], prepend=-1) != 0
    rows_kept: NDArray[np.int64] = order[first].astype(np.int64)
    return rows_kept


def _csr(connection: Connection, source: str, target: str, own: str, other: str, nodes: int) -> Csr:
    owners, targets, weights = _columns(
        connection,
        f"SELECT {own}, {other}, weight::FLOAT FROM edges WHERE source = {literal(source)} "
        f"AND target = {literal(target)} ORDER BY {own}, {other}",
    )
    offsets = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=nodes), out=offsets[1:])
    return Csr(*(torch.from_numpy(array) for array in (offsets, targets, weights)))


def _columns(connection: Connection, select: str) -> list[NDArray[Any]]:
    """The columns of numbers of a query, in its order."""
    return [
        np.array(column.to_numpy()) for column in connection.sql(select).to_arrow_table().columns
    ]
