"""The number of epochs is found by days that no vector of the rehearsal has seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from provender.plugin.errors import ConfigError
from provender.producers import rehearsal
from provender.producers.refresh import Refresh, refresh, restore
from provender.producers.transra_config import EarlyStopping, TransRAConfig
from tests.producers.refresh_world import RefreshWorld, day, make_world, quiet

STOPPING = {"hold_out_days": 1.0, "patience": 1}


@pytest.fixture
def world(tmp_path: Path) -> RefreshWorld:
    world = make_world(tmp_path / "home")
    world.settings(early_stopping=STOPPING, epochs=4, refresh_epochs=2)
    return world


def _manifest(result: Refresh) -> Any:
    return result.snapshots[0].manifest


def test_the_best_epochs_of_the_rehearsal_are_trained(
    world: RefreshWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge who likes the second epoch best: three are rehearsed, two are trained."""
    judged = iter([0.1, 0.3, 0.2, 0.9])
    monkeypatch.setattr(
        rehearsal, "quality", lambda *_: type("Quality", (), {"model": next(judged)})
    )
    told = _manifest(refresh(world.job(), day(3), quiet))
    assert told.metrics["early_stopping/epochs"] == 2
    assert told.metrics["early_stopping/quality"] == pytest.approx(0.3)
    assert told.notes["early_stopping"] == "the last 1 days held out: 0.1000 0.3000 0.2000"
    world.settings(epochs=2, refresh_epochs=2)
    shutil.rmtree(world.home.snapshots)
    plain = _manifest(refresh(world.job(), day(3), quiet))
    assert plain.checksum == told.checksum
    assert "early_stopping" not in plain.notes


def test_a_real_rehearsal_and_its_repetition(world: RefreshWorld) -> None:
    told = _manifest(refresh(world.job(), day(3), quiet))
    assert 1 <= told.metrics["early_stopping/epochs"] <= 4
    assert 0 < told.metrics["early_stopping/quality"] <= 1
    again = restore(world.job(), day(3), quiet)
    assert again.rehearsal is not None
    assert again.rehearsal.epochs == told.metrics["early_stopping/epochs"]


def test_nothing_at_or_after_the_as_of_time_is_looked_at(world: RefreshWorld) -> None:
    first = _manifest(refresh(world.job(), day(3), quiet))
    path = world.home.data / "log.parquet"
    log = pq.read_table(path)
    pq.write_table(log.slice(0, 500 * 3 + 200), path)  # Other events after day 3.
    shutil.rmtree(world.home.snapshots)
    shutil.rmtree(world.home.runs)
    second = _manifest(refresh(world.job(), day(3), quiet))
    assert (second.checksum, second.notes) == (first.checksum, first.notes)


def test_who_can_not_be_rehearsed_trains_as_configured(world: RefreshWorld) -> None:
    refresh(world.job(), day(2), quiet)
    second = _manifest(refresh(world.job(), day(3), quiet))  # Of day 2 there was no parent.
    assert "early_stopping" not in second.notes
    third = _manifest(refresh(world.job(), day(4), quiet))
    assert third.metrics["early_stopping/epochs"] <= 2


def test_the_setting_is_checked() -> None:
    parsed = TransRAConfig.parse({"early_stopping": STOPPING}).early_stopping
    assert parsed == EarlyStopping(hold_out_days=1, patience=1, every=1)
    assert all(field.description for field in EarlyStopping.model_fields.values())
    with pytest.raises(ConfigError, match=r"early_stopping.patience: found 0"):
        TransRAConfig.parse({"early_stopping": {"patience": 0}})
