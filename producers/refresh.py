"""One refresh of one version of TransRA: events before T in, the snapshots of its views out.

What a refresh keeps lies in ``<home>/runs/<run id>``: the events as they were read, the checkpoints
and, once trained, the vectors and relations that the next refresh starts from. With `partitions`
there is the folder ``disk`` instead of checkpoints, and whole tables are only mapped from files:
that of this refresh, and the parent's, from the training to the last snapshot. A run's id follows
from its world, configuration, as-of time and parent, so a run that was killed at any point is found
again by running the same command, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import whole_folder
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import Snapshot, find_snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.counters import counters_path, write_counters
from provender.producers.disk_parent import Former
from provender.producers.disk_training import train_on_disk
from provender.producers.drift_gate import newest_before
from provender.producers.edge_streams import GraphEdges
from provender.producers.event_mapping import EventMapping
from provender.producers.events import EventSet, read_events
from provender.producers.facets import facet_vectors
from provender.producers.graph import TripleGraph
from provender.producers.job import PRODUCER, Job
from provender.producers.optimizer_state import STATE, OptimizerState
from provender.producers.parameters import Parameters
from provender.producers.parent_quality import graph_of, judge_parent, load_run
from provender.producers.publish import (
    Finding,
    Gate,
    asked,
    check_entities,
    publish,
    published,
    refused,
)
from provender.producers.rehearsal import Rehearsal, rehearse
from provender.producers.trainer import train
from provender.producers.training_log import TrainingLog
from provender.producers.training_loop import Progress
from provender.producers.training_state import optimizers_at_end
from provender.producers.vanished import Vanished, carried, save_vanished
from provender.producers.vectors import Vectors, save_vectors
from provender.producers.version_job import run_id_of
from provender.producers.warm_start import Parent, save_relations

#: Of a run's folder: what its training told of itself.
LOG = "log"
#: Of a run's folder: where a table lies that is trained from disk.
DISK = "disk"
#: (what is being done, steps done, steps in all, a note such as the loss)
OnStage = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Refresh:
    """What one refresh did.

    Attributes:
        run_id: its run.
        as_of: the cut.
        snapshots: one a view; none where nothing was published.
        done_before: whether all of them stood already.
        events: what was read; None where nothing had to be.
        findings: what the gate said, by view; none without a gate, or where it had nothing to say.
    """

    run_id: str
    as_of: datetime
    snapshots: tuple[Snapshot, ...]
    done_before: bool
    events: EventSet | None = None
    findings: Mapping[str, Finding] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A trained refresh: what was read, what was learned, what the next one needs.

    With a `scratch` folder whole tables are mapped from files, and not in memory.
    """

    events: EventSet
    graph: TripleGraph
    parameters: Parameters
    optimizers: OptimizerState | None = None
    vanished: Mapping[str, Vanished] = field(default_factory=dict)
    rehearsal: Rehearsal | None = None
    scratch: Path | None = None

    def vectors(self) -> dict[str, Vectors]:
        """The raw vectors of every entity type."""
        return {each: self.parameters.vectors(self.graph, each) for each in self.graph.counts}

    def vectors_of(self, spec: EmbeddingSpec) -> Vectors:
        """The vectors that a view holds: its entity's, raw or as its facet."""
        return facet_vectors(spec, self.parameters, self.graph, self.scratch)


