"""Pages and pins of planted topics: a page's text tells little, its neighbours' nearly all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.vectors import unit

TEXT, IMAGE, DIM = 12, 6, 16


@dataclass(frozen=True, eq=False)
class Planted:
    """Everything that training reads, and pairs (page, raw pin) that it does not."""

    features: Features
    graph: PageGraph
    neighbours: Neighbours
    held_out: NDArray[np.int64]  # (t, 2)


def planted(pages: int = 60, pins: int = 90, topics: int = 6, seed: int = 0) -> Planted:
    """Each page has 6 pins of its topic, one of them held out, and those of its topic around it.

    The last third of the pins are near duplicates of the first: clusters of two.
    """
    rng = np.random.default_rng(seed)
    of_page, of_pin = np.arange(pages) % topics, np.arange(pins) % topics
    nodes = pins * 2 // 3
    cluster = np.where(np.arange(pins) < nodes, np.arange(pins), np.arange(pins) - nodes)
    of_pin = of_pin[cluster]
    centres = rng.normal(size=(topics, DIM))
    targets = unit((centres[of_pin] + 0.4 * rng.normal(size=(pins, DIM))).astype(np.float32))
    features = Features(
        _shown(rng, of_page, topics, noise=2.5),
        _shown(rng, of_pin, topics, noise=0.8),
        targets,
    )
    pairs = [
        (page, pin)
        for page in range(pages)
        for pin in rng.choice(np.flatnonzero(of_pin[:nodes] == of_page[page]), 6, replace=False)
    ]
    held_out, learned = np.array(pairs[::6]), np.delete(np.array(pairs), np.s_[::6], axis=0)
    page, pin = torch.from_numpy(learned.astype(np.int64)).T.contiguous()
    graph = PageGraph(
        counts={"page": pages, "pin": nodes, "board": 0, "link": 0},
        edges={},
        cluster=torch.from_numpy(cluster),
        representative=torch.arange(nodes),
        positive_pin=pin,
        positive_page=page,
        positive_weight=torch.ones(len(page)),
        page_hashes=torch.arange(pages),
        report={},
    )
    return Planted(features, graph, around(graph, rng), held_out)


def around(graph: PageGraph, rng: np.random.Generator) -> Neighbours:
    """Each page's own pins and some pages that share one; none for every tenth page."""
    page, pin = graph.positive_page, graph.positive_pin
    offsets, types, nodes, visits = [0], [], [], []
    for one in range(graph.counts["page"]):
        own = pin[page == one]
        others = page[torch.isin(pin, own) & (page != one)].unique()[:4]
        found = [(0, int(each)) for each in own] + [(1, int(each)) for each in others]
        found = [] if one % 10 == 9 else found
        counts = sorted(rng.integers(1, 60, len(found)).tolist(), reverse=True)
        order = rng.permutation(len(found))
        types += [found[i][0] for i in order]
        nodes += [found[i][1] for i in order]
        visits += counts
        offsets.append(len(nodes))
    return Neighbours(
        torch.tensor(offsets),
        torch.tensor(types, dtype=torch.uint8),
        torch.tensor(nodes),
        torch.tensor(visits, dtype=torch.int32),
        torch.bincount(page, minlength=graph.counts["page"]),
    )


def small(**sections: dict[str, Any]) -> LinkSageConfig:
    """A configuration that trains in a second or two, with some values changed by section."""
    model = {"dim": DIM, "nested_dims": (4, 8), "width": 16, "heads": 2, "feedforward": 32}
    training = {"epochs": 3, "batch_size": 32, "negatives": 24, "checkpoint_minutes": 5.0}
    return LinkSageConfig.parse(
        {
            "model": {**model, "neighbours": 8, "dropout": 0.1, **sections.get("model", {})},
            "training": {**training, "learning_rate": 3e-3, **sections.get("training", {})},
        }
    )


def recall(
    pages: NDArray[np.float32], pins: NDArray[np.float32], planted: Planted, k: int
) -> float:
    """How many of the held out pins are among their page's k nearest that it has not trained on."""
    nodes = pins[planted.graph.representative.numpy()]
    scores = pages @ nodes.T
    scores[planted.graph.positive_page, planted.graph.positive_pin] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :k]
    return float(np.mean([pin in best[page] for page, pin in planted.held_out]))


def _shown(rng: np.random.Generator, of: NDArray[Any], topics: int, noise: float) -> NodeFeatures:
    """Noisy texts and up to three images by topic; some nodes have no text, some no image."""
    count = len(of)
    text_of, image_of = (
        np.random.default_rng(7).normal(size=(topics, size)) for size in (TEXT, IMAGE)
    )
    text = unit((text_of[of] + noise * rng.normal(size=(count, TEXT))).astype(np.float32))
    text[::7] = 0
    counts = rng.integers(0, 4, count)
    owners = np.repeat(np.arange(count), counts)
    shown = image_of[of[owners]] + noise * rng.normal(size=(len(owners), IMAGE))
    return NodeFeatures(
        keys=pa.array(range(count)),
        text=text,
        images=unit(shown.astype(np.float32)),
        image_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        image_sizes=rng.random(len(owners)).astype(np.float32) + 0.1,
    )
