"""What a study works on: impressions joined once with all embeddings there are, before and after.

Every variant sees the same rows in the same order; it is given those vectors alone that it uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from feast import FeatureStore

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.features import FeatureLayout
from provender.consumers.finetuning import KEYS, past_of, table_name, table_views
from provender.consumers.impressions import load_impressions, log_end, with_known_labels
from provender.consumers.ranker_config import RankerConfig, TableConfig
from provender.consumers.ranker_evaluation import Mask, cold_segments
from provender.consumers.study.variants import Variant
from provender.consumers.training_join import TrainingSet, training_join
from provender.consumers.user_history import HistorySpec
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import ConfigError
from provender.plugin.snapshot_source import snapshot_folder, snapshots_at, source_path
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World

#: Called with what is being done.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class StudyData:
    """Rows to learn from and later ones, with every family's vectors, and where tables begin.

    Attributes:
        store: where the views are.
        training, evaluation: joined with all of the layout.
        segments: name -> bool (n,) of the evaluation's rows; `all` is the first.
        table_views: join key -> the view whose rows a table begins as.
        spec: what is seen of the past, where the world says what users did.
        backfills: whether vectors count that were written after a row.
        digest: of all that the rows hold, and of the runs that the vectors are from.
    """

    store: FeatureStore
    training: TrainingSet
    evaluation: TrainingSet
    segments: Mapping[str, Mask]
    table_views: Mapping[str, EmbeddingSpec]
    spec: HistorySpec | None
    backfills: bool
    digest: str

    @property
    def families(self) -> list[str]:
        """Those whose vectors there are, by name."""
        return sorted({spec.family for spec in self.training.layout.embeddings})

    @property
    def has_history(self) -> bool:
        """Whether it is known what users did before."""
        return self.spec is not None

    def seen_by(self, variant: Variant) -> tuple[TrainingSet, TrainingSet]:
        """The rows as a variant sees them: its families' vectors, the past if it looks there."""
        return _seen(self.training, variant), _seen(self.evaluation, variant)

    def config(self, variant: Variant) -> RankerConfig:
        """The ranker of a variant."""
        tables = tuple(
            TableConfig(
                name=table_name(key),
                join_key=key,
                dim=spec.dim,
                view=spec.view_name if variant.tables == "snapshot" else None,
                corrects=spec.view_name if variant.tables == "residual" else None,
            )
            for key, spec in self.table_views.items()
            if variant.tables is not None
        )
        history = self.spec if variant.history else None
        return RankerConfig(vectors=variant.vectors, tables=tables, history=history)

    def tables(self, variant: Variant, rate: float, seed: int) -> dict[str, EntityTable]:
        """The tables of a variant as they begin: rows for whoever is in the training rows.

        Those that begin as a view's vectors take what was known before the first of these rows.

        Args:
            rate: at which rows learn.
        """
        if variant.tables is None:
            return {}
        training = RowTraining(rate=rate)
        start, _ = self.training.window()
        found = {}
        for key, spec in self.table_views.items():
            keys = pc.drop_null(self.training.rows.keys[key]).unique()
            name = table_name(key)
            if variant.tables == "nothing":
                found[name] = EntityTable.from_nothing(keys, spec.dim, seed=seed, training=training)
            elif variant.tables == "residual":
                found[name] = EntityTable.of_zeros(keys, spec.dim, training=training)
            else:
                found[name] = EntityTable.from_view(
                    self.store,
                    spec.view_name,
                    start,
                    keys,
                    seed=seed,
                    training=training,
                    backfills=self.backfills,
                )
        return found


