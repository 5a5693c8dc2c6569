"""One refresh of one version of upstream towers: logs before T in, the snapshots of its views out.

The first refresh of a version trains its towers on all that is known; those that follow go on with
them over the labels that have become known since, once and in time order, and write vectors of the
users that were active and of all live pins. Who is not among them keeps the vector that he has, in
an older snapshot and with its true age: that is where point-in-time joins and the online store find
it.

What a refresh keeps lies in ``<home>/runs/<run id>``: the rows as they were read, checkpoints, the
towers, their id tables and optimizer, the vectors. A run's id follows from its world,
configuration, as-of time and parent, so a run that was killed at any point is found again by
running the same command, and goes on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import whole_folder
from provender.plugin.home import Home
from provender.plugin.manifest import RunInfo
from provender.plugin.repo import views_in_repo
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers import ranks
from provender.producers.devices import pick_device
from provender.producers.publish import Gate
from provender.producers.refresh import LOG, OnStage, Refresh
from provender.producers.upstream.decayed_means import DecayedSums
from provender.producers.upstream.declarations import (
    ContextDeclaration,
    LabelDeclaration,
    TowerSources,
)
from provender.producers.upstream.example_files import ExampleFile
from provender.producers.upstream.example_stream import ExampleStream
from provender.producers.upstream.preprocessing import Fitted
from provender.producers.upstream.pretrained_ids import Pretrained, cut_of, pretrained, wanted
from provender.producers.upstream.task_scores import former_figures
from provender.producers.upstream.tower_embedding import embed
from provender.producers.upstream.tower_features import TowerFeatures
from provender.producers.upstream.tower_inputs import open_inputs
from provender.producers.upstream.tower_job import PRODUCER, TowerJob
from provender.producers.upstream.tower_reading import read_tower_set
from provender.producers.upstream.tower_set import ENTITIES, Entity, TowerSet
from provender.producers.upstream.tower_training import moments_at_end, train_towers
from provender.producers.upstream.upstream_model import UpstreamModel
from provender.producers.vectors import Vectors, load_vectors, save_vectors
from provender.producers.version_job import VersionJob
from provender.producers.version_lineage import check_first
from provender.producers.version_refresh import refresh_version

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Of a run's folder.
ROWS, MODEL, SCRATCH, PRETRAINING = "rows", "model", "scratch", "pretraining"
_TOWERS, _VECTORS, _SUMS, _ABOUT = "towers", "vectors", "sums.parquet", "about.json"


@dataclass(frozen=True, eq=False)
class TowerRun:
    """What a run has made: towers, scales, vectors by entity, sums of users' vectors, figures."""

    folder: Path
    model: UpstreamModel
    fitted: Fitted
    vectors: Mapping[str, Vectors]
    sums: DecayedSums | None
    about: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> TowerRun:
        """What a run has kept; raises CheckpointError where it is not there or damaged."""
        place = folder / MODEL
        try:
            about = json.loads((place / _ABOUT).read_bytes())
            model, vectors = UpstreamModel.load(place / _TOWERS), load_vectors(place / _VECTORS)
            latest = model.config.embedding.aggregate == "latest"
            return cls(
                folder,
                model,
                Fitted.load(place),
                {each: vectors[each] for each in ENTITIES},
                None if latest else DecayedSums.load(place / _SUMS),
                about,
            )
        except (OSError, ValueError, KeyError, pa.ArrowException, CheckpointError) as error:
            told = error.found if isinstance(error, CheckpointError) else None
            raise CheckpointError(
                f"run {folder.name}",
                found=told or f"{type(error).__name__}: {error}",
                expected="what a refresh of upstream towers goes on from",
                remedy=f"Restore {folder}, or declare a new version.",
            ) from None

    def save(self, root: Path) -> None:
        """Keep it, whole or not at all."""
        with whole_folder(root, self.folder / MODEL) as staged:
            self.model.save(staged / _TOWERS)
            self.fitted.save(staged)
            (staged / _VECTORS).mkdir()
            save_vectors(staged / _VECTORS, self.vectors)
            if self.sums is not None:
                self.sums.save(staged / _SUMS)
            (staged / _ABOUT).write_text(json.dumps(self.about, indent=1))

    def vectors_of(self, spec: EmbeddingSpec) -> Vectors:
        """What a view holds."""
        return self.vectors[spec.entity]

    def info(self, job: VersionJob, run_id: str, parent: Snapshot | None) -> RunInfo:
        """What the manifests say of it."""
        about = self.about
        return RunInfo(
            run_id=run_id,
            producer=PRODUCER,
            config_hash=job.config_hash,
            window_start=datetime.fromisoformat(about["since"]),
            window_end=datetime.fromisoformat(about["as_of"]),
            metrics={**about["counts"], **about["quality"]},
            parent=parent.manifest.run_id if parent else None,
            notes={"trained_since": about["first_as_of"]},
        )


