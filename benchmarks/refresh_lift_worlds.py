"""The two worlds of refresh_lift.py: what is refreshed, and what a ranker is shown on each day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch

from provender.consumers.features import Column, DenseFeature, FeatureLayout, shape_batch
from provender.consumers.impressions import load_impressions
from provender.consumers.training_join import TrainingSet
from provender.plugin.home import Home
from provender.plugin.repo import lay_out
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec
from provender.plugin.world import World
from provender.producers.counters import counters_path, write_counters
from provender.producers.event_mapping import EventMapping
from provender.producers.event_set import EventSet, events_folder
from provender.producers.events import read_events
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.vectors import Vectors

DAY, US = timedelta(days=1), pa.timestamp("us", "UTC")
ENTITIES = ("user", "pin")
ROLES = ("impressions", "clicks", "conversions")
COUNTS = [role + period for role in ROLES for period in ("", "_7d")]
Floats = npt.NDArray[np.float64]


def spec(entity: str, dim: int) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=f"{entity}_transra", version=1, entity=entity, join_key=f"{entity}_id", dim=dim,
        space="transra_v1", producer="transra", ttl=timedelta(days=30),
    )  # fmt: skip


@dataclass(frozen=True)
class Served:
    """Joined impressions, and how likely each was to be clicked (for logs: whether it was)."""

    rows: TrainingSet
    chance: Floats

    def auc(self, scores: torch.Tensor) -> float:
        """The expected AUC over all clicks that might have been; of 0 and 1, the AUC itself."""
        _, place = np.unique(scores.double().numpy(), return_inverse=True)
        clicked, not_clicked = (np.bincount(place, w) for w in (self.chance, 1 - self.chance))
        below = np.cumsum(not_clicked) - not_clicked / 2  # Half of those that are level.
        return float(clicked @ below / (clicked.sum() * not_clicked.sum()))


@dataclass(frozen=True)
class LiftWorld:
    """Days are numbered from `start`; a refresh as of day n knows what was before its midnight.

    Attributes:
        training_days: whose impressions the ranker learns from, each with that day's refresh.
    """

    name: str
    folder: Path
    data: Path
    world: World
    start: datetime
    training_days: range
    settings: Mapping[str, Any]

    views = ENTITIES

    @property
    def query(self) -> str:
        return spec("pin", self.settings["dim"]).view_name

    @property
    def last_training_day(self) -> int:
        return self.training_days[-1]

    def time(self, day: int) -> datetime:
        return self.start + day * DAY

    def events(self, day: int) -> EventSet:
        """The events before a day, read once."""
        place, work = events_folder(self.folder / "read", self.time(day)), self.folder / "read"
        if place.exists():
            return EventSet.open(place)
        return read_events(EventMapping.from_world(self.world), self.data, self.time(day), work)

    def shown(self, day: int) -> pa.Table:
        """user_id, pin_id, event_timestamp, click and chance; further columns are the context."""
        whole = load_impressions(
            self.world, self.data, self.time(day), self.time(day + 1), self.time(day + 2),
            self.folder / "shown",
        )  # fmt: skip
        truth = ds.dataset(self.data.parent / "truth" / "click_probability").to_table(
            columns=["impression_id", "p_click"],
            filter=pc.field("impression_id").isin(whole["impression_id"]),
        )
        place = pc.index_in(whole["impression_id"], value_set=truth["impression_id"])
        chance = truth["p_click"].take(place).cast(pa.float64())
        left_out = ["impression_id", "conversion", "click_weight", "conversion_weight"]
        return whole.drop_columns(left_out).append_column("chance", chance)

    def joined(self, vectors: Mapping[int, Mapping[str, Vectors]]) -> Served:
        """The impressions of some days, each with its morning's vectors and counters."""
        tables = {day: self._kept(day) for day in vectors}
        whole = pa.concat_tables(tables.values()).combine_chunks()
        dim = self.settings["dim"]
        features = tuple(
            DenseFeature(view=f"{e}_counters", name=name, join_key=f"{e}_id", integer=True)
            for e in ENTITIES
            for name in COUNTS
        )
        layout = FeatureLayout(
            service="refresh_lift",
            embeddings=tuple(spec(entity, dim) for entity in ENTITIES),
            dense=features,
        )
        columns: dict[str, Column] = {}
        for entity, view in zip(ENTITIES, layout.embeddings, strict=True):
            parts = [_found(tables[day][f"{entity}_id"], vectors[day][entity]) for day in tables]
            values, present = (np.concatenate(part) for part in zip(*parts, strict=True))
            columns[f"{view.view_name}__{VECTOR_COLUMN}"] = Column(values, present)
        for feature in features:
            entity = feature.join_key.removesuffix("_id")
            parts = [self._counts(day, entity, feature.name, tables[day]) for day in tables]
            values, present = (np.concatenate(part) for part in zip(*parts, strict=True))
            columns[feature.column] = Column(values, present)
        ignored = {"user_id", "pin_id", "event_timestamp", "click", "chance"}
        context = {
            name: whole[name].combine_chunks() for name in whole.column_names if name not in ignored
        }
        labels = {"click": torch.from_numpy(whole["chance"].to_numpy().astype(np.float32))}
        rows = shape_batch(layout, columns, len(whole), context=context, labels=labels)
        times = whole["event_timestamp"].cast(pa.int64()).to_numpy()
        return Served(TrainingSet(layout, rows, times), whole["chance"].to_numpy())

    def _kept(self, day: int) -> pa.Table:
        path = self.folder / "shown" / f"{day}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.shown(day), path)
        return pq.read_table(path)

    def _counts(self, day: int, entity: str, name: str, rows: pa.Table) -> tuple[Any, Any]:
        path = counters_path(self.folder, entity, self.time(day))
        if not path.exists():
            write_counters(
                self.events(day), self.world.counters, entity, f"{entity}_id", self.folder
            )
        known = pq.read_table(path, columns=[f"{entity}_id", name])
        place = pc.index_in(rows[f"{entity}_id"], value_set=known[f"{entity}_id"])
        values = known[name].take(place.fill_null(0)).cast(pa.float64()).to_numpy()
        return values, place.is_valid().to_numpy()


