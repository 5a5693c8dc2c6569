"""A tower set of any size, as the simulator's reader would write one, and features over it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.history import History
from provender.plugin.id_table import IdTable
from provender.plugin.spec import EmbeddingSpec
from provender.producers.upstream.declarations import TowerSources, default_features
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.tower_set import ALWAYS, GROUP, TowerSet
from provender.producers.upstream.view_vectors import ViewVectors

EVENTS = dict.fromkeys(("impression", "click", "save"), ("user", "pin"))
DAYS, DIM, NEGATIVES = 30, 64, 4
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
_END = int(AS_OF.timestamp() * 1e6)
_START = _END - DAYS * 86_400_000_000
#: Impressions of a visit: one every eight seconds.
_FEED, _APART = 8, 8_000_000
Ints = NDArray[np.int64]
CATEGORIES = {"country": ("user", 60), "topic": ("pin", 48)}

DECLARED = TowerSources.model_validate(
    {
        "sources": {
            "shown": {
                "table": "impressions",
                "user": "user_id",
                "pin": "pin_id",
                "time": "event_timestamp",
                "id": "impression_id",
                "context": {
                    "numbers": {"position": {"column": "position"}},
                    "categories": {"surface": {"column": "surface"}},
                },
                "labels": {
                    name: {
                        "table": "engagements",
                        "match": {"id": "impression_id"},
                        "time": "event_timestamp",
                        "within": "1h",
                    }
                    for name in ("click", "save")
                },
            },
            "bought": {
                "table": "conversions",
                "user": "user_id",
                "pin": "pin_id",
                "time": "event_timestamp",
                "labels": {"buy": "always"},
                "negatives": NEGATIVES,
            },
        },
        "features": None,
    }
)


@dataclass(frozen=True)
class Sizes:
    """Of a world: visits of eight impressions each, purchases with four drawn negatives each."""

    users: int = 50_000
    pins: int = 50_000
    visits: int = 40_000
    purchases: int = 64_000
    deeds: int = 1_400_000
    impressions: int = 5_000_000


def write_world(folder: Path, sizes: Sizes) -> TowerSet:
    """Users, popular and rare pins, events of a month, examples in order of time."""
    (folder / "keys").mkdir(parents=True)
    (folder / "columns").mkdir()
    rng = np.random.default_rng(0)
    for entity, count in (("user", sizes.users), ("pin", sizes.pins)):
        _write_keys(folder, entity, count)
    _write_events(folder, sizes, rng)
    _write_examples(folder, sizes, rng)
    for name, (entity, values) in CATEGORIES.items():
        count = sizes.users if entity == "user" else sizes.pins
        some = [[f"{name} {value}"] for value in rng.integers(0, values, count).tolist()]
        _write_column(folder, f"{entity}_category_{name}", pa.array(some))
    sources, tasks = tuple(DECLARED.sources), DECLARED.tasks
    found = TowerSet(folder, AS_OF, None, tuple(EVENTS), sources, tasks, {})
    found.write_about(folder)
    return found


def open_features(
    rows: TowerSet, seed: int = 0, as_of: str = "instant"
) -> tuple[FeatureReader, dict[str, IdTable]]:
    """Counts and recencies by default, sequences, id rows, categories, views of users and pins."""
    features = default_features(EVENTS).model_dump()
    features["user"]["sequence"]["views"] = ["pin_transra_v1"]
    features["user"]["as_of"] = as_of
    for entity in ("user", "pin"):
        features[entity]["views"] = [f"{entity}_transra_v1"]
        features[entity]["categories"] = {
            name: {"column": name, "table": "profiles", "key": "id"}
            for name, (whose, _) in CATEGORIES.items()
            if whose == entity
        }
    declared = TowerSources.model_validate({**DECLARED.model_dump(), "features": features})
    keys = {entity: rows.keys(entity) for entity in ("user", "pin")}
    views = {f"{name}_transra_v1": _view(name, len(each)) for name, each in keys.items()}
    tables = {
        name: IdTable.exact(each.type, 32).grown(each, None, seed) for name, each in keys.items()
    }
    numbers = {name: table.rows_of(keys[name]).numpy() for name, table in tables.items()}
    return FeatureReader.open(rows, declared, views, numbers), tables


def _view(entity: str, count: int) -> ViewVectors:
    """A vector for each, of before all time."""
    spec = EmbeddingSpec.declare(
        name=f"{entity}_transra",
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=DIM,
        space="transra",
        producer="transra",
        ttl=timedelta(days=3650),
    )
    rng = np.random.default_rng(1)
    ids = np.arange(count)
    vectors = rng.standard_normal((count, DIM), dtype=np.float32)
    history = History(ids, np.full(count, (_START - 1) * 1000), None)
    return ViewVectors(spec, history, ids, vectors, None)


def _write_keys(folder: Path, entity: str, count: int) -> None:
    table = {
        "key": pa.array(np.arange(count)),
        "first": pa.array(np.full(count, _START)),
        "last": pa.array(np.full(count, _END - 1)),
    }
    if entity == "pin":
        table |= {name: pa.nulls(count, pa.int64()) for name in ("since", "until")}
        table["listed"] = pa.array(np.zeros(count, bool))
    pq.write_table(pa.table(table), folder / "keys" / f"{entity}.parquet")


def _write_events(folder: Path, sizes: Sizes, rng: np.random.Generator) -> None:
    count = sizes.impressions + sizes.deeds
    event = np.zeros(count, np.int16)
    event[sizes.impressions :] = rng.integers(1, 3, sizes.deeds)
    user = rng.integers(0, sizes.users, count).astype(np.int32)
    pin, time = _popular(sizes.pins, count, rng), rng.integers(_START, _END, count)
    order = np.lexsort((time, user))
    columns = {"user": user, "pin": pin, "event": event, "time": time}
    table = pa.table({name: each[order] for name, each in columns.items()})
    pq.write_table(table, folder / "events.parquet", row_group_size=131_072)


def _write_examples(folder: Path, sizes: Sizes, rng: np.random.Generator) -> None:
    shown = sizes.visits * _FEED
    bought = sizes.purchases * (1 + NEGATIVES)
    place = np.tile(np.arange(_FEED), sizes.visits)
    visit = np.repeat(rng.integers(_START, _END - 10 * _APART, sizes.visits), _FEED)
    when = np.repeat(rng.integers(_START, _END, sizes.purchases), 1 + NEGATIVES)
    who = np.repeat(rng.integers(0, sizes.users, sizes.purchases), 1 + NEGATIVES)
    of_visit = np.repeat(rng.integers(0, sizes.users, sizes.visits), _FEED)
    first = np.tile(np.arange(1 + NEGATIVES) == 0, sizes.purchases)
    none = np.zeros(bought, bool)
    is_shown = np.r_[np.ones(shown, bool), none]
    click = np.r_[rng.random(shown) < 0.1, none]
    save = np.r_[rng.random(shown) < 0.03, none]
    surface = pa.array([["home"], ["search"], ["related"]]).take(
        pa.array(rng.integers(0, 3, shown + bought), mask=~is_shown)
    )
    buy_label = np.r_[np.zeros(shown, bool), first]
    table = pa.table(
        {
            "source": (~is_shown).astype(np.int16),
            "user": np.r_[of_visit, who].astype(np.int32),
            "pin": _popular(sizes.pins, shown + bought, rng),
            "time": np.r_[visit + place * _APART, when],
            "weight": np.ones(shown + bought, np.float32),
            "label_click": pa.array(click.astype(np.int8), mask=~is_shown),
            "label_save": pa.array(save.astype(np.int8), mask=~is_shown),
            "label_buy": pa.array(buy_label.astype(np.int8), mask=is_shown),
            "number_position": pa.array(
                np.r_[place, np.zeros(bought)].astype(np.float32), mask=~is_shown
            ),
            "category_surface": surface,
        }
    )
    order = np.argsort(table["time"].to_numpy(), kind="stable")
    pq.write_table(table.take(pa.array(order)), folder / "examples.parquet", row_group_size=GROUP)


def _write_column(folder: Path, name: str, values: pa.Array) -> None:
    ids = np.arange(len(values), dtype=np.int32)
    table = {"id": ids, "time": np.full(len(values), ALWAYS), "value": values}
    pq.write_table(pa.table(table), folder / "columns" / f"{name}.parquet")


def _popular(pins: int, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Few pins often, most seldom."""
    return ((rng.random(count) ** 2.5) * pins).astype(np.int32)
