"""Refreshes of upstream towers that look at vectors of another producer, or start from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from provender.plugin.snapshot import find_snapshots
from provender.producers.upstream.tower_refresh import TowerRun
from tests.conftest import Provender
from tests.producers.upstream.tower_home import PINS, TowerHome, day

FEATURES: dict[str, Any] = {
    "user": {"views": ["user_transra_v1"], "counts": {"clicks": {"events": ["click"]}}},
    "pin": {"ids": {"view": "pin_transra_v1"}},
}


def test_vectors_of_another_producer_are_inputs(provender: Provender, tmp_path: Path) -> None:
    home = TowerHome.planted(tmp_path / "home")
    home.declare("transra", "upstream")
    home.settings(features=FEATURES)
    as_ofs = [word for number in (5, 6) for word in ("--as-of", day(number).isoformat())]
    told = ["produce", "--home", home.home.path, "--device", "cpu", *as_ofs]
    towers = [*told, "--family", "upstream"]

    result = provender(*towers)
    assert result.exit_code == 1
    assert "view user_transra_v1: found no such feature view" in " ".join(result.output.split())
    assert "`feast apply`" in result.output
    home.apply()
    result = provender(*towers)
    assert result.exit_code == 1
    assert "view user_transra_v1: found no snapshot" in " ".join(result.output.split())
    assert not list(home.home.snapshots.rglob("*.parquet"))

    result = provender(*told)  # TransRA first, then the towers.
    assert result.exit_code == 0, result.output
    assert home.snapshot(6).manifest.parent == home.snapshot(5).manifest.run_id
    model = TowerRun.load(home.home.runs / home.snapshot(6).manifest.run_id).model
    assert dict(model.layout.user.vectors) == {"user_transra_v1": 8}
    table = model.tables["pin"]
    assert (table.dim, len(table), list(model.tables)) == (8, PINS, ["pin"])
    # Rows began as these vectors, and training has not made others of them.
    keys, vectors = find_snapshots(home.home.snapshots, "pin_transra_v1")[0].read()
    rows = table.values[table.rows_of(keys)].numpy()
    cosines = (rows * vectors).sum(1) / np.linalg.norm(rows, axis=1)
    assert np.mean(cosines / np.linalg.norm(vectors, axis=1)) > 0.5