class RetailRocket(LiftWorld):
    """There a view leads to a purchase or not whatever the vectors say; so a ranker is asked which
    item a user takes into the cart or buys, among others that were drawn by how popular they are.
    """

    others = 20

    def shown(self, day: int) -> pa.Table:
        events, later = self.events(day), self.events(day + 1)
        kinds = [index for index, one in enumerate(later.relations) if one.name != "view"]
        taken = later.since(events).filter(pc.field("relation").isin(kinds))
        taken = taken.select(["head", "tail"]).group_by(["head", "tail"]).aggregate([])
        former = events.triples()
        views = former.filter(pc.field("relation") == 0)["tail"].to_numpy()
        rng = np.random.default_rng(day)
        users = np.repeat(taken["head"].to_numpy(), 1 + self.others)
        pins = rng.choice(views, (len(taken), 1 + self.others))
        pins[:, 0] = taken["tail"].to_numpy()
        click = np.zeros_like(pins)
        click[:, 0] = 1
        return pa.table(
            {
                "user_id": events.keys("user").take(pa.array(users)),
                "pin_id": events.keys("pin").take(pa.array(pins.reshape(-1))),
                "event_timestamp": pa.array([self.time(day)] * users.size, US),
                "click": click.reshape(-1).astype(np.int8),
                "chance": click.reshape(-1).astype(np.float64),
            }
        )


#: Nobody changes their mind, and nobody is new.
STILL = {"drift": 0.0, "user_growth": 0.0, "pin_growth": 0.0}


def simulator(work: Path, seed: int, users: int, *, still: bool = False) -> LiftWorld:
    """A simulated world of 30 days, refreshed from the tenth on."""
    name = "still" if still else "simulator"
    folder = work / f"{name}-{users}-{seed}"
    config = SimulatorConfig(
        users=users, pins=users, items=users // 3, advertisers=users // 20, days=30, seed=seed,
        click_rate=0.05, **(STILL if still else {}),
    )  # fmt: skip
    simulate(config, folder / "simulation")
    start = datetime.combine(config.start, datetime.min.time(), UTC)
    world = _world(folder, "simulator")
    return LiftWorld(
        f"{name} {seed}", folder, folder / "simulation" / "events", world, start,
        range(10, 15), {**world.transra, "dim": 32},
    )  # fmt: skip


def retail_rocket(work: Path, data: Path) -> LiftWorld:
    """The last weeks of RetailRocket: two to learn from, then two."""
    folder = work / "retailrocket"
    world = _world(folder, "retailrocket")
    start = datetime(2015, 5, 1, tzinfo=UTC)
    return RetailRocket(
        "retailrocket", folder, data / "retailrocket_mb", world, start,
        range(110, 120), {**world.transra, "dim": 32, "negatives": 256, "epochs": 5},
    )  # fmt: skip


def _world(folder: Path, name: str) -> World:
    home = Home(folder / "home")
    if not home.repo.exists():
        lay_out(home.repo)
    return World.load(home.repo / "worlds" / f"{name}.yaml")


def _found(keys: Any, known: Vectors) -> tuple[Any, Any]:
    place = pc.index_in(keys, value_set=known.keys)
    rows = place.fill_null(0).to_numpy().astype(np.int64)
    return known.vectors[rows], place.is_valid().to_numpy()
