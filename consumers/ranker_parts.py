"""The parts that a ranker's configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping

from provender.consumers.attention_head import AttentionHead
from provender.consumers.entity_table import EntityTable
from provender.consumers.facet_tokens import TableSpec
from provender.consumers.features import FeatureLayout
from provender.consumers.ranker_config import TASKS, RankerConfig
from provender.consumers.ranking_task import PIN
from provender.consumers.vector_inputs import VectorInputs
from provender.plugin.errors import ConfigError


def head_of(config: RankerConfig, layout: FeatureLayout) -> AttentionHead:
    """The attention head that a configuration asks for; ConfigError without a candidate."""
    query = config.query or _first_pin(layout)
    spaces = {spec.view_name: spec.space for spec in layout.embeddings}
    return AttentionHead(
        layout.embeddings,
        query,
        tasks=len(TASKS),
        tables={
            one.name: TableSpec(
                one.join_key,
                one.dim,
                one.view and spaces.get(one.view, one.view),
                one.corrects,
            )
            for one in config.tables
        },
        history=config.history,
        width=config.head_width,
        heads=config.attention_heads,
        facet_dropout=config.facet_dropout,
    )


def _first_pin(layout: FeatureLayout) -> str:
    for spec in layout.embeddings:
        if spec.join_key == PIN:
            return spec.view_name
    raise ConfigError(
        f"feature service {layout.service}",
        found="no embedding view keyed by pin_id",
        expected="the candidate's embedding, which asks in the attention head",
        remedy="Add one to the service, or set the ranker's `vectors` to concat or none.",
    )


def inputs_of(config: RankerConfig, layout: FeatureLayout) -> VectorInputs:
    """Vectors, rows and past as plain inputs, as a configuration asks for them."""
    specs = layout.embeddings if config.reads == "concat" else ()
    return VectorInputs(
        specs,
        {table.name: table.dim for table in config.tables},
        config.history,
        [spec.view_name for spec in specs if spec.join_key == PIN],
        geometry=config.geometry,
    )


def check_tables(config: RankerConfig, tables: Mapping[str, EntityTable]) -> None:
    """Refuse, with ConfigError, tables that are not those of the configuration."""
    wanted = sorted(table.name for table in config.tables)
    if wanted != sorted(tables) or len(set(wanted)) != len(wanted):
        raise ConfigError(
            "ranker's tables",
            found=", ".join(sorted(tables)) or "(none)",
            expected=", ".join(wanted) or "(none)",
            remedy="Give the ranker a table for each that its configuration names, once.",
        )