def refresh_towers(
    job: TowerJob,
    as_of: datetime,
    on_stage: OnStage,
    gate: Gate | None = None,
    *,
    dry_run: bool = False,
) -> Refresh:
    """Compute and publish one as-of time, going on where a former attempt stopped.

    Raises as `refresh_version` does; ConfigError where the towers or what they see are declared
    otherwise than the version was trained with, and CheckpointError where what the last refresh
    has kept is gone.
    """
    return refresh_version(
        job,
        as_of,
        lambda parent, folder: _run(job, as_of, parent, folder, on_stage),
        on_stage,
        gate,
        dry_run=dry_run,
    )


def train_along(order: Mapping[str, Any]) -> None:
    """Train with the process that makes a refresh, as it has ordered (producers/ranks.py).

    Both read the files of the refresh, so that all processes need the folder of its home.
    """
    home, repo = Home(Path(order["home"])), Path(order["repo"])
    job = TowerJob.declare(
        World.model_validate(order["world"]),
        Path(order["data"]),
        home,
        views_in_repo(repo),
        order["device"],
        family=order["family"],
        version=order["version"],
    )
    former = TowerRun.load(home.runs / order["former"]) if order["former"] else None
    making = _Making(
        replace(job, repo=repo), _time(order["as_of"]), home.runs / order["run"], former, _quiet
    )
    making.along()


def _run(
    job: TowerJob, as_of: datetime, parent: Snapshot | None, folder: Path, on_stage: OnStage
) -> TowerRun:
    """Make the vectors of a refresh, or load them where they have been made."""
    if (folder / MODEL).is_dir():
        return TowerRun.load(folder)
    former = None
    if parent is None:
        check_first(job, as_of)
    else:
        former = TowerRun.load(job.home.runs / parent.manifest.run_id)
        _check_settings(job, former)
    run = _Making(job, as_of, folder, former, on_stage).run()
    run.save(job.home.runs)
    return run


