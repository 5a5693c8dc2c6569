"""Supplements: vectors of entities that came after a refresh, without training again.

A supplement of a refresh holds, as of a later time, the rows of entities that the refresh has not
seen and that have links or content by then, placed with everything that it has learned held fixed
(`inductive`). It is a snapshot beside the refresh's, so joins and online reads find its rows by
themselves; the next refresh learns these entities with all others. An entity is placed again when
it has news. Where a supplement of a former refresh is newer than the refresh, its rows are told
again: of entities that the refresh knows with the refresh's own vectors.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.plugin.errors import ConfigError, SnapshotError
from provender.plugin.files import STAGING, stamp
from provender.plugin.manifest import Manifest, RunInfo
from provender.plugin.snapshot import Snapshot, find_snapshot, find_snapshots, write_snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.content import Content, read_content
from provender.producers.event_mapping import EventMapping
from provender.producers.event_set import EventSet
from provender.producers.events import read_events
from provender.producers.facets import facet_vectors
from provender.producers.graph import TripleGraph, build_graph
from provender.producers.inductive import CONTENT_PULL, Expected, fold_in, regress, type_means
from provender.producers.job import PRODUCER, Job
from provender.producers.parameters import Parameters
from provender.producers.parent_quality import load_run
from provender.producers.refresh import OnStage
from provender.producers.vectors import Vectors
from provender.producers.warm_start import align, first_relations

#: Fewer entities with content teach nothing of what content says.
_LEAST_TAUGHT = 20
#: Before any time, in microseconds.
_NEVER = np.iinfo(np.int64).min
Times = NDArray[np.int64]


@dataclass(frozen=True)
class Supplement:
    """What became of one view.

    Attributes:
        unseen: entities by the as-of time that the refresh has no vector of.
        rows: those of them that were placed now, having no vector or one from before their news.
        snapshot: where they were written; None where there were none, or in a dry run.
        done_before: whether it stood already.
    """

    unseen: int = 0
    rows: int = 0
    snapshot: Snapshot | None = None
    done_before: bool = False


@dataclass(frozen=True)
class Cold:
    """What one `cold` did: the refresh that it supplements, and by view what became of it."""

    base: Manifest
    views: Mapping[str, Supplement]
    events: EventSet | None = None


def supplement(job: Job, as_of: datetime, on_stage: OnStage, *, dry_run: bool = False) -> Cold:
    """Place what came since the newest refresh before `as_of`, and publish it beside it.

    A command that was killed between two views is completed by running it again.

    Raises:
        ConfigError: no whole refresh of the version before `as_of`, or its run is gone.
        SnapshotError: a supplement of another refresh stands as of this very time.
    """
    with job.home.locked("cold"):
        base = newest_whole(job, as_of)
        standing = {spec.view_name: _standing(job, spec, as_of, base) for spec in job.specs}
        done = {
            name: Supplement(
                int(each.manifest.metrics["unseen"] or 0),
                each.manifest.rows,
                each,
                done_before=True,
            )
            for name, each in standing.items()
            if each is not None
        }
        if len(done) == len(job.specs):
            return Cold(base, done)
        with _staging(job.home.runs) as work:
            placed = _place(job, base, as_of, work, on_stage)
        views = {}
        for spec in job.specs:
            views[spec.view_name] = done.get(spec.view_name) or _publish(
                job, spec, base, placed, dry_run=dry_run
            )
    return Cold(base, views, placed.events)


def newest_whole(job: Job, as_of: datetime) -> Manifest:
    """The manifest of the newest refresh before `as_of` that has written all views of a job."""
    root = job.home.snapshots
    for first in reversed(find_snapshots(root, job.specs[0].view_name)):
        known = first.manifest
        if known.as_of >= as_of:
            continue
        found = [find_snapshot(root, spec.view_name, known.as_of) for spec in job.specs]
        if all(each is not None and each.manifest.run_id == known.run_id for each in found):
            return known
    raise ConfigError(
        f"version {job.version} of family {job.family} as of {as_of:%Y-%m-%d %H:%M}",
        found="no earlier refresh with all its views",
        expected="one to supplement",
        remedy=f"Run `provender refresh {job.family}` as of an earlier time first.",
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    """All entities with their vectors as of a time.

    `news` (N,): each one's latest event or content, in microseconds.
    """

    events: EventSet
    graph: TripleGraph
    parameters: Parameters
    news: Times


def _place(job: Job, base: Manifest, as_of: datetime, work: Path, on_stage: OnStage) -> _Placed:
    on_stage("read events", 0, 1, "")
    events = read_events(EventMapping.from_world(job.world), job.data, as_of, work)
    content = read_content(job.world, job.data, as_of, work)
    graph = _graph(job, events, content)
    on_stage("read events", 1, 1, "")
    if not (job.home.runs / base.run_id / "model").is_dir():
        raise ConfigError(
            f"run {base.run_id}, the newest refresh",
            found=f"no model in {job.home.runs / base.run_id}",
            expected="the relations and vectors that it has learned",
            remedy=f"Restore its folder, or run `provender refresh {job.family}` for a later time.",
        )
    on_stage("place", 0, 1, "")
    parent = load_run(job, base.run_id)
    reference = align(graph, base.dim, parent)
    relation = first_relations(graph, job.config.model, base.dim, parent)
    refreshed = Parameters(job.config.model, reference.vectors, relation)
    rows = fold_in(
        refreshed,
        graph,
        reference.known,
        expected_rows(graph, reference.vectors, reference.known, content),
        scale=job.config.score_scale,
        weights=job.config.relation_weight,
    )
    on_stage("place", 1, 1, "")
    placed = Parameters(refreshed.model, rows, relation)
    return _Placed(events, graph, placed, _news(graph, events, content))


def _graph(job: Job, events: EventSet, content: Mapping[str, Content]) -> TripleGraph:
    """The graph as of now; entities that only have content come behind the others of their type."""
    keys = {entity: events.keys(entity) for entity in events.counts}
    for entity, found in content.items():
        if entity in keys:
            others = found.keys.filter(pc.invert(pc.is_in(found.keys, value_set=keys[entity])))
            keys[entity] = pa.concat_arrays([keys[entity], others])
    return build_graph(
        events.triples(),
        events.relations,
        keys,
        as_of=events.as_of,
        half_life_days=job.config.half_life_days,
        degree_cap=job.config.degree_cap,
        chosen=job.config.relations,
    )


def expected_rows(
    graph: TripleGraph, rows: Tensor, known: Tensor, content: Mapping[str, Content]
) -> Expected:
    """What is expected before any link: what the content says, else the mean of the type."""
    expected = type_means(rows, known, graph)
    for entity in (each for each in content if each in graph.keys):
        span, found = graph.span(entity), content[entity]
        position = pc.index_in(graph.keys[entity], value_set=found.keys)
        has = torch.from_numpy(np.asarray(position.is_valid()))
        place = torch.from_numpy(position.drop_null().to_numpy().astype(np.int64))
        features = torch.from_numpy(found.vectors).index_select(0, place)
        taught = known[span][has]
        if int(taught.sum()) < _LEAST_TAUGHT:
            continue
        says = regress(features[taught], rows[span][has][taught])
        ids = torch.arange(span.start, span.stop)[has]
        expected.rows[ids] = says(features).float()
        expected.pull[ids] = CONTENT_PULL
    return expected


def _news(graph: TripleGraph, events: EventSet, content: Mapping[str, Content]) -> Times:
    """The time of each entity's latest event or content, in microseconds: (N,)."""
    news = np.full(graph.entities, _NEVER)
    triples = events.triples()
    learned = np.isin(np.arange(len(graph.relations)), graph.relation.unique().numpy())
    relation = triples["relation"].to_numpy().astype(np.int64)
    kept = learned[relation]
    time = triples["time"].cast(pa.int64()).fill_null(_NEVER).to_numpy()[kept]
    for end in ("head", "tail"):
        first = np.array([graph.offsets[getattr(one, end)] for one in graph.relations])
        np.maximum.at(news, triples[end].to_numpy()[kept] + first[relation[kept]], time)
    for entity in (each for each in content if each in graph.keys):
        position = pc.index_in(content[entity].keys, value_set=graph.keys[entity]).to_numpy()
        np.maximum.at(news, position + graph.offsets[entity], content[entity].since)
    return news


