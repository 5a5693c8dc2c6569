"""The graph against a slow plain oracle: clusters, cohesion, edges, link clusters and pruning."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.producers.linksage.config import GraphConfig, WalkConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_graph import PageGraph, build_graph
from provender.producers.linksage.page_neighbours import find_neighbours
from provender.producers.linksage.page_tables import PageSet

PAGES, PINS = 40, 60


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


Edge = tuple[str, str, str, str]


class World:
    """Random pages, pins, pairs and boards with string keys, and their files."""

    def __init__(self, folder: Path, seed: int, reverse: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.pages = [f"g{i:03d}" for i in range(PAGES)]
        self.pins = [f"p{i:03d}" for i in range(PINS)]
        self.domains = [None if i % 7 == 0 else f"site{rng.integers(12)}.org" for i in range(PAGES)]
        self.urls = [None if d is None else f"https://{d}/{rng.integers(3)}" for d in self.domains]
        hub = [(pin, 0) for pin in range(0, PINS, 2)] + [(3, page) for page in range(PAGES)]
        some = [(int(rng.integers(PINS)), int(rng.integers(PAGES))) for _ in range(80)]
        self.pairs: list[dict[str, Any]] = [
            {"pin": self.pins[pin], "page": self.pages[page], "kind": kind, "weight": weight,
             "cohesion": None if rng.random() < 0.5 else float(rng.integers(-8, 9)) / 8,
             "edges": kind != "bought", "positives": kind != "viewed"}
            for kind, weight in (("saved", 1.0), ("bought", 4.0), ("viewed", 0.5))
            for pin, page in sorted(set(hub + some)) if rng.random() < 0.6
        ]  # fmt: skip
        self.boards = sorted(
            {(f"b{rng.integers(6)}", self.pins[rng.integers(PINS)]) for _ in range(70)}
        )
        base = unit(rng.normal(size=(PINS // 2, 8)).astype(np.float32))
        self.images = base[rng.integers(0, len(base), PINS)]
        self.images[::11] = 0
        self.texts = unit(rng.normal(size=(PAGES + PINS, 8)).astype(np.float32))
        self.texts[::5] = 0
        self.set = PageSet(folder / f"set{reverse}", folder, {})
        self._write(-1 if reverse else 1)

    def _write(self, step: int) -> None:
        self.set.folder.mkdir()
        nodes = {"key": self.pages, "domain": self.domains, "canonical_url": self.urls}
        kinds = [("pin", pa.string()), ("page", pa.string()), ("kind", pa.string()),
                 ("weight", pa.float32()), ("cohesion", pa.float32()), ("edges", pa.bool_()),
                 ("positives", pa.bool_())]  # fmt: skip
        boards = {"board": [b for b, _ in self.boards], "pin": [p for _, p in self.boards]}
        pq.write_table(pa.table(nodes), self.set.pages)
        pq.write_table(pa.table({"key": self.pins}), self.set.pins)
        pairs = pa.Table.from_pylist(self.pairs[::step], schema=pa.schema(kinds))
        pq.write_table(pairs, self.set.pairs)
        pq.write_table(pa.table(boards), self.set.boards)

    def features(self, targets: np.ndarray[Any, Any] | None = None) -> Features:
        def nodes(keys: list[str], text: Any, images: Any) -> NodeFeatures:
            shown = (images != 0).any(1)
            offsets = np.concatenate([[0], np.cumsum(shown)]).astype(np.int64)
            ones = np.ones(int(shown.sum()), np.float32)
            return NodeFeatures(pa.array(keys), text, images[shown], offsets, ones)

        pages = nodes(self.pages, self.texts[:PAGES], np.zeros((PAGES, 8), np.float32))
        pins = nodes(self.pins, self.texts[PAGES:], self.images)
        return Features(pages, pins, targets)

    def build(self, targets: np.ndarray[Any, Any] | None = None, **config: Any) -> PageGraph:
        return build_graph(self.set, self.features(targets), GraphConfig(**config))


def tie(source: str, target: str) -> int:
    return int.from_bytes(hashlib.md5(f"{source}\x1f{target}".encode()).digest()[:8], "big")


def oracle(world: World, config: GraphConfig) -> tuple[dict[Edge, float], dict[Any, float]]:
    """Edges by type and key of both ends, and positives, from loops over rows."""
    cluster = {}
    for i, key in enumerate(world.pins):
        cluster[key] = key
        for j, other in enumerate(world.pins[:i]):
            same = np.array_equal(world.images[i], world.images[j]) and world.images[i].any()
            if config.near_duplicates is not None and same:
                cluster[key] = cluster[other]
                break
    given: dict[Any, float] = {}
    for row in world.pairs:
        pair = row["pin"], row["page"]
        if row["cohesion"] is not None:
            given[pair] = max(given.get(pair, -9), row["cohesion"])
    edges: dict[Edge, float] = defaultdict(float)
    positives: dict[Any, float] = defaultdict(float)
    for row in world.pairs:
        pin, page = world.pins.index(row["pin"]), world.pages.index(row["page"])
        fit = given.get((row["pin"], row["page"]))
        a, b = world.texts[PAGES + pin], world.texts[page]
        if fit is None and a.any() and b.any():
            fit = float(a.astype(float) @ b.astype(float))
        if config.min_cohesion is not None and fit is not None and fit < config.min_cohesion:
            continue
        if row["edges"]:
            edges["pin", cluster[row["pin"]], "page", row["page"]] += row["weight"]
        if row["positives"]:
            positives[cluster[row["pin"]], row["page"]] += row["weight"]
    for board, pinned in world.boards:
        edges["pin", cluster[pinned], "board", board] += 1
    for kind, names in (("domain", world.domains), ("url", world.urls)):
        for key, name in zip(world.pages, names, strict=True):
            if kind in config.link_clusters and name is not None and names.count(name) > 1:
                edges["page", key, "link", f"{kind} {name}"] += 1
    return pruned(dict(edges), config), dict(positives)


def pruned(edges: dict[Edge, float], config: GraphConfig) -> dict[Edge, float]:
    kept = set(edges)
    for end in (0, 2):
        groups = defaultdict(list)
        for edge in edges:
            groups[edge[0], edge[2], edge[end + 1]].append(edge)
        for (source, target, _), rows in groups.items():
            most = config.max_degree.get((source, target)[end // 2])  # type: ignore[call-overload]
            rows.sort(key=lambda edge: (-edges[edge], tie(edge[1], edge[3])))
            kept -= set(rows[most:] if most is not None else [])
    while True:
        degree = Counter(node for edge in kept for node in (edge[:2], edge[2:]))
        few = {n for n, d in degree.items() if d < config.min_degree.get(n[0], 0)}  # type: ignore[call-overload]
        if not few:
            return {edge: edges[edge] for edge in edges if edge in kept}
        kept = {edge for edge in kept if edge[:2] not in few and edge[2:] not in few}


def edges_of(graph: PageGraph, world: World) -> dict[Edge, float]:
    """The graph's edges by keys; both directions must tell the same."""
    names = {
        "page": world.pages,
        "pin": [
            world.pins[int((graph.cluster == n).nonzero()[0])] for n in range(graph.counts["pin"])
        ],
        "board": sorted({board for board, _ in world.boards}),
        "link": link_names(graph, world),
    }
    told: dict[Any, dict[Edge, float]] = {}
    for (source, target), csr in graph.edges.items():
        assert csr.offsets[0] == 0 and csr.offsets[-1] == len(csr.targets) == len(csr.weights)
        assert len(csr.offsets) == graph.counts[source] + 1
        for node in range(graph.counts[source]):
            span = slice(int(csr.offsets[node]), int(csr.offsets[node + 1]))
            row = csr.targets[span].tolist()
            assert row == sorted(set(row))
            for other, weight in zip(row, csr.weights[span].tolist(), strict=True):
                edge = (source, names[source][node], target, names[target][other])
                told.setdefault((source, target), {})[edge] = weight
    found = {}
    for source, target in (("pin", "page"), ("pin", "board"), ("page", "link")):
        there = told.get((source, target), {})
        back = {(c, d, a, b): w for (a, b, c, d), w in told.get((target, source), {}).items()}
        assert there == back
        found.update(there)
    return found


