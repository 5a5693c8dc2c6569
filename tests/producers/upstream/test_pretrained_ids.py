"""Id rows that start from a knowledge graph: of what lies before the rows that see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from provender.plugin.world import World
from provender.producers.upstream.declarations import FeatureDeclarations
from provender.producers.upstream.pretrained_ids import LATER, Pretrained, pretrained, wanted
from provender.producers.upstream.tower_embedding import microseconds
from provender.producers.upstream.tower_inputs import OpenedInputs, open_inputs
from provender.producers.upstream.tower_reading import read_tower_set
from provender.producers.upstream.tower_set import TowerSet
from tests.producers.upstream.tower_home import TowerHome, day, section_of


def declared() -> dict[str, Any]:
    features: dict[str, Any] = section_of()["features"]
    for each in ("user", "pin"):
        features[each] = {**features[each], "ids": {"dim": 4, "pretrained": True}}
    return features


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> TowerHome:
    made = TowerHome.planted(tmp_path_factory.mktemp("pretrained") / "home")
    made.settings(features=declared())
    return made


@pytest.fixture(scope="module")
def rows(home: TowerHome, tmp_path_factory: pytest.TempPathFactory) -> TowerSet:
    job = home.job()
    place = tmp_path_factory.mktemp("rows") / "rows"
    return read_tower_set(job.sources, job.world, job.data, place, day(8))


def start_of(home: TowerHome, rows: TowerSet, work: Path) -> Pretrained:
    features = FeatureDeclarations.model_validate(declared())
    return pretrained(World.load(home.home.world), home.home.data, features, rows, work, 0)


@pytest.fixture(scope="module")
def start(home: TowerHome, rows: TowerSet, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return start_of(home, rows, tmp_path_factory.mktemp("work"))


def opened(home: TowerHome, rows: TowerSet, start: Pretrained, scratch: Path) -> OpenedInputs:
    return open_inputs(rows, home.job().sources, None, None, scratch, 0, start=start)


def test_it_is_asked_for_by_the_declaration() -> None:
    assert wanted(FeatureDeclarations.model_validate(declared()))
    assert not wanted(FeatureDeclarations.model_validate(section_of()["features"]))


def test_rows_that_are_not_pretrained_are_let_alone(
    home: TowerHome, rows: TowerSet, start: Pretrained, tmp_path: Path
) -> None:
    own = declared()
    own["pin"]["ids"] = {"dim": 8}
    features = FeatureDeclarations.model_validate(own)
    found = pretrained(World.load(home.home.world), home.home.data, features, rows, tmp_path, 0)
    assert {each: one.dim for each, one in found.vectors.items()} == {"user": 4}
    np.testing.assert_array_equal(found.vectors["user"].vectors, start.vectors["user"].vectors)


def test_rows_that_are_pretrained_together_have_one_length() -> None:
    own = declared()
    own["pin"]["ids"] = {"dim": 8, "pretrained": True}
    with pytest.raises(ValueError, match="one `dim` of"):
        FeatureDeclarations.model_validate(own)


def test_it_knows_what_lies_before_the_later_examples(rows: TowerSet, start: Pretrained) -> None:
    times = pq.read_table(rows.examples)["time"].to_numpy()
    cut = sorted(times.tolist())[int(len(times) * (1 - LATER))]
    assert start.as_of == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cut)
    assert {each: one.dim for each, one in start.vectors.items()} == {"user": 4, "pin": 4}


def test_what_comes_later_changes_nothing(
    home: TowerHome, rows: TowerSet, start: Pretrained, tmp_path: Path
) -> None:
    other = home.moved(tmp_path / "home")
    for table in ("clicks", "buys"):
        for row in other.tables[table]:
            if row["time"] >= start.as_of:
                row["pin_id"], row["user_id"] = other.key(1), other.key(2)
    other.write()
    again = start_of(other, rows, tmp_path / "work")
    for each, one in start.vectors.items():
        assert one.keys.equals(again.vectors[each].keys)
        assert one.vectors.tobytes() == again.vectors[each].vectors.tobytes()


def test_groups_that_were_planted_are_near(home: TowerHome, start: Pretrained) -> None:
    users, pins = start.vectors["user"], start.vectors["pin"]
    near = users.vectors @ pins.vectors.T
    same = (np.array(users.keys)[:, None] - np.array(pins.keys)[None]) % 2 == 0
    assert near[same].mean() > near[~same].mean()


def test_rows_start_so_and_are_not_seen_before(
    home: TowerHome, rows: TowerSet, start: Pretrained, tmp_path: Path
) -> None:
    inputs = opened(home, rows, start, tmp_path)
    for each, one in start.vectors.items():
        table = inputs.tables[each]
        values = table.values[table.rows_of(one.keys)].numpy()
        assert table.start_scale is not None
        np.testing.assert_allclose(values, one.vectors * table.start_scale, rtol=1e-6)
    features = inputs.reader.using(inputs.reader.fit(0))
    cut = microseconds(start.as_of)
    for time, seen in ((cut - 1, False), (cut, True), (microseconds(day(8)), True)):
        ids = np.arange(4)
        users = features.users(ids, np.full(4, time))
        assert users.ids is not None
        assert users.sequence is not None
        assert bool((users.ids >= 0).all()) == seen
        assert bool((users.sequence.pin >= 0).any()) == seen
    # Pins are seen as of the beginning of a day.
    pins = features.pins(np.arange(4), np.full(4, microseconds(day(8))))
    assert pins.ids is not None
    assert bool((pins.ids >= 0).all())


def test_a_refresh_starts_so(home: TowerHome, tmp_path: Path) -> None:
    made = home.moved(tmp_path / "home")
    made.refresh(6)
    made.refresh(7)
    assert set(made.vectors(7)) >= set(made.vectors(6))
    assert list((made.home.runs).glob("*/pretraining/checkpoints/*.json"))
    assert len(list((made.home.runs).glob("*/pretraining"))) == 1