def _publish(
    job: Job, spec: EmbeddingSpec, base: Manifest, placed: _Placed, *, dry_run: bool
) -> Supplement:
    """Write the rows of one view that have no vector yet, or one from before their news."""
    graph, as_of, keys = placed.graph, placed.events.as_of, placed.graph.keys[spec.entity]
    refreshed = find_snapshot(job.home.snapshots, spec.view_name, base.as_of)
    assert refreshed is not None  # It was there when the command began, and gc waits for its end.
    unseen = ~np.asarray(pc.is_in(keys, value_set=refreshed.keys()))
    own, foreign = _supplemented(job, spec, base, as_of, keys)
    news = placed.news[graph.span(spec.entity)]
    due = (unseen & ((own == _NEVER) | (news >= own))) | (foreign > own)
    found = Supplement(int(unseen.sum()), int(due.sum()))
    if dry_run or not due.any():
        return found
    vectors = facet_vectors(spec, placed.parameters, graph)
    rows = _sorted(Vectors(vectors.keys.filter(pa.array(due)), vectors.vectors[due]))
    run = _run_info(job, base, placed.events, found)
    written = write_snapshot(job.home.snapshots, spec, as_of, rows.keys, rows.vectors, run)
    return Supplement(found.unseen, found.rows, written)


