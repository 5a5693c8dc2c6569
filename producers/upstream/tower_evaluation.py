"""Towers on days that they have not seen: learn what lies before a cut, and judge what follows.

What is known at a row's time is seen at that time, as an online system would; what is learned,
the towers and their id tables, knows nothing from the cut on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from provender.plugin.errors import TrainingError
from provender.plugin.world import World
from provender.producers.devices import pick_device
from provender.producers.refresh import LOG, OnStage
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.pair_recall import recall_of
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.pretrained_ids import Pretrained, pretrained, wanted
from provender.producers.upstream.task_scores import Scored, popularity, refreshed_products, score
from provender.producers.upstream.tower_embedding import embed, microseconds
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_inputs import open_inputs
from provender.producers.upstream.tower_quality import (
    BARE,
    POPULARITY,
    REFRESHED,
    TOWERS,
    VECTORS,
    TowerQuality,
    lift_kept,
)
from provender.producers.upstream.tower_reading import read_tower_set
from provender.producers.upstream.tower_set import ENTITIES, TowerSet
from provender.producers.upstream.tower_training import train_towers
from provender.producers.upstream.upstream_model import UpstreamModel
from provender.producers.vectors import Vectors
from provender.producers.work_folder import ROWS


@dataclass(frozen=True)
class TowerTask:
    """What is to be learned and judged.

    Attributes:
        world, data: the logs.
        sources: what of them is learned from and seen, with its features filled in.
        repo: the Feast repo that other views are pulled through, where features name some.
        cut: what lies before is learned from.
        end: what lies from the cut to here is judged, as far as its labels are known by then.
        work: a folder for the rows that are read, and for trainings.
        name: of what is learned from; `all` for everything.
    """

    world: World
    data: Path
    sources: TowerSources
    repo: Path | None
    cut: datetime
    end: datetime
    work: Path
    name: str = "all"

    def alone(self, name: str) -> TowerTask:
        """The same of one source, or of one task in all sources that have it.

        Raises TrainingError for a name that is neither.
        """
        sources = self.sources.sources
        if name in sources:
            kept = {name: sources[name]}
        elif name in self.sources.tasks:
            kept = {
                each: one.model_copy(update={"labels": {name: one.labels[name]}})
                for each, one in sources.items()
                if name in one.labels
            }
        else:
            raise TrainingError(
                f"--alone {name}",
                found="neither a source nor a task",
                expected=f"one of {', '.join((*sources, *self.sources.tasks))}",
                remedy="Correct the name.",
            )
        narrowed = self.sources.model_copy(update={"sources": kept})
        return replace(self, sources=narrowed, name=f"{name} alone")


@dataclass(frozen=True, eq=False)
class Learned:
    """Trained towers, and the vectors that they give as of the cut."""

    model: UpstreamModel
    fitted: Fitted
    vectors: Mapping[str, Vectors]
    rows: TowerSet
    log: Path


def learn(task: TowerTask, config: UpstreamConfig, device: str, on_stage: OnStage) -> Learned:
    """Train towers on what lies before the cut, and embed all as of it.

    A training that was stopped is taken up again in the task's folder. Raises as `read_tower_set`
    does, also where no label of what follows the cut is known.
    """
    on_stage("read logs", 0, 1, "")
    days = config.training.history_days
    first = task.cut - timedelta(days=days) if days else None
    rows = _rows(task, config, "learned", task.cut, start=first)
    _rows(task, config, "later", task.end, start=task.cut)  # Before hours of training.
    on_stage("read logs", 1, 1, "")
    on_stage("features", 0, 1, "")
    seed, scratch = config.training.seed, task.work / "scratch"
    start = _pretrained(task, config, rows, on_stage)
    opened = open_inputs(rows, task.sources, None, task.repo, scratch, seed, start=start)
    fitted = opened.reader.fit(seed)
    features = opened.reader.using(fitted)
    on_stage("features", 1, 1, "")
    model = UpstreamModel.new(config, features.layout, opened.tables, seed)
    mark = _mark(task, config, rows)
    log = task.work / LOG / mark[:16]
    training = config.training
    stream = ExampleStream(
        rows,
        opened.reader,
        fitted,
        training.batch_size,
        seed,
        context_dropout=training.context_dropout,
    )
    model = train_towers(
        model,
        stream,
        config,
        log,
        mark=mark,
        former=None,
        device=device,
        on_progress=lambda at: on_stage(
            "train", at.step, at.total, f"loss {at.loss:.3f}, {at.rate:,.0f} examples/s"
        ),
    )
    model = model.to(pick_device(device))
    vectors: dict[str, Vectors] = {
        each: embed(
            model,
            features,
            config.embedding,
            each,
            lambda done, total, each=each: on_stage(f"embed {each}s", done, total, ""),  # type: ignore[misc]
        )
        for each in ENTITIES
    }
    return Learned(model.to(torch.device("cpu")), fitted, vectors, rows, log)


def judge(
    task: TowerTask, learned: Learned, config: UpstreamConfig, device: str, on_stage: OnStage
) -> TowerQuality:
    """Judge towers by what followed the cut."""
    later, opened, scored = _scored(task, learned, config, device, on_stage)
    products, both = refreshed_products(later, scored, learned.vectors)
    met = popularity(later, microseconds(task.cut))[scored.pin]
    bare = _without_context(task, later, opened, learned.model, device)
    liked = learned.model.layout.liked
    tasks = {}
    for each in scored.tasks:
        sign = 1.0 if each in liked else -1.0
        tasks[each] = {
            TOWERS: scored.figures(each),
            **({BARE: replace(scored, logits=bare).figures(each)} if bare is not None else {}),
            VECTORS: scored.ranked(each, scored.products, sign),
            REFRESHED: scored.ranked(each, products, sign),
            POPULARITY: scored.ranked(each, met, sign),
        }
    on_stage("recall", 0, 1, "")
    found = recall_of(learned.vectors, learned.rows, later, scored, liked, config.model.nested_dims)
    on_stage("recall", 1, 1, "")
    kept = {
        each: lift_kept(by.get(BARE, by[TOWERS]).auc, by[VECTORS].auc, by[POPULARITY].auc)
        for each, by in tasks.items()
    }
    notes = {
        "cut": task.cut.isoformat(),
        "end": task.end.isoformat(),
        "learned": learned.rows.report,
        "judged": later.report,
        "rows judged whose user and pin have a vector as of the cut": float(both.mean()),
    }
    return TowerQuality(tasks, kept, found.recall, found.pairs, found.candidates, notes)


def judge_alone(
    task: TowerTask, config: UpstreamConfig, device: str, on_stage: OnStage
) -> dict[str, Any]:
    """Train a narrowed task, and judge its own tasks: task -> figures of its towers."""
    weights = config.training.task_weights
    if isinstance(weights, dict):  # Those of tasks that are left out fit no head.
        own = {name: weight for name, weight in weights.items() if name in task.sources.tasks}
        training = config.training.model_copy(update={"task_weights": own})
        config = config.model_copy(update={"training": training})
    learned = learn(task, config, device, on_stage)
    *_, scored = _scored(task, learned, config, device, on_stage)
    return {each: scored.figures(each) for each in scored.tasks}


def _scored(
    task: TowerTask, learned: Learned, config: UpstreamConfig, device: str, on_stage: OnStage
) -> tuple[TowerSet, TowerFeatures, Scored]:
    """What follows the cut, what is seen of it, and its scores by the towers."""
    on_stage("read later rows", 0, 1, "")
    later = _rows(task, config, "later", task.end, start=task.cut)
    on_stage("read later rows", 1, 1, "")
    opened = open_inputs(
        later,
        task.sources,
        learned.model.tables,
        task.repo,
        task.work / "scratch",
        config.training.seed,
        grow=False,
    )
    features = opened.reader.using(learned.fitted)
    scored = score(
        later,
        features,
        learned.model,
        device,
        lambda done, total: on_stage("score", done, total, ""),
    )
    return later, features, scored


def _without_context(
    task: TowerTask, later: TowerSet, features: TowerFeatures, model: UpstreamModel, device: str
) -> NDArray[np.float32] | None:
    """The towers' logits where the context is hidden; None where there is none."""
    contexts = [source.context for source in task.sources.sources.values()]
    if not any(context.numbers or context.categories for context in contexts):
        return None
    return score(later, features, model, device, context=False).logits


def _rows(
    task: TowerTask,
    config: UpstreamConfig,
    name: str,
    as_of: datetime,
    start: datetime | None = None,
) -> TowerSet:
    place = task.work / ROWS / task.name / name
    if place.is_dir():
        return TowerSet.open(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    seed = config.training.seed
    return read_tower_set(task.sources, task.world, task.data, place, as_of, start=start, seed=seed)


def _pretrained(
    task: TowerTask, config: UpstreamConfig, rows: TowerSet, on_stage: OnStage
) -> Pretrained | None:
    """What id rows start from; the events are those of all sources, whichever is learned from."""
    features = task.sources.features
    if features is None or not wanted(features):
        return None
    return pretrained(
        task.world,
        task.data,
        features,
        rows,
        task.work / ROWS / task.name / "pretraining",
        config.training.seed,
        lambda done, total: on_stage("pretrain ids", done, total, ""),
    )


def _mark(task: TowerTask, config: UpstreamConfig, rows: TowerSet) -> str:
    """SHA-256 of all that a training depends on: who resumes must have the same."""
    digest = hashlib.sha256(f"{config.hash} {task.sources.model_dump_json()}".encode())
    for path in sorted(rows.folder.rglob("*.parquet")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
