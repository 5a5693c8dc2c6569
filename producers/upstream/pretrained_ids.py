"""Rows of id tables before the first training: a knowledge graph of who met which pin.

Towers see an example once or twice, since id rows remember what they have seen; rows that are
random then have hardly begun to say who goes with whom. So they start from TransRA, which is
trained on the same events for as long as it takes (multi-faceted pretraining): what a view of its
snapshots would give (`ids.view`), for worlds that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from provender.plugin.world import World
from provender.producers.event_mapping import EventMapping
from provender.producers.events import read_events
from provender.producers.graph import build_graph
from provender.producers.kg_defaults import GraphSizes, defaults
from provender.producers.trainer import train
from provender.producers.transra_config import TransRAConfig
from provender.producers.upstream.declarations import FeatureDeclarations
from provender.producers.upstream.tower_embedding import microseconds
from provender.producers.upstream.tower_set import ENTITIES, TowerSet
from provender.producers.vectors import Vectors

#: So much of the examples is later than what rows start from: they learn what rows are worth, and
#: those before do not see any, for these rows know their labels.
LATER = 0.5


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Vectors by entity and key, of what lies before a time."""

    vectors: Mapping[str, Vectors]
    as_of: datetime


def wanted(features: FeatureDeclarations) -> bool:
    """Whether an id table is declared to start so."""
    return any(ids is not None and ids.pretrained for ids in (features.user.ids, features.pin.ids))


def pretrained(
    world: World,
    data: Path,
    features: FeatureDeclarations,
    rows: TowerSet,
    work: Path,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pretrained:
    """Vectors of the users and pins of the sequence's events, before LATER of the examples.

    Args:
        rows: the examples.
        features: whose sequence says which events count, all between users and pins without one;
            and how long the rows of the id tables are, which is one length for both.
        work: a folder for the events and for the training's checkpoints.

    Raises as `read_events` and `train` do.
    """
    mapping = _mapping(world, features)
    as_of = cut_of(rows)
    if not _any_before(rows, mapping, as_of):
        return Pretrained({}, as_of)  # All at one time, as in a log of one day: nothing to know.
    events = read_events(mapping, data, as_of, work / "events")
    counts = {name: count.kept for name, count in events.report.events.items()}
    sizes = GraphSizes(
        sum(events.counts.values()),
        len(counts),
        sum(counts.values()),
        max(counts, key=lambda name: counts[name]),
    )
    own = dict(zip(ENTITIES, (features.user.ids, features.pin.ids), strict=True))
    dims = {name: ids.dim for name, ids in own.items() if ids is not None and ids.pretrained}
    dim = max(dims.values())
    settings = {**defaults("transra", sizes, "interactions"), "dim": dim, "seed": seed}
    config = TransRAConfig.parse(settings, "upstream.features, ids.pretrained")
    graph = build_graph(
        events.triples(),
        events.relations,
        {entity: events.keys(entity) for entity in events.counts},
        as_of=as_of,
        half_life_days=config.half_life_days,
        degree_cap=config.degree_cap,
        chosen=config.relations,
        aside=config.aside,
    )
    parameters = train(
        graph,
        config,
        device="cpu",
        checkpoint_dir=work / "checkpoints",
        on_progress=lambda at: on_progress(at.step, at.total),
    )
    return Pretrained({each: parameters.vectors(graph, each) for each in dims}, as_of)


def cut_of(rows: TowerSet) -> datetime:
    """The time from which on LATER of the examples are; later than the first ones' where it can be.

    Of logs by the day the first day may have most of them, and nothing lies before it.
    """
    times = pq.read_table(rows.examples, columns=["time"])["time"].to_numpy()
    place = max(int(len(times) * (1 - LATER)), np.searchsorted(times, times[0], "right"))
    place = min(place, len(times) - 1)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(times[place]))


def _any_before(rows: TowerSet, mapping: EventMapping, as_of: datetime) -> bool:
    """Whether any of these events lies before a time."""
    kinds = pa.array([rows.events.index(name) for name in mapping.events], pa.int16())
    early = ds.field("event").isin(kinds) & (ds.field("time") < microseconds(as_of))
    found: int = ds.dataset(rows.folder / "events.parquet").count_rows(filter=early)
    return found > 0


def _mapping(world: World, features: FeatureDeclarations) -> EventMapping:
    """The world's events that count, and no others."""
    whole = EventMapping.from_world(world)
    seen = features.user.sequence
    kept = {
        name: event
        for name, event in whole.events.items()
        if (event.head_entity, event.tail_entity) == ENTITIES
        and event.time is not None
        and (seen is None or name in seen.events)
    }
    entities = {each: whole.entities[each] for each in ENTITIES}
    return whole.model_copy(update={"events": kept, "entities": entities})
