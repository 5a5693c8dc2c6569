"""LinkSage on a page set with pairs set aside: learn from the others, and find these again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.dropped_rows import dropped_rows
from provender.producers.linksage.features import Features, NodeFeatures, compute_features
from provender.producers.linksage.page_embedding import embed_pages, embed_pins, has_vector
from provender.producers.linksage.page_files import TEST, PageFiles
from provender.producers.linksage.page_folds import neighbours_apart
from provender.producers.linksage.page_graph import PageGraph, build_graph
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_neighbours import Neighbours, find_neighbours
from provender.producers.linksage.page_tables import PageSet, read_page_set
from provender.producers.linksage.page_training import train_pages
from provender.producers.linksage.page_training_state import fingerprint
from provender.producers.linksage.quality import Quality, judge
from provender.producers.pin_ranking import (
    Pairs,
    Scorer,
    cosines,
    inner_products,
    popularity,
)
from provender.producers.refresh import OnStage
from provender.producers.work_folder import ROWS

Floats = NDArray[np.float32]
#: What can be left out, to see what it is worth.
GROUPS = ("neighbours", "text", "images", "boards", "links")


@dataclass(frozen=True, eq=False)
class PageTask:
    """A page set, made ready, with the pairs that are known and those to find.

    `neighbours` are those of all pages, `apart` those of the positives (page_folds.py). The rows of
    pairs are those of the features.
    """

    rows: PageSet
    features: Features
    graph: PageGraph
    neighbours: Neighbours
    apart: Neighbours
    known: Pairs
    test: Pairs


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A model and its vectors of all pages (n, dim) and pins (q, dim), of norm 1.

    A pin without a given vector, where these are the targets, has a row of NaN.
    """

    model: PageModel
    pages: Floats
    pins: Floats

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which pins have a vector: bool (q,)."""
        return has_vector(self.pins)


def prepare(
    files: PageFiles, data: Path, config: LinkSageConfig, work: Path, on_stage: OnStage
) -> PageTask:
    """Read a page set, and compute features, graph and neighbours without the test's pairs.

    Raises TrainingError without pairs to learn from or to find.
    """
    on_stage("read pages", 0, 1, "")
    rows = read_page_set(files.sources, files.tables, data, work / ROWS)
    _check_pairs(rows)
    on_stage("read pages", 1, 1, "")
    on_stage("features", 0, 1, "")
    features = compute_features(rows, config.features, work / "features")
    on_stage("features", 1, 1, "")
    on_stage("graph", 0, 2, "")
    graph = build_graph(rows, features, config.graph)
    on_stage("graph", 1, 2, "walks")
    found = _walked(graph, config)
    on_stage("graph", 2, 2, "")
    known, test = _pairs(rows, features)
    return PageTask(rows, features, graph, *found, known, test)


def learn(
    task: PageTask, config: LinkSageConfig, folder: Path, device: str, on_stage: OnStage
) -> Embeddings:
    """Train a model on a task and embed all of its pages and pins.

    What training keeps is in a folder of its own in `folder`, by what the model is made of.
    """
    mark = fingerprint(config, task.features, task.graph, task.apart)
    model = train_pages(
        config,
        task.features,
        task.graph,
        task.apart,
        folder / mark[:16],
        device,
        on_progress=lambda at: on_stage(
            "train", at.step, at.total, f"loss {at.loss:.3f}, {at.rate:,.0f} positives/s"
        ),
    )
    pages = embed_pages(
        model,
        task.features,
        task.graph,
        task.neighbours,
        device=device,
        on_progress=lambda done, total: on_stage("embed", done, total, ""),
    )
    return Embeddings(model, pages, embed_pins(model, task.features, device=device))


def judged(
    task: PageTask, made: Embeddings, config: LinkSageConfig, rankings: Mapping[str, Scorer]
) -> Quality:
    """How well the test's pairs are found, and by other rankings of the same pins.

    Pins without a vector can't be found: they are no candidates, and pairs of theirs are passed
    over; the notes tell how many.

    Raises TrainingError where all pairs are.
    """
    there = made.there
    place = np.cumsum(there) - 1

    def kept(pairs: Pairs) -> Pairs:
        good = there[pairs.pins]
        return Pairs(pairs.rows[good], place[pairs.pins[good]])

    def among(scorer: Scorer) -> Scorer:
        return lambda rows: scorer(rows)[:, there]

    test, known = kept(task.test), kept(task.known)
    quality = judge(
        made.pages,
        made.pins[there],
        test,
        known,
        config.model.nested_dims,
        config.training.seed,
        baselines={name: among(each) for name, each in rankings.items()},
    )
    gone = {
        "pins_without_vector": int((~there).sum()),
        "test_pairs_without_vector": len(task.test.pins) - len(test.pins),
    }
    return replace(quality, notes={**quality.notes, **gone})


def baselines(task: PageTask) -> dict[str, Scorer]:
    """What ranks pins without a model: words, the same features as they are, popularity."""
    found = {"popularity": popularity(task.known, len(task.features.pins))}
    if task.features.pages.text.shape[1]:
        found["text features"] = inner_products(task.features.pages.text, task.features.pins.text)
    if task.features.pages.images.shape[1]:
        shown = (task.features.pages.mean_images(), task.features.pins.mean_images())
        found["image features"] = inner_products(*shown)
    words = word_counts(task.rows)
    if words is not None:
        found["TF-IDF"] = inner_products(*words)
    return found


def word_counts(rows: PageSet) -> tuple[Any, Any] | None:
    """Tf-idf of pages and pins by words and pairs of words, sparse; None without texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [
        pq.read_table(file, columns=["text"])["text"].to_pylist()
        for file in (rows.pages, rows.pins)
    ]
    if not any(map(any, texts)):
        return None
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    vectorizer.fit([*texts[0], *texts[1]])
    pages, pins = (vectorizer.transform(each) for each in texts)
    return pages, pins


