"""One refresh of one version of LinkSage: rows before T in, the snapshots of its views out.

The first refresh of a version trains its model; those that follow take the model as it is, for a
version has one space, and embed what is new or has changed. What a refresh keeps lies in
``<home>/runs/<run id>``: the rows as they were read, features with their encoders, checkpoints, the
model, the vectors, and what they were made from. A run's id follows from its world, configuration,
as-of time and parent, so a run that was killed at any point is found again by running the same
command, and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import whole_folder
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.producers.linksage.config import NOT_SHAPING
from provender.producers.linksage.feature_reuse import FormerFeatures
from provender.producers.linksage.features import (
    ENCODERS,
    Features,
    compute_features,
    open_features,
)
from provender.producers.linksage.page_changes import Changes, Embedded, carried, changes
from provender.producers.linksage.page_embedding import (
    embed_pages,
    embed_pins,
    pins_with_vectors,
)
from provender.producers.linksage.page_folds import neighbours_apart
from provender.producers.linksage.page_graph import PageGraph, build_graph
from provender.producers.linksage.page_job import PRODUCER, PageJob
from provender.producers.linksage.page_model import PageModel, takes_given
from provender.producers.linksage.page_neighbours import Neighbours, find_neighbours
from provender.producers.linksage.page_quality import quality_since
from provender.producers.linksage.page_tables import PageSet, read_page_set
from provender.producers.linksage.page_training import train_pages
from provender.producers.publish import Gate
from provender.producers.refresh import LOG, OnStage, Refresh
from provender.producers.training_loop import Progress
from provender.producers.vectors import Vectors, load_vectors, save_vectors
from provender.producers.version_job import VersionJob
from provender.producers.version_lineage import check_first, is_own
from provender.producers.version_refresh import refresh_version

Floats = NDArray[np.float32]
#: Of a run's folder.
ROWS, FEATURES, MODEL = "rows", "features", "model"
_EMBEDDED = "embedded.parquet"
_ABOUT = "about.json"


@dataclass(frozen=True, eq=False)
class PageRun:
    """What a run has made: its vectors by entity, the model, what they were made from, figures."""

    folder: Path
    vectors: Mapping[str, Vectors]
    model: PageModel
    embedded: Embedded
    about: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> PageRun:
        """What a run has kept; raises CheckpointError where it is not there or damaged."""
        place = folder / MODEL
        try:
            about = json.loads((place / _ABOUT).read_bytes())
            embedded = Embedded.load(place / _EMBEDDED)
            vectors, model = load_vectors(place / "vectors"), PageModel.load(place / "weights")
        except (OSError, ValueError, KeyError, pa.ArrowException, CheckpointError) as error:
            raise _gone(folder, error) from None
        return cls(folder, vectors, model, embedded, about)

    def features(self) -> FormerFeatures:
        """What its rows showed, and the encoders of that."""
        place = self.folder / FEATURES
        try:
            rows = PageSet.open(self.folder / ROWS)
            return FormerFeatures(rows, open_features(place), place / ENCODERS)
        except (OSError, ValueError, KeyError, CheckpointError) as error:
            raise _gone(self.folder, error) from None

    def vectors_of(self, spec: EmbeddingSpec) -> Vectors:
        """What a view holds."""
        return self.vectors[spec.entity]

    def info(self, job: VersionJob, run_id: str, parent: Snapshot | None) -> RunInfo:
        """What the manifests say of it."""
        counts = self.about["pages"]
        return RunInfo(
            run_id=run_id,
            producer=PRODUCER,
            config_hash=job.config_hash,
            window_start=datetime.fromisoformat(self.about["since"]),
            window_end=datetime.fromisoformat(self.about["as_of"]),
            metrics={
                **{f"pages/{name}": float(count) for name, count in counts.items()},
                "edges": float(sum(self.about["graph"]["edges"]["after min_degree"].values())),
                **self.about.get("quality", {}),
            },
            parent=parent.manifest.run_id if parent else None,
            notes={"trained_as_of": self.about["trained_as_of"]},
        )

    def save(self, root: Path) -> None:
        """Keep it, whole or not at all."""
        with whole_folder(root, self.folder / MODEL) as staged:
            (staged / "vectors").mkdir()
            save_vectors(staged / "vectors", self.vectors)
            self.model.save(staged / "weights")
            self.embedded.save(staged / _EMBEDDED)
            (staged / _ABOUT).write_text(json.dumps(self.about, indent=1))


def _gone(folder: Path, error: Exception) -> CheckpointError:
    told = error.found if isinstance(error, CheckpointError) else None
    return CheckpointError(
        f"run {folder.name}",
        found=told or f"{type(error).__name__}: {error}",
        expected="what a refresh of LinkSage goes on from",
        remedy=f"Restore {folder}, or declare a new version.",
    )


def refresh_pages(
    job: PageJob,
    as_of: datetime,
    on_stage: OnStage,
    gate: Gate | None = None,
    *,
    dry_run: bool = False,
) -> Refresh:
    """Compute and publish one as-of time, going on where a former attempt stopped.

    A gate is asked of every view before anything is published; if it refuses one, nothing is. With
    `dry_run` nothing is published in any case.

    Raises ConfigError where the settings of the model are others than the version was trained
    with, or where a model would be trained whose space is not the version's; CheckpointError where
    what the last refresh has kept is gone.
    """
    return refresh_version(
        job,
        as_of,
        lambda parent, folder: _run(job, as_of, parent, folder, on_stage),
        on_stage,
        gate,
        dry_run=dry_run,
    )


def _run(
    job: PageJob, as_of: datetime, parent: Snapshot | None, folder: Path, on_stage: OnStage
) -> PageRun:
    """Make the vectors of a refresh, or load them where they have been made."""
    if (folder / MODEL).is_dir():
        return PageRun.load(folder)
    former = None
    if parent is None:
        if job.learns_space:
            check_first(job, as_of)
    elif is_own(job, parent):
        former = PageRun.load(job.home.runs / parent.manifest.run_id)
        _check_settings(job, former.model)
    made = _Making(job, as_of, folder, former, on_stage)
    run = made.incrementally(former) if former and not made.too_old else made.anew()
    run.save(job.home.runs)
    return run


@dataclass(frozen=True)
class _Making:
    """The way from rows to vectors."""

    job: PageJob
    as_of: datetime
    folder: Path
    former: PageRun | None
    on_stage: OnStage

    @property
    def too_old(self) -> bool:
        """Whether the model is so old that it is to be trained anew."""
        most = self.job.config.incremental.full_after_days
        if most is None or self.former is None:
            return False
        trained = datetime.fromisoformat(self.former.about["trained_as_of"])
        return (self.as_of - trained).total_seconds() >= most * 86_400

    def anew(self) -> PageRun:
        """Fit, train and embed all."""
        config, world = self.job.config, self._prepared(None)
        if (self.former or self.job.anchored_to) and not takes_given(config, world.features):
            raise _no_targets(self.job)
        model = train_pages(
            config,
            world.features,
            world.graph,
            neighbours_apart(world.graph, config.walks, config.training.seed),
            self.folder / LOG,
            self.job.device,
            on_progress=self._trained,
        )
        now = world.embedded()
        pages = self._embed(model, world, np.arange(len(now.keys)))
        about = self._about(world, self.as_of, {"new": len(pages)})
        if self.former is not None:
            about |= self._judged(self.former, world)
        return PageRun(self.folder, self._vectors(model, world, pages), model, now, about)

    def incrementally(self, former: PageRun) -> PageRun:
        """Embed what is new or has changed with the former model, and keep all other vectors."""
        world = self._prepared(former)
        now = world.embedded()
        found = changes(now, former.embedded, self.job.config.incremental.neighbourhood_change)
        pages = _kept(former.vectors["page"].vectors, found)
        anew = np.flatnonzero(found.any)
        pages[anew] = self._embed(former.model, world, anew)
        trained = datetime.fromisoformat(former.about["trained_as_of"])
        return PageRun(
            self.folder,
            self._vectors(former.model, world, pages),
            # Its graph and its walks may be other ones by now: streams take them from the model.
            replace(former.model, config=self.job.config),
            carried(now, former.embedded, found),
            self._about(world, trained, found.counts()) | self._judged(former, world),
        )

    def _judged(self, former: PageRun, world: _Prepared) -> dict[str, Any]:
        """What the former refresh was worth, by what has become known since."""
        self.on_stage("judge the former", 0, 1, "")
        pins = embed_pins(former.model, world.features, device="cpu")
        rows = PageSet.open(former.folder / ROWS)
        dims = self.job.config.model.nested_dims
        quality = quality_since(
            rows, world.rows, former.vectors["page"], pins_with_vectors(world.features, pins), dims
        )
        self.on_stage("judge the former", 1, 1, "")
        return {"quality": quality.metrics() if quality else {"quality": None}}

    def _prepared(self, former: PageRun | None) -> _Prepared:
        """Read the rows before the cut, and make what the model looks at."""
        job, config, tell = self.job, self.job.config, self.on_stage
        tell("read pages", 0, 1, "")
        if (self.folder / ROWS).is_dir():
            # The home may have been moved since they were read.
            rows = replace(PageSet.open(self.folder / ROWS), data=job.data)
        else:
            rows = read_page_set(
                job.sources,
                job.world.tables,
                job.data,
                self.folder / ROWS,
                key_types=job.key_types,
                as_of=self.as_of,
            )
        tell("read pages", 1, 1, "")
        tell("features", 0, 1, "")
        known = former.features() if former else None
        features = compute_features(rows, config.features, self.folder / FEATURES, former=known)
        tell("features", 1, 1, "")
        tell("graph", 0, 2, "")
        graph = build_graph(rows, features, config.graph)
        tell("graph", 1, 2, "walks")
        neighbours = find_neighbours(graph, config.walks, config.training.seed)
        tell("graph", 2, 2, "")
        return _Prepared(rows, features, graph, neighbours)

    def _trained(self, at: Progress) -> None:
        note = f"loss {at.loss:.3f}, {at.rate:,.0f} positives/s"
        self.on_stage("train", at.step, at.total, note)

    def _embed(self, model: PageModel, world: _Prepared, pages: NDArray[np.int64]) -> Floats:
        return embed_pages(
            model,
            world.features,
            world.graph,
            world.neighbours,
            torch.from_numpy(pages),
            device=self.job.device,
            on_progress=lambda done, total: self.on_stage("embed", done, total, ""),
        )

    def _vectors(self, model: PageModel, world: _Prepared, pages: Floats) -> dict[str, Vectors]:
        """By entity, those of which there are views."""
        found = {"page": Vectors(world.features.pages.keys, pages)}
        if any(spec.entity == "pin" for spec in self.job.specs):
            pins = embed_pins(model, world.features, device=self.job.device)
            found["pin"] = pins_with_vectors(world.features, pins)
        return found

    def _about(
        self, world: _Prepared, trained_as_of: datetime, counts: Mapping[str, int]
    ) -> dict[str, Any]:
        return {
            "as_of": self.as_of.isoformat(),
            "since": _since(world.rows, self.as_of).isoformat(),
            "trained_as_of": trained_as_of.isoformat(),
            "pages": dict(counts),
            "rows": world.rows.report,
            "graph": world.graph.report,
        }


@dataclass(frozen=True, eq=False)
class _Prepared:
    rows: PageSet
    features: Features
    graph: PageGraph
    neighbours: Neighbours

    def embedded(self) -> Embedded:
        return Embedded.of(self.rows, self.graph, self.neighbours)


def _kept(former: Floats, found: Changes) -> Floats:
    """Rows for all pages of now, of which those that have not changed are filled."""
    rows = np.zeros((len(found.former), former.shape[1]), np.float32)
    rows[~found.any] = former[found.former[~found.any]]
    return rows


def _since(rows: PageSet, as_of: datetime) -> datetime:
    """The time of the oldest row that has one."""
    times = [pc.min(pq.read_table(f, columns=["since"])["since"]) for f in (rows.pages, rows.pins)]
    known = [time.as_py() for time in times if time.is_valid]
    return min(known, default=as_of)


def _check_settings(job: PageJob, model: PageModel) -> None:
    for name in ("model", "features", "training"):
        wanted, there = getattr(job.config, name), getattr(model.config, name)
        fields = set(type(wanted).model_fields) - NOT_SHAPING.get(name, set())
        changed = sorted(f for f in fields if getattr(wanted, f) != getattr(there, f))
        if changed:
            key = changed[0]
            raise ConfigError(
                f"section linksage, {name}.{key}, version {job.version} of {job.family}",
                found=repr(getattr(wanted, key)),
                expected=f"{getattr(there, key)!r}, as its model was trained with",
                remedy="Declare another version for it: vectors of one version share a space.",
            )


def _no_targets(job: PageJob) -> ConfigError:
    return ConfigError(
        f"targets of pins, version {job.version} of {job.family}",
        found="no pin with a given vector",
        expected="given vectors: a pin tower trained anew would make another space",
        remedy="Correct `pins.target` of the world file, or declare another version.",
    )
