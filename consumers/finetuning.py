"""What attention finetuning takes beside vectors: the users' past, and rows that correct them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
from feast import FeatureStore

from provender.consumers.action_log import ActionLog
from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.features import FeatureLayout
from provender.consumers.ranker_config import TableConfig
from provender.consumers.ranking_task import PIN, USER, RankingTask
from provender.consumers.training_join import TrainingSet
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World

KEYS = (USER, PIN)
#: At which rows that correct vectors learn; at ten times that they learn training rows by heart.
RATE = 0.0002


def table_views(layout: FeatureLayout) -> dict[str, EmbeddingSpec]:
    """Return the views of users and pins that tables go with, by join key.

    They are of one family that has both, of TransRA first; there are none where no family has.
    """
    by_family: dict[str, dict[str, EmbeddingSpec]] = {}
    for spec in layout.embeddings:
        by_family.setdefault(spec.family, {})[spec.join_key] = spec
    for family in sorted(by_family, key=lambda each: (each != "transra", each)):
        if set(KEYS) <= set(by_family[family]):
            return {key: by_family[family][key] for key in KEYS}
    return {}


def table_name(join_key: str) -> str:
    """Return what the table of an entity is called."""
    return join_key.removesuffix("_id")


def correcting(layout: FeatureLayout) -> tuple[TableConfig, ...]:
    """Return the tables whose rows correct the vectors of `table_views`."""
    return tuple(
        TableConfig(name=table_name(key), join_key=key, dim=spec.dim, corrects=spec.view_name)
        for key, spec in table_views(layout).items()
    )


def correcting_tables(training: TrainingSet, rate: float = RATE) -> dict[str, EntityTable]:
    """Return these tables as they begin, with a row for whoever is in the training rows."""
    return {
        one.name: EntityTable.of_zeros(
            pc.drop_null(training.rows.keys[one.join_key]).unique(),
            one.dim,
            training=RowTraining(rate=rate),
        )
        for one in correcting(training.layout)
    }


def past_of(
    store: FeatureStore,
    world: World,
    data: Path,
    work: Path,
    layout: FeatureLayout,
    *,
    before: datetime,
    backfills: bool,
) -> ActionLog | None:
    """Read what users did, with the vectors of a layout; None where the world does not say it.

    Args:
        data, work: the folder of the world's tables, and one for spill files.
        before: only actions earlier than this time are kept.
        backfills: whether vectors count that were written later, as in `training_join`.

    Raises as :meth:`ActionLog.load`.
    """
    if RankingTask.of_world(world).history is None:
        return None
    log = ActionLog.load(world, data, work, before=before)
    return log.with_vectors(store, layout, backfills=backfills)