def compared(
    task: PageTask,
    config: LinkSageConfig,
    groups: tuple[str, ...],
    work: Path,
    device: str,
    on_stage: OnStage,
) -> dict[str, Scorer]:
    """Models that were trained without one group each, by `without GROUP`."""
    found: dict[str, Scorer] = {}
    for group in groups:
        blind, settings = without(task, config, group)

        def tell(stage: str, done: int, total: int, note: str, group: str = group) -> None:
            on_stage(f"without {group}: {stage}", done, total, note)

        made = learn(blind, settings, work / f"without-{group}", device, tell)
        found[f"without {group}"] = cosines(made.pages, made.pins)
    return found


def without(task: PageTask, config: LinkSageConfig, group: str) -> tuple[PageTask, LinkSageConfig]:
    """The same task without one group of what the model can see.

    Raises ConfigError for another group than those of GROUPS.
    """
    if group == "neighbours":
        model = config.model.model_copy(update={"neighbours": 0})
        return task, config.model_copy(update={"model": model})
    if group in ("text", "images"):
        features = replace(
            task.features,
            pages=_blind(task.features.pages, group),
            pins=_blind(task.features.pins, group),
        )
        return replace(task, features=features), config
    if group not in GROUPS:
        raise ConfigError(
            "--without",
            found=group,
            expected=f"one of {', '.join(GROUPS)}",
            remedy="Correct it.",
        )
    gone = {"boards": "board", "links": "link"}[group]
    edges = {ends: each for ends, each in task.graph.edges.items() if gone not in ends}
    graph = replace(task.graph, edges=edges)
    neighbours, apart = _walked(graph, config)
    return replace(task, graph=graph, neighbours=neighbours, apart=apart), config


def check_groups(task: PageTask, groups: tuple[str, ...]) -> None:
    """Raise ConfigError for a group of which there is nothing, or without which there is nothing.

    So that it is known before anything is trained.
    """
    nodes = (task.features.pages, task.features.pins)
    links = {name for ends, each in task.graph.edges.items() if len(each.targets) for name in ends}
    there = {
        "neighbours": bool(links),
        "text": any(each.text.any() for each in nodes),
        "images": any(len(each.images) for each in nodes),
        "boards": "board" in links,
        "links": "link" in links,
    }
    for group in groups:
        other = {"text": "images", "images": "text"}.get(group)
        if not there[group] or (other and not there[other]):
            raise ConfigError(
                f"--without {group}",
                found=f"no {group if not there[group] else other} in this page set",
                expected="a group that is there, and is not all that there is",
                remedy="Leave it out.",
            )


def _blind(nodes: NodeFeatures, group: str) -> NodeFeatures:
    """Nodes that show no text, or no images; the lengths of the spaces stay."""
    if group == "text":
        return replace(nodes, text=np.zeros_like(nodes.text))
    none = np.zeros(len(nodes.keys) + 1, np.int64)
    return replace(
        nodes, images=nodes.images[:0], image_offsets=none, image_sizes=none[:0].astype(np.float32)
    )


def _walked(graph: PageGraph, config: LinkSageConfig) -> tuple[Neighbours, Neighbours]:
    """The neighbours of all pages, and those of the positives."""
    seed = config.training.seed
    return find_neighbours(graph, config.walks, seed), neighbours_apart(graph, config.walks, seed)


def _check_pairs(rows: PageSet) -> None:
    kinds = pq.read_table(rows.pairs, columns=["kind"])["kind"]
    to_find = pc.sum(pc.equal(kinds, TEST)).as_py() or 0
    for name, count in (("learn from", len(kinds) - to_find), ("find", to_find)):
        if not count:
            told = "; ".join(dropped_rows(rows.report))
            raise TrainingError(
                f"pairs to {name}",
                found=f"none{f' ({told})' if told else ''}",
                expected="at least one of a pin and a page that are there",
                remedy="Check the keys, and --test or --hold-out, by which pairs are set aside.",
            )


def _pairs(rows: PageSet, features: Features) -> Iterator[Pairs]:
    """The pairs that are known, then those of the test."""
    table = pq.read_table(rows.pairs, columns=["page", "pin", "kind"])
    of_test = pc.equal(table["kind"], TEST)
    for chosen in (table.filter(pc.invert(of_test)), table.filter(of_test)):
        pages = rows_of(chosen["page"], features.pages.keys)
        yield Pairs(pages, rows_of(chosen["pin"], features.pins.keys))


def rows_of(keys: pa.ChunkedArray, known: pa.Array[Any]) -> NDArray[np.int64]:
    """The place of each key among the known ones, -1 where it is not: (n,) int64."""
    found = pc.index_in(keys.combine_chunks(), known).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