def link_names(graph: PageGraph, world: World) -> list[str]:
    counts = Counter(f"domain {d}" for d in world.domains if d)
    if graph.counts["link"] > len([n for n, c in counts.items() if c > 1]):
        counts += Counter(f"url {u}" for u in world.urls if u)
    return sorted(name for name, count in counts.items() if count > 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_degree": {}},
        {"max_degree": {}, "near_duplicates": 0.99},
        {"max_degree": {}, "min_cohesion": 0.1},
        {"max_degree": {"page": 4, "pin": 3}, "near_duplicates": 0.99},
        {"max_degree": {"link": 2, "board": 5}, "link_clusters": ("domain", "url")},
        {"max_degree": {"pin": 5}, "min_degree": {"pin": 3, "board": 4, "page": 2}},
        {
            "max_degree": {"page": 0},
            "link_clusters": (),
            "min_cohesion": 0.0,
            "near_duplicates": 0.9,
        },
        {"min_degree": {"page": 99}},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_edges_and_positives(tmp_path: Path, settings: dict[str, Any], seed: int) -> None:
    world = World(tmp_path, seed)
    graph, config = world.build(**settings), GraphConfig(**settings)
    edges, positives = oracle(world, config)
    assert edges_of(graph, world) == pytest.approx(edges)
    first = [world.pins[int((graph.cluster == n).nonzero()[0])] for n in range(graph.counts["pin"])]
    found = zip(graph.positive_pin.tolist(), graph.positive_page.tolist(),
                graph.positive_weight.tolist(), strict=True)  # fmt: skip
    told = {(first[pin], world.pages[page]): weight for pin, page, weight in found}
    assert told == pytest.approx(positives)
    assert len(graph.positive_pin) == len(told)
    json.dumps(graph.report)
    _check_report(graph, world, config)


def _check_report(graph: PageGraph, world: World, config: GraphConfig) -> None:
    whole, _ = oracle(world, config.model_copy(update={"max_degree": {}, "min_degree": {}}))
    after, _ = oracle(world, config)
    kinds = Counter(f"{edge[0]}-{edge[2]}" for edge in whole)
    assert graph.report["edges"]["before"] == kinds
    assert graph.report["edges"]["after min_degree"] == Counter(f"{e[0]}-{e[2]}" for e in after)
    for name, edges in (("before", whole), ("after", after)):
        degree = Counter(node for edge in edges for node in (edge[:2], edge[2:]))
        for kind, told in graph.report["degrees"].items():
            values = sorted(d for node, d in degree.items() if node[0] == kind)
            values = [0] * (graph.counts[kind] - len(values)) + values
            assert told[name]["nodes"] == len(values)
            assert told[name]["isolated"] == values.count(0)
            assert told[name]["mean"] == pytest.approx(np.mean(values))
            assert told[name]["p90"] == np.quantile(values, 0.9, method="inverted_cdf")
            assert told[name]["most"] == values[-1]
            assert sum(told[name]["histogram"].values()) == len(values)


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_degree": {"page": 3, "pin": 3}, "near_duplicates": 0.9}
    one = World(tmp_path, 0).build(**settings)
    other = World(tmp_path, 0, reverse=True).build(**settings)
    for kind, csr in one.edges.items():
        assert csr.targets.tolist() == other.edges[kind].targets.tolist()
        assert csr.weights.tolist() == other.edges[kind].weights.tolist()
    assert one.page_hashes.tolist() == other.page_hashes.tolist()
    assert one.report == other.report


def test_pairs_below_the_cohesion_are_told(tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    report = world.build(min_cohesion=0.1).report
    pairs = {(row["pin"], row["page"]) for row in world.pairs}
    kept = world.build(min_cohesion=-1.0).report["pairs"]
    assert report["pairs"]["pairs"] == len(pairs)
    assert kept["dropped below min_cohesion"] == 0
    assert 0 < report["pairs"]["dropped below min_cohesion"] < len(pairs)
    assert report["pairs"]["cohesion unknown, kept"] == kept["cohesion unknown, kept"] > 0


def test_a_pin_with_a_given_target_stands_for_its_cluster(tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    targets = np.full((PINS, 4), np.nan, np.float32)
    targets[1::2] = 1
    graph = world.build(targets, near_duplicates=0.99)
    plain = world.build(near_duplicates=0.99)
    assert graph.cluster.tolist() == plain.cluster.tolist()
    for node in range(graph.counts["pin"]):
        members = (graph.cluster == node).nonzero().view(-1).tolist()
        with_target = [row for row in members if row % 2]
        assert int(graph.representative[node]) == (with_target or members)[0]
        assert int(plain.representative[node]) == members[0]


def test_hashes_are_of_the_keys(tmp_path: Path) -> None:
    graph = World(tmp_path, 0).build()
    digest = hashlib.md5(b"g003").digest()[:8]
    assert int(graph.page_hashes[3]) == int.from_bytes(digest, "big", signed=True)
    assert len(set(graph.page_hashes.tolist())) == PAGES


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    World(tmp_path, 0).build()
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == []


def test_a_graph_of_nothing(tmp_path: Path) -> None:
    """No pair fits, no board, no site: every node is there, and no edge."""
    world = World(tmp_path, 0)
    for place in (world.set.pairs, world.set.boards):
        pq.write_table(pq.read_table(place).slice(0, 0), place)
    graph = world.build(link_clusters=(), near_duplicates=0.9, min_cohesion=0.5)
    assert graph.counts["page"] == PAGES
    assert graph.counts["board"] == graph.counts["link"] == 0
    assert all(csr.targets.numel() == 0 for csr in graph.edges.values())
    assert all(len(csr.offsets) == graph.counts[kind[0]] + 1 for kind, csr in graph.edges.items())
    assert len(graph.positive_pin) == graph.report["positives"] == 0
    found = find_neighbours(graph, WalkConfig(), 0)
    assert found.offsets.tolist() == [0] * (PAGES + 1)
