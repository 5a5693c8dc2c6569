"""One refresh of TransRA: events before T in, the snapshots of every view out.

What a refresh keeps lies in ``<home>/runs/<run id>``: the events as they were read, the checkpoints
and, once trained, the vectors and relations that the next refresh starts from. A run's id follows
from its world, configuration, as-of time and parent, so a run that was killed at any point is found
again by running the same command, and goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from provender.plugin.errors import ConfigError
from provender.plugin.files import whole_folder
from provender.plugin.home import Home
from provender.plugin.manifest import RunInfo
from provender.plugin.repo import DeclaredView
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.counters import write_counters
from provender.producers.event_mapping import EventMapping
from provender.producers.events import EventSet, read_events
from provender.producers.graph import TripleGraph, build_graph
from provender.producers.publish import publish, published
from provender.producers.trainer import train
from provender.producers.transra import TransRAParameters
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors, load_vectors, save_vectors
from provender.producers.warm_start import Parent, load_relations, save_relations

PRODUCER = "transra"
#: What a view declares without a bearing on its vectors; an anchor shows in the parent.
NOT_SHAPING = {"ttl", "family", "anchored_to"}
#: (what is being done, steps done, steps in all, a note such as the loss)
OnStage = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Job:
    """What to compute: a world's data, the views to fill, and how."""

    world: World
    data: Path
    home: Home
    specs: tuple[EmbeddingSpec, ...]
    config: TransRAConfig
    device: str = "auto"

    @classmethod
    def declare(
        cls, world: World, data: Path, home: Home, views: Sequence[DeclaredView], device: str
    ) -> Job:
        """Put a job together; the model's dim is the views' own.

        Raises ConfigError where the repo has no view of this producer, views of several dims, or
        keys of another type than the world declares.
        """
        mine = [view for view in views if view.spec.producer == PRODUCER]
        dims = {view.spec.dim for view in mine}
        if len(dims) != 1:
            raise ConfigError(
                "embedding views of producer transra",
                found=f"dims {sorted(dims)}" if dims else "none in the feature repo",
                expected="at least one view, and one dim for all: they share a space",
                remedy="Correct embedding_views.py.",
            )
        for view in mine:
            _check_key(view, world)
        dim = dims.pop()
        config = TransRAConfig.parse({"dim": dim, **world.transra})
        if config.dim != dim:
            raise ConfigError(
                "section transra, dim",
                found=str(config.dim),
                expected=f"{dim}, as the embedding views declare",
                remedy="Leave dim out of the world file: it follows the views.",
            )
        return cls(world, data, home, tuple(view.spec for view in mine), config, device)

    @property
    def config_hash(self) -> str:
        """SHA-256 of all that shapes the vectors: model, events, tables, views."""
        shape = {
            "transra": self.config.model_dump(mode="json"),
            "tables": {name: t.model_dump(mode="json") for name, t in self.world.tables.items()},
            "entities": self.world.entities,
            "events": self.world.events,
            "views": [spec.model_dump(mode="json", exclude=NOT_SHAPING) for spec in self.specs],
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Refresh:
    """What one refresh did."""

    run_id: str
    as_of: datetime
    snapshots: tuple[Snapshot, ...]
    done_before: bool
    events: EventSet | None = None


@dataclass(frozen=True)
class Trained:
    """A trained refresh in memory: what was read, the graph, the parameters."""

    events: EventSet
    graph: TripleGraph
    parameters: TransRAParameters


def _check_key(view: DeclaredView, world: World) -> None:
    declared = world.entities.get(view.spec.entity)
    if declared != view.key_type:
        raise ConfigError(
            f"entity {view.spec.entity} of {view.spec.view_name}",
            found=f"{view.key_type} keys in the feature repo",
            expected=f"{declared} keys, as the world file declares"
            if declared
            else f"an entity of the world file: {', '.join(world.entities)}",
            remedy="Correct value_type in entities.py, or the section entities of the world file.",
        )


def refresh(job: Job, as_of: datetime, on_stage: OnStage) -> Refresh:
    """Compute and publish one as-of time, going on where a former attempt stopped."""
    with job.home.locked("runs"):
        parent = _parent_snapshot(job, as_of)
        run_id = _run_id(job, as_of, parent)
        standing = published(job.home.snapshots, job.specs, as_of, run_id)
        if len(standing) == len(job.specs) and all(p.exists() for p in _counters(job, as_of)):
            return Refresh(run_id, as_of, tuple(standing), done_before=True)
        trained = restore(job, as_of, on_stage)
        folder = job.home.runs / run_id
        vectors = {
            entity: trained.parameters.vectors(trained.graph, entity)
            for entity in trained.graph.counts
        }
        _keep(job, folder, vectors, trained)
        on_stage("publish", 0, 1, "")
        for entity, join_key in _join_keys(job).items():
            write_counters(trained.events, job.world.counters, entity, join_key, job.home.features)
        run = RunInfo(
            run_id=run_id,
            producer=PRODUCER,
            config_hash=job.config_hash,
            window_start=trained.events.window[0],
            window_end=as_of,
            metrics={"edges": trained.graph.edges, "entities": trained.graph.entities},
            parent=parent.manifest.run_id if parent else None,
        )
        snapshots = publish(job.home.snapshots, job.specs, as_of, vectors, run)
        on_stage("publish", 1, 1, "")
    return Refresh(run_id, as_of, tuple(snapshots), done_before=False, events=trained.events)


def restore(job: Job, as_of: datetime, on_stage: OnStage) -> Trained:
    """Train a refresh, or load it where it has been trained: its last checkpoint is the model."""
    parent = _parent_snapshot(job, as_of)
    folder = job.home.runs / _run_id(job, as_of, parent)
    events, graph = read_graph(job, as_of, folder / "events", on_stage)
    parameters = train(
        graph,
        job.config,
        device=job.device,
        checkpoint_dir=folder / "checkpoints",
        parent=_load_parent(job, parent),
        on_progress=lambda done, total, loss: on_stage("train", done, total, f"loss {loss:.3f}"),
    )
    return Trained(events, graph, parameters)


def read_graph(
    job: Job, as_of: datetime, work: Path, on_stage: OnStage
) -> tuple[EventSet, TripleGraph]:
    """Read the events before `as_of` into `work` and build the graph that is trained on."""
    on_stage("read events", 0, 1, "")
    events = read_events(EventMapping.from_world(job.world), job.data, as_of, work)
    on_stage("read events", 1, 1, "")
    graph = build_graph(
        events.triples(),
        events.relations,
        {entity: events.keys(entity) for entity in events.counts},
        as_of=as_of,
        half_life_days=job.config.half_life_days,
        degree_cap=job.config.degree_cap,
        chosen=job.config.relations,
    )
    return events, graph


def _parent_snapshot(job: Job, as_of: datetime) -> Snapshot | None:
    """The newest snapshot before `as_of`: the refresh that this one is held to."""
    former = [
        snapshot
        for snapshot in find_snapshots(job.home.snapshots, job.specs[0].view_name)
        if snapshot.manifest.as_of < as_of
    ]
    return former[-1] if former else None


def _load_parent(job: Job, parent: Snapshot | None) -> Parent | None:
    """The parent's vectors of all entity types; only the published ones where its run is gone."""
    if parent is None:
        return None
    folder = job.home.runs / parent.manifest.run_id / "model"
    if folder.is_dir():
        return Parent(load_vectors(folder), load_relations(folder / "relations.safetensors"))
    found = [
        (spec.entity, snapshot)
        for spec in job.specs
        for snapshot in find_snapshots(job.home.snapshots, spec.view_name)
        if snapshot.manifest.as_of == parent.manifest.as_of
    ]
    return Parent({entity: Vectors(*snapshot.read()) for entity, snapshot in found})


def _keep(job: Job, folder: Path, vectors: dict[str, Vectors], trained: Trained) -> None:
    """Keep what the next refresh starts from, whole or not at all."""
    if (folder / "model").is_dir():
        return
    with whole_folder(job.home.runs, folder / "model") as staged:
        save_vectors(staged, vectors)
        save_relations(staged / "relations.safetensors", trained.parameters, trained.graph)


def _run_id(job: Job, as_of: datetime, parent: Snapshot | None) -> str:
    lineage = f"{job.config_hash} {as_of.isoformat()} {parent.manifest.run_id if parent else None}"
    return f"{PRODUCER}-{as_of:%Y%m%dT%H%M%SZ}-{hashlib.sha256(lineage.encode()).hexdigest()[:10]}"


def _join_keys(job: Job) -> dict[str, str]:
    return {spec.entity: spec.join_key for spec in job.specs}


def _counters(job: Job, as_of: datetime) -> list[Path]:
    stamp = f"{as_of:%Y%m%dT%H%M%SZ}.parquet"
    return [job.home.features / f"{entity}_counters" / stamp for entity in _join_keys(job)]
