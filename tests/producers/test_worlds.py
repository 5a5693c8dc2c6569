"""The worlds that ship: they can be read, and they say of the real data what they claim."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
import pytest

from provender.plugin.tables import open_tables
from provender.plugin.world import World
from provender.producers.event_mapping import EventMapping
from provender.producers.events import EventSet, read_events, read_window
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.transra_config import TransRAConfig

ROOT = Path(__file__).parents[2]
WORLDS = ROOT / "feature_repo" / "worlds"
DATA = Path(os.environ.get("PROVENDER_DATA", ROOT.parent / "shared" / "data"))


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}: set PROVENDER_DATA to the folder of the public data sets")
    return DATA / name


def read(world: World, data: Path, work: Path, which: int = -1) -> EventSet:
    return read_events(EventMapping.from_world(world), data, world.dates.as_ofs()[which], work)


def kept(events: EventSet) -> dict[str, int]:
    return {name: count.kept for name, count in events.report.events.items()}


@pytest.mark.parametrize("name", ["simulator", "completejourney", "retailrocket"])
def test_the_sections_fit_each_other(name: str) -> None:
    world = World.load(WORLDS / f"{name}.yaml")
    mapping = EventMapping.from_world(world)

    config = TransRAConfig.model_validate(world.transra)
    assert config.anchor_relation in mapping.events
    assert set(config.relations or ()) <= set(mapping.events)
    assert {event for role in world.counters.values() for event in role} <= set(mapping.events)
    assert {"user", "pin"} <= set(mapping.entities)


def test_the_simulated_world_is_read_without_a_bad_row(tmp_path: Path) -> None:
    world = World.load(WORLDS / "simulator.yaml")
    config = SimulatorConfig(users=300, pins=60, days=10, seed=1)
    simulate(config, tmp_path)

    events = read(world, tmp_path / "events", tmp_path / "work", which=0)

    assert events.report.bad == 0
    counts = kept(events)
    assert counts["impression"] > counts["click"] >= counts["long_click"] > 0
    assert counts["attributed"] > 0
    assert counts["links"] == counts["promotes"] >= 60
    first_impression = pc.min(events.triples().filter(pc.field("relation") == 0)["time"]).as_py()
    assert first_impression >= datetime.fromisoformat("2026-03-01T00:00:00+00:00")
    assert events.window[0] < first_impression  # pins are older than the log


def test_a_later_impression_with_the_same_id_attributes_nothing(tmp_path: Path) -> None:
    world = World.load(WORLDS / "simulator.yaml")
    simulate(SimulatorConfig(users=300, pins=60, days=10, seed=1), tmp_path)
    sql = world.tables["attributed"].sql or ""

    with open_tables(world.tables, tmp_path / "events", tmp_path / "work") as connection:
        before = connection.execute(f"SELECT count(*) FROM ({sql})").fetchall()
        connection.execute(
            "CREATE TABLE more AS FROM impressions UNION ALL "
            "SELECT * REPLACE (event_timestamp + INTERVAL 90 DAY AS event_timestamp) "
            "FROM impressions"
        )
        doubled = sql.replace("join impressions", "join more as impressions")
        assert connection.execute(f"SELECT count(*) FROM ({doubled})").fetchall() == before
        assert before[0][0] > 0


def test_complete_journey(tmp_path: Path) -> None:
    data = real("completejourney")
    world = World.load(WORLDS / "completejourney.yaml")
    mapping = EventMapping.from_world(world)

    events = read(world, data, tmp_path)

    assert events.report.bad == 0
    counts = kept(events)
    assert counts["made_by"] == 92_331
    assert 0 < counts["redeem"] < 2_102
    assert 0 < counts["purchase"] < 100_000
    window = read_window(mapping, data, events, world.dates.evaluation()[1], tmp_path / "later")
    names = [r.name for r in events.relations]
    later = {
        names[row["values"]]: row["counts"]
        for row in pc.value_counts(window["relation"]).to_pylist()
    }
    assert later["redeem"] > 0
    assert later["purchase"] > 1_000


def test_no_coupon_is_known_before_its_campaign_is_prepared(tmp_path: Path) -> None:
    data = real("completejourney")
    world = World.load(WORLDS / "completejourney.yaml")
    first, last = read(world, data, tmp_path, 0), read(world, data, tmp_path, -1)

    with open_tables(world.tables, data, tmp_path / "tables") as connection:
        for events in (first, last):
            known = connection.execute(
                "SELECT DISTINCT coupon_upc FROM coupons JOIN campaigns USING (campaign_id) "
                f"WHERE start_date - 14 < DATE '{events.as_of:%Y-%m-%d}' "
                "UNION SELECT coupon_upc FROM redemptions "
                f"WHERE redemption_date::DATE < DATE '{events.as_of:%Y-%m-%d}' ORDER BY 1"
            ).fetchall()
            assert events.keys("pin").to_pylist() == [row[0] for row in known]
    assert first.counts["pin"] < last.counts["pin"]


def test_retail_rocket(tmp_path: Path) -> None:
    data = real("retailrocket_mb")
    world = World.load(WORLDS / "retailrocket.yaml")

    events = read(world, data, tmp_path)

    assert events.report.bad == 0
    counts = kept(events)
    assert counts["view"] > counts["cart"] > counts["buy"] > 5_000
    with open_tables(world.tables, data, tmp_path / "tables") as connection:
        late = "FROM views JOIN purchases USING (user, item) WHERE views.ts > purchases.ts"
        assert connection.execute(f"SELECT count(*) {late}").fetchall() == [(0,)]
        ids = "SELECT count(*) = count(DISTINCT id) FROM views"
        assert connection.execute(ids).fetchall() == [(True,)]