def study_data(
    store: FeatureStore,
    world: World,
    data: Path,
    work: Path,
    *,
    service: str,
    families: Collection[str] = (),
    backfills: bool,
    tell: Tell,
) -> StudyData:
    """Read the impressions between the refreshes and those after the last one, and join them.

    Args:
        data: the folder of the world's tables.
        work: a folder for spill files.
        service: the registered feature service of the ordinary features.
        families: whose vectors are looked at; all that have any by default.
        backfills: whether vectors count that were written after an impression.
        tell: called with what is being done.

    Raises:
        ConfigError: no family has vectors of users or pins, or one that is asked for has none.
        MappingError, BadRowsError: as `load_impressions`.
    """
    layout = _layout(store, service, families)
    first = world.dates.as_ofs()[0]
    last, end = world.dates.evaluation()
    tell("read the past")
    where = (store, world, data, work, layout)
    actions = past_of(*where, before=end, backfills=backfills)
    joined = []
    # The log may end before all that follows the last impressions has come.
    known = log_end(world, data, work)
    for name, span, until in (
        ("training", (first, last), last),
        ("evaluation", (last, end), known),
    ):
        tell(f"label {name} impressions")
        shown = with_known_labels(load_impressions(world, data, *span, until, work))
        tell(f"join {name} impressions")
        joined.append(training_join(store, shown, layout, backfills=backfills, actions=actions))
    training, evaluation = joined
    everyone = np.ones(len(evaluation), dtype=np.bool_)
    return StudyData(
        store=store,
        training=training,
        evaluation=evaluation,
        segments={"all": everyone, **cold_segments(training, evaluation)},
        table_views=table_views(layout),
        spec=None if actions is None else actions.spec,
        backfills=backfills,
        digest=_digest(training, evaluation),
    )


def _layout(store: FeatureStore, service: str, families: Collection[str]) -> FeatureLayout:
    """The service's ordinary features, and each family's newest views of users and pins."""
    base = FeatureLayout.of_service(store, service)
    newest: dict[str, EmbeddingSpec] = {}
    for spec in embedding_specs(store).values():
        held = newest.get(spec.name)
        if spec.join_key in KEYS and _has_vectors(store, spec):
            newest[spec.name] = spec if held is None or held.version < spec.version else held
    there = sorted({spec.family for spec in newest.values()})
    lacking = sorted(set(families) - set(there))
    if lacking or not there:
        raise ConfigError(
            "study, families",
            found=f"no vectors of {', '.join(lacking) or 'any'}",
            expected=f"some of {', '.join(there) or 'transra, linksage or upstream'}",
            remedy="Write them first: `provender produce`.",
        )
    chosen = [
        spec
        for spec in sorted(newest.values(), key=lambda each: (each.family, each.view_name))
        if not families or spec.family in families
    ]
    return base.model_copy(update={"embeddings": tuple(chosen)})


def _has_vectors(store: FeatureStore, spec: EmbeddingSpec) -> bool:
    """Whether a view has a snapshot; files of the user's own are taken to have vectors."""
    path = source_path(store.get_feature_view(spec.view_name).batch_source)
    return snapshot_folder(path) is None or bool(snapshots_at(path))


def _seen(rows: TrainingSet, variant: Variant) -> TrainingSet:
    views = tuple(spec for spec in rows.layout.embeddings if spec.family in variant.families)
    names = {spec.view_name for spec in views}
    batch = rows.rows
    past = batch.history if variant.history else None
    if past is not None:
        past = replace(
            past,
            vectors={name: each for name, each in past.vectors.items() if name in names},
            present={name: each for name, each in past.present.items() if name in names},
        )
    seen = replace(
        batch,
        vectors={name: batch.vectors[name] for name in names},
        present={name: batch.present[name] for name in names},
        age_seconds={name: batch.age_seconds[name] for name in names},
        history=past,
    )
    layout = rows.layout.model_copy(update={"embeddings": views})
    runs = {name: each for name, each in rows.runs.items() if name in names}
    return replace(rows, layout=layout, rows=seen, runs=runs)


def _digest(*parts: TrainingSet) -> str:
    """Of the rows' times, labels and weights, and of the runs that their vectors are from."""
    digest = hashlib.sha256()
    for rows in parts:
        digest.update(rows.layout.model_dump_json().encode())
        digest.update(
            str({view: [run.run_id for run in runs] for view, runs in rows.runs.items()}).encode()
        )
        digest.update(rows.times.tobytes())
        batch = rows.rows
        for told in (batch.labels, batch.weights, batch.present, {"": batch.dense}):
            for name in sorted(told):
                digest.update(name.encode() + told[name].numpy().tobytes())
        for columns in (batch.keys, batch.context):
            for name in sorted(columns):
                digest.update(f"{name}{columns[name].to_pylist()}".encode())
        if rows.rows.history is not None:
            digest.update(rows.rows.history.items.numpy().tobytes())
    return digest.hexdigest()