def _supplemented(
    job: Job, spec: EmbeddingSpec, base: Manifest, as_of: datetime, keys: pa.Array[Any]
) -> tuple[Times, Times]:
    """When each key was last told by a supplement of this refresh, and by a later one of others."""
    own, foreign = np.full(len(keys), _NEVER), np.full(len(keys), _NEVER)
    for each in find_snapshots(job.home.snapshots, spec.view_name, supplements=True):
        known = each.manifest
        if known.supplement_of is not None and base.as_of < known.as_of < as_of:
            of = own if known.supplement_of == base.run_id else foreign
            position = pc.index_in(each.keys(), value_set=keys).drop_null().to_numpy()
            of[position] = round(known.as_of.timestamp() * 1e6)  # They ascend by time.
    return own, foreign


def _sorted(rows: Vectors) -> Vectors:
    order = pc.sort_indices(rows.keys)
    return Vectors(rows.keys.take(order), rows.vectors[order.to_numpy()])


def _run_info(job: Job, base: Manifest, events: EventSet, found: Supplement) -> RunInfo:
    shaped = f"{job.config_hash} {events.as_of.isoformat()} {base.run_id}"
    return RunInfo(
        run_id=f"cold-{stamp(events.as_of)}-{hashlib.sha256(shaped.encode()).hexdigest()[:10]}",
        producer=PRODUCER,
        config_hash=job.config_hash,
        window_start=events.window[0],
        window_end=events.as_of,
        metrics={"unseen": float(found.unseen)},
        parent=base.run_id,
        supplement_of=base.run_id,
    )


def _standing(job: Job, spec: EmbeddingSpec, as_of: datetime, base: Manifest) -> Snapshot | None:
    """The supplement that stands as of a time already."""
    found = find_snapshot(job.home.snapshots, spec.view_name, as_of, supplement=True)
    if found is not None and found.manifest.supplement_of != base.run_id:
        raise SnapshotError(
            f"supplement {found.path}",
            found=f"one of run {found.manifest.supplement_of}",
            expected=f"none yet, or one of run {base.run_id}, the newest refresh",
            remedy="Give a later --as-of.",
        )
    return found


@contextmanager
def _staging(runs: Path) -> Iterator[Path]:
    """A folder for what is read; of a killed process's, gc disposes."""
    work = runs / STAGING / f"cold.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