def refresh(
    job: Job,
    as_of: datetime,
    on_stage: OnStage,
    gate: Gate | None = None,
    *,
    dry_run: bool = False,
) -> Refresh:
    """Compute and publish one as-of time, going on where a former attempt stopped.

    A gate is asked of every view before anything is published; if it refuses one, nothing is. What
    was trained is kept, so that it can be published later without training again. With `dry_run`
    nothing is published in any case.
    """
    with job.home.locked("runs"):
        parent = parent_of(job, as_of)
        run_id = run_id_of(job, as_of, parent)
        standing = published(job.home.snapshots, job.specs, as_of, run_id)
        if len(standing) == len(job.specs) and all(p.exists() for p in _counters(job, as_of)):
            return Refresh(run_id, as_of, tuple(standing), done_before=True)
        trained = restore(job, as_of, on_stage)
        check_entities(job.specs, trained.graph.counts)
        _keep(job, job.home.runs / run_id, trained)
        findings = asked(gate, job.specs, as_of, trained.vectors_of)
        snapshots: list[Snapshot] = []
        if not dry_run and not refused(findings):
            on_stage("publish", 0, 1, "")
            run = _run_info(job, run_id, parent, trained)
            _count(job, trained.events)
            snapshots = publish(
                job.home.snapshots, job.specs, as_of, trained.vectors_of, run, findings
            )
            on_stage("publish", 1, 1, "")
    return Refresh(
        run_id, as_of, tuple(snapshots), done_before=False, events=trained.events, findings=findings
    )


def restore(job: Job, as_of: datetime, on_stage: OnStage) -> Trained:
    """Train a refresh, or load it where it has been trained: its last checkpoint is the model."""
    parent = parent_of(job, as_of)
    folder = job.home.runs / run_id_of(job, as_of, parent)
    events, graph = read_graph(job, as_of, folder / "events", on_stage)
    scratch = folder / DISK if job.config.partitions > 1 else None
    start = _load_parent(job, parent, scratch)
    rehearsal = _rehearsed(job, events, parent, folder / "rehearsal", on_stage)
    config = rehearsal.settle(job.config, refresh=parent is not None) if rehearsal else job.config
    with TrainingLog(folder / LOG) as note:

        def tell(at: Progress) -> None:
            on_stage("train", at.step, at.total, note(at))

        if scratch is None:
            at = folder / "checkpoints"
            parameters = train(
                graph, config, device=job.device, checkpoint_dir=at, parent=start, on_progress=tell
            )
            optimizers = optimizers_at_end(at, graph, config, start)
        else:
            former, optimizers = Former(start, graph.keys) if start else None, None
            parameters = train_on_disk(
                GraphEdges(graph),
                config,
                scratch,
                former=former,
                device=job.device,
                on_progress=tell,
            )
    vanished = _vanished(job, parent, start, graph, as_of)
    return Trained(events, graph, parameters, optimizers, vanished, rehearsal, scratch)


def read_graph(
    job: Job, as_of: datetime, work: Path, on_stage: OnStage
) -> tuple[EventSet, TripleGraph]:
    """Read the events before `as_of` into `work` and build the graph that is trained on."""
    on_stage("read events", 0, 1, "")
    events = read_events(EventMapping.from_world(job.world), job.data, as_of, work)
    on_stage("read events", 1, 1, "")
    return events, graph_of(job, events)


def parent_of(job: Job, as_of: datetime) -> Snapshot | None:
    """The newest snapshot before `as_of`: the refresh that this one is held to.

    The first refresh of a version that is anchored to another is held to that one's newest.

    Raises ConfigError where there is none to be anchored to.
    """
    found = _known_before(job, as_of)
    if found is None and job.anchored_to is not None:
        raise ConfigError(
            f"version {job.version} of family {job.family} as of {as_of:%Y-%m-%d %H:%M}",
            found=f"no earlier snapshot of version {job.anchored_to}, which it is anchored to",
            expected="one to start from and to stay in the space of",
            remedy=f"Produce version {job.anchored_to} as of an earlier time first.",
        )
    return found


def _known_before(job: Job, as_of: datetime) -> Snapshot | None:
    """The newest snapshot before `as_of` of the version, else of the one it is anchored to."""
    former = newest_before(job.home.snapshots, job.specs[0].view_name, as_of)
    if former is not None or job.anchored_to is None:
        return former
    anchors = (
        newest_before(job.home.snapshots, f"{spec.name}_v{job.anchored_to}", as_of)
        for spec in job.specs
    )
    return next((anchor for anchor in anchors if anchor is not None), None)


