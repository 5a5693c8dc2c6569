"""What the last refresh was worth: its parameters, judged by the events that came after it.

That is the only evaluation without leakage that a refresh can make: its own vectors have seen all
events there are, while those that came since the last refresh are news to the parent. The parent
and the version are the same model a day earlier, so the figure stands for the version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from provender.plugin.errors import ProvenderError
from provender.plugin.snapshot import Snapshot
from provender.producers.evaluation import Quality, quality
from provender.producers.event_set import EventSet, events_folder
from provender.producers.graph import TripleGraph, build_graph
from provender.producers.job import Job
from provender.producers.optimizer_state import STATE, OptimizerState
from provender.producers.vanished import load_vanished
from provender.producers.vectors import load_vectors
from provender.producers.warm_start import Parent, load_relations


@dataclass(frozen=True)
class Judgement:
    """For a manifest: `quality`, `quality_popularity`, and a note on the window or the reason."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def judge_parent(job: Job, parent: Snapshot | None, events: EventSet) -> Judgement:
    """Judge the parent by the events from its as-of time to that of `events`.

    `quality` is the mean over the relations of the model's Recall@100, `quality_popularity` that
    of popularity under the same protocol (`evaluation.quality`); ``notes["judged"]`` has the
    window as ``start/end``. Two versions whose parents have the same as-of time, and which learn
    from the same relations, are asked the same.

    There is no figure without a parent, nor of one of another version, whose quality it would be.
    Where the parent's run can't be read any more the figures are None and
    ``notes["not_judged"]`` says why: that stops no refresh.
    """
    if parent is None or parent.manifest.version != job.version:
        return Judgement()
    try:
        found = _quality(job, parent, events)
    except (ProvenderError, OSError, pa.ArrowException) as error:
        return _not_judged(" ".join(str(error).split()))
    if found is None:
        return _not_judged("no event between entities that the parent knows")
    window = f"{parent.manifest.as_of.isoformat()}/{events.as_of.isoformat()}"
    return Judgement(
        {"quality": found.model, "quality_popularity": found.popularity}, {"judged": window}
    )


def load_run(job: Job, run_id: str, scratch: Path | None = None) -> Parent:
    """What a finished run hands to the next: vectors, relations, optimizers, who has vanished.

    With a `scratch` folder its vectors are mapped from files in it and not in memory.

    Raises CheckpointError where they can't be read.
    """
    folder = job.home.runs / run_id / "model"
    return Parent(
        load_vectors(folder, scratch),
        load_relations(folder / "relations.safetensors"),
        OptimizerState.load(folder / STATE),
        load_vanished(folder),
    )


def graph_of(job: Job, events: EventSet) -> TripleGraph:
    """The graph that a job trains on."""
    return build_graph(
        events.triples(),
        events.relations,
        {entity: events.keys(entity) for entity in events.counts},
        as_of=events.as_of,
        half_life_days=job.config.half_life_days,
        degree_cap=job.config.degree_cap,
        chosen=job.config.relations,
        aside=job.config.aside,
    )


def _quality(job: Job, parent: Snapshot, events: EventSet) -> Quality | None:
    run_id, as_of = parent.manifest.run_id, parent.manifest.as_of
    former = EventSet.open(events_folder(job.home.runs / run_id / "events", as_of))
    graph = graph_of(job, former)
    parameters = load_run(job, run_id).parameters(graph, job.config.model)
    return quality(parameters, graph, events.since(former))


def _not_judged(reason: str) -> Judgement:
    return Judgement({"quality": None, "quality_popularity": None}, {"not_judged": reason})