@dataclass(frozen=True)
class _Making:
    """The way from logs to vectors."""

    job: TowerJob
    as_of: datetime
    folder: Path
    former: TowerRun | None
    on_stage: OnStage

    def run(self) -> TowerRun:
        rows, features, model = self._prepared()
        judged = self._judged(rows, features)
        model = self._trained(rows, features, model).to(pick_device(self.job.device))
        vectors: dict[str, Vectors] = {
            each: self._embedded(model, features, each) for each in ENTITIES
        }
        sums = self._sums(vectors["user"])
        if sums is not None:
            vectors["user"] = sums.means(vectors["user"].keys)
        about = self._about(rows, vectors, judged)
        model = model.to(pick_device("cpu"))
        return TowerRun(self.folder, model, features.fitted, vectors, sums, about)

    def _prepared(self) -> tuple[TowerSet, TowerFeatures, UpstreamModel]:
        """The rows before the cut, what the towers see of them, and the towers to go on with."""
        job, tell, former = self.job, self.on_stage, self.former
        rows = self._rows()
        tell("features", 0, 1, "")
        opened = open_inputs(
            rows,
            job.sources,
            former.model.tables if former else None,
            job.repo or job.home.repo,
            self.folder / SCRATCH,
            job.config.training.seed,
            start=self._pretrained(rows),
        )
        fitted = former.fitted if former else opened.reader.fit(job.config.training.seed)
        features = opened.reader.using(fitted)
        tell("features", 1, 1, "")
        if former is None:
            seed = job.config.training.seed
            model = UpstreamModel.new(job.config, features.layout, opened.tables, seed)
        else:
            model = replace(
                former.model,
                config=job.config,
                towers=copy.deepcopy(former.model.towers),  # the former ones are held against
                tables=copy.deepcopy(dict(opened.tables)),
            )
        return rows, features, model

    def _pretrained(self, rows: TowerSet) -> Pretrained | None:
        """What id rows of the first refresh start from, where it is so declared."""
        job, features = self.job, self.job.sources.features
        if self.former is not None or features is None or not wanted(features):
            return None
        here = ranks.current()
        if here and here.rank:  # It gets rows as the leading process has them.
            return Pretrained({}, cut_of(rows))
        return pretrained(
            job.world,
            job.data,
            features,
            rows,
            self.folder / PRETRAINING,
            job.config.training.seed,
            lambda done, total: self.on_stage("pretrain ids", done, total, ""),
        )

    def _rows(self) -> TowerSet:
        job, place = self.job, self.folder / ROWS
        if place.is_dir():
            return TowerSet.open(place)
        self.on_stage("read logs", 0, 1, "")
        days = job.config.training.history_days
        first = self.former is None
        rows = read_tower_set(
            job.sources,
            job.world,
            job.data,
            place,
            self.as_of,
            since=None if self.former is None else _time(self.former.about["as_of"]),
            start=self.as_of - timedelta(days=days) if first and days else None,
            seed=job.config.training.seed,
        )
        self.on_stage("read logs", 1, 1, "")
        return rows

    def _judged(self, rows: TowerSet, features: TowerFeatures) -> dict[str, float | None]:
        """What the former towers say of the labels that have become known since."""
        if self.former is None or not len(ExampleFile(rows)):
            return {}
        self.on_stage("judge the former", 0, 1, "")
        model, device = self.former.model, self.job.device
        found = former_figures(rows, features, model, self.former.vectors, device)
        self.on_stage("judge the former", 1, 1, "")
        return found

    def _trained(
        self, rows: TowerSet, features: TowerFeatures, model: UpstreamModel
    ) -> UpstreamModel:
        if not len(ExampleFile(rows)):
            return model  # Nothing has become known.
        here = ranks.current()
        if here and not here.rank:
            here.post(**self._order())
        return self._train(rows, features, model)

    def along(self) -> None:
        """Train as `run` does, in a process that the run's has ordered to."""
        self._train(*self._prepared())

    def _train(
        self, rows: TowerSet, features: TowerFeatures, model: UpstreamModel
    ) -> UpstreamModel:
        training, here = self.job.config.training, ranks.current()
        if here:
            here.meet()
            for tensor in _tensors(model):
                ranks.broadcast(tensor)
        stream = ExampleStream(
            rows,
            features.reader,
            features.fitted,
            training.batch_size,
            training.seed,
            context_dropout=training.context_dropout,
        )
        return train_towers(
            model,
            stream,
            self.job.config,
            self.folder / LOG,
            mark=self.folder.name,
            former=self.former.model if self.former else None,
            moments=self._moments(),
            device=self.job.device,
            on_progress=lambda at: self.on_stage(
                "train", at.step, at.total, f"loss {at.loss:.3f}, {at.rate:,.0f} examples/s"
            ),
        )

    def _order(self) -> dict[str, Any]:
        """What other processes need to train along; they read the same files."""
        job = self.job
        return {
            "do": "towers",
            "world": job.world.model_dump(mode="json"),
            "data": str(job.data),
            "home": str(job.home.path),
            "repo": str(job.repo or job.home.repo),
            "family": job.family,
            "version": job.version,
            "device": job.device,
            "as_of": self.as_of.isoformat(),
            "run": self.folder.name,
            "former": self.former.folder.name if self.former else None,
        }

    def _moments(self) -> Mapping[str, Tensor] | None:
        """What the optimizer remembered at the end of the last refresh; nothing if none trained."""
        if self.former is None:
            return None
        folder = self.former.folder
        return moments_at_end(folder / LOG, self.former.model.config, folder.name)

    def _embedded(self, model: UpstreamModel, features: TowerFeatures, entity: Entity) -> Vectors:
        return embed(
            model,
            features,
            self.job.config.embedding,
            entity,
            lambda done, total: self.on_stage(f"embed {entity}s", done, total, ""),
            self.folder / SCRATCH,
        )

    def _sums(self, users: Vectors) -> DecayedSums | None:
        config = self.job.config.embedding
        if config.aggregate == "latest":
            return None
        former = self.former.sums if self.former else None
        known = former or DecayedSums.none(users.keys, users.dim)
        return known.after(users, self.as_of, config.half_life_days)

    def _about(
        self,
        rows: TowerSet,
        vectors: Mapping[str, Vectors],
        judged: Mapping[str, float | None],
    ) -> dict[str, Any]:
        """What is told of the run; `without` are those who keep an older vector, if any."""
        former = self.former
        counts: dict[str, float] = {}
        for each, found in vectors.items():
            counts[f"{each}s/embedded"] = float(len(found.keys))
            counts[f"{each}s/without"] = float(len(rows.keys(each)) - len(found.keys))
        return {
            "as_of": self.as_of.isoformat(),
            "since": former.about["as_of"] if former else _first_time(rows).isoformat(),
            "first_as_of": former.about["first_as_of"] if former else self.as_of.isoformat(),
            **_seen(self.job.sources),
            "counts": counts,
            "quality": dict(judged),
            "rows": rows.report,
        }