def _rehearsed(
    job: Job, events: EventSet, parent: Snapshot | None, work: Path, on_stage: OnStage
) -> Rehearsal | None:
    """Rehearse the refresh as of some days earlier, if that is wanted and can be.

    Its parent is the one that it would have had then. A refresh whose parent came later than that
    has none, and can't be rehearsed: a first training needs other epochs.
    """
    how = job.config.early_stopping
    if how is None:
        return None
    cut = events.as_of - timedelta(days=how.hold_out_days)
    then = _known_before(job, cut)
    if events.window[0] >= cut or (then is None) != (parent is None):
        return None
    former, graph = read_graph(job, cut, work / "events", on_stage)
    return rehearse(
        graph,
        former,
        events,
        job.config,
        how,
        work / "checkpoints",
        device=job.device,
        parent=_load_parent(job, then),
        on_progress=lambda at: on_stage("rehearse", at.step, at.total, f"loss {at.loss:.3f}"),
    )


def _vanished(
    job: Job, parent: Snapshot | None, start: Parent | None, graph: TripleGraph, as_of: datetime
) -> dict[str, Vanished]:
    if parent is None or start is None:
        return {}
    keep, former_as_of = job.config.keep_vanished_days, parent.manifest.as_of
    return carried(start.vectors, start.vanished, former_as_of, graph.keys, as_of, keep)


def _load_parent(job: Job, parent: Snapshot | None, scratch: Path | None = None) -> Parent | None:
    """The parent's raw vectors of all entity types; where its run is gone, the published ones.

    The optimizers of another version had gradients of another size: they stay behind. With a
    `scratch` folder a run's vectors are mapped from files in it.

    Raises CheckpointError where the run is gone and only facets of it were published.
    """
    if parent is None:
        return None
    known = parent.manifest
    if (job.home.runs / known.run_id / "model").is_dir():
        loaded = load_run(job, known.run_id, scratch)
        return loaded if known.version == job.version else replace(loaded, state=None)
    found = {
        spec.entity: find_snapshot(job.home.snapshots, f"{spec.name}_v{known.version}", known.as_of)
        for spec in job.specs
        if spec.facet is None
    }
    if not found:
        raise CheckpointError(
            f"run {known.run_id}, the parent of {job.family} v{job.version}",
            found="no model, and of its snapshots only facets",
            expected="the raw vectors to start from",
            remedy=f"Restore {job.home.runs / known.run_id}, or declare a new version.",
        )
    return Parent({each: Vectors(*one.read()) for each, one in found.items() if one is not None})


def _keep(job: Job, folder: Path, trained: Trained) -> None:
    """Keep what the next refresh starts from, whole or not at all."""
    if (folder / "model").is_dir():
        return
    with whole_folder(job.home.runs, folder / "model") as staged:
        save_vectors(staged, trained.vectors())
        save_relations(staged / "relations.safetensors", trained.parameters, trained.graph)
        if trained.optimizers is not None:
            trained.optimizers.save(staged / STATE)
        save_vanished(staged, trained.vanished)


def _run_info(job: Job, run_id: str, parent: Snapshot | None, trained: Trained) -> RunInfo:
    judged = judge_parent(job, parent, trained.events)
    size = {"edges": trained.graph.edges, "entities": trained.graph.entities}
    rehearsal = trained.rehearsal
    return RunInfo(
        run_id=run_id,
        producer=PRODUCER,
        config_hash=job.config_hash,
        window_start=trained.events.window[0],
        window_end=trained.events.as_of,
        metrics={**size, **judged.metrics, **(rehearsal.metrics if rehearsal else {})},
        parent=parent.manifest.run_id if parent else None,
        notes={**judged.notes, **(rehearsal.notes if rehearsal else {})},
    )


def _count(job: Job, events: EventSet) -> None:
    for entity, join_key in _join_keys(job).items():
        write_counters(events, job.world.counters, entity, join_key, job.home.features)


def _join_keys(job: Job) -> dict[str, str]:
    return {spec.entity: spec.join_key for spec in job.specs}


def _counters(job: Job, as_of: datetime) -> list[Path]:
    return [counters_path(job.home.features, entity, as_of) for entity in _join_keys(job)]