def _tensors(model: UpstreamModel) -> list[Tensor]:
    """All that training changes, in the same order everywhere."""
    tables = [model.tables[each] for each in ENTITIES if each in model.tables]
    own = [tensor for table in tables for tensor in (table.values, table.squares)]
    return [*model.towers.state_dict().values(), *own]


def _quiet(stage: str, done: int, total: int, note: str) -> None:
    """Only one process tells."""


def _first_time(rows: TowerSet) -> datetime:
    """The time of the first event of a user."""
    first = pc.min(rows.entities("user")["first"]).as_py()
    return rows.as_of if first is None else _EPOCH + timedelta(microseconds=first)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _check_settings(job: TowerJob, former: TowerRun) -> None:
    """Raise ConfigError where the towers can't go on from the former ones."""
    name = f"version {job.version} of {job.family}"
    wanted, there = job.config, former.model.config
    models = [each.model.model_dump(mode="json") for each in (wanted, there)]
    changed: list[tuple[str, Any, Any]] = [
        (f"model.{k}", v, models[1][k]) for k, v in models[0].items()
    ]
    now, then = (each.training.task_weights == "uncertainty" for each in (wanted, there))
    changed.append(("training.task_weights learned", now, then))
    seen = _seen(job.sources)
    changed += [(key, seen[key], former.about[key]) for key in seen]
    for key, now, then in changed:
        if _ordered(now) != _ordered(then):
            raise ConfigError(
                f"section upstream, {key}, {name}",
                found=_shown(now, then),
                expected=f"{_shown(then, now)}, as its towers were trained with",
                remedy="Declare another version for it: vectors of one version share a space.",
            )


def _seen(sources: TowerSources) -> dict[str, Any]:
    """What towers are made for, in an order that counts: that of their inputs and heads.

    Another window of a label would have rows learned from twice, or never.
    """
    contexts = [source.context.model_dump(mode="json") for source in sources.sources.values()]
    windows = {
        f"{source}.{task}": label.within.total_seconds()
        for source, one in sources.sources.items()
        for task, label in one.labels.items()
        if isinstance(label, LabelDeclaration)
    }
    return {
        "tasks": list(sources.tasks),
        "liked": list(sources.liked),
        "within": dict(sorted(windows.items())),
        "features": sources.model_dump(mode="json")["features"],
        "context": {
            kind: {name: one for each in contexts for name, one in each[kind].items()}
            for kind in ContextDeclaration.model_fields
        },
    }


def _ordered(value: Any) -> str:
    """Equal for equal values, of mappings in the same order."""
    return json.dumps(value)


def _shown(value: Any, other: Any) -> str:
    """A value; of mappings only what differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        differing = {k: v for k, v in value.items() if _ordered(other.get(k)) != _ordered(v)}
        key = next(iter(differing), None)
        if key is not None:
            return f"{key}: {_shown(differing[key], other.get(key))}"
        gone = other.keys() - value.keys()
        return f"nothing of {', '.join(gone)}" if gone else f"the order {', '.join(value)}"
    return repr(value)
