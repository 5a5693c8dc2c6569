"""Refreshes of upstream towers that are killed, or done by several processes: the same vectors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from provender.plugin.cli import main
from provender.plugin.snapshot import find_snapshots
from tests.conftest import Provender
from tests.producers.rank_world import launched
from tests.producers.upstream.tower_home import ENTITIES, TowerHome, alone, day

ROOT = Path(__file__).parents[3]
DAYS = (5, 6)
#: Homes, in each of which it is killed twice.
KILLED = 4
#: Does one command itself, so that all is imported; the others run in forks of their own, one left
#: alone, the rest killed after a while: a share of the time that it took.
_SCRIPT = """
import json, os, random, signal, sys, time
import torch
from provender.plugin.cli import main

def forked(command):
    child = os.fork()
    if not child:
        main(command)
    return child

torch.set_num_threads(1)
first, whole, *commands = json.loads(sys.argv[1])
main(first, standalone_mode=False)
start = time.monotonic()
ends, draw = [os.waitpid(forked(whole), 0)[1]], random.Random(0)
lasts = time.monotonic() - start
for place, command in enumerate(commands):
    for share in ((place + draw.random()) / len(commands), draw.random() / 2):
        child = forked(command)
        time.sleep(share * lasts)
        os.kill(child, signal.SIGKILL)
        ends.append(os.waitpid(child, 0)[1])
print(json.dumps(ends), file=sys.stderr)
"""


def produced(home: TowerHome) -> list[str]:
    """The command for all days."""
    told = ["produce", "--home", str(home.home.path), "--family", "upstream", "--device", "cpu"]
    return told + [word for number in DAYS for word in ("--as-of", day(number).isoformat())]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TowerHome, list[TowerHome]]:
    """A home whose command was left alone, and some in which it was killed twice."""
    root = tmp_path_factory.mktemp("killed")
    homes = [TowerHome.planted(root / str(number)) for number in range(2 + KILLED)]
    for home in homes:
        home.settings(
            training={"checkpoint_minutes": 0.003},
            embedding={"aggregate": "decayed_mean", "active_days": 1},
        )
    told = json.dumps([produced(home) for home in homes])
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, told], capture_output=True, text=True, cwd=ROOT, check=False
    )
    ends = json.loads(run.stderr.splitlines()[-1])
    assert ends[0] == 0, run.stderr[-3000:]
    # A machine that stands still for a moment may let one or the other come to its end.
    assert ends[1:].count(signal.SIGKILL) > KILLED
    return homes[0], homes[2:]


@pytest.mark.parametrize("number", range(KILLED))
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    number: int, killed: tuple[TowerHome, list[TowerHome]], provender: Provender
) -> None:
    whole, home = killed[0], killed[1][number]
    for entity in ENTITIES:
        view = home.home.snapshots / f"{entity}_upstream_v1"
        found = find_snapshots(home.home.snapshots, view.name)
        for each in found:
            each.verify()
        # A folder in the place of a snapshot is a whole one.
        assert {each.path for each in found} == set(view.glob("*"))
    alone()
    result = provender(*produced(home))
    assert result.exit_code == 0, result.output
    for as_of in DAYS:
        for entity in ENTITIES:
            one, other = (each.snapshot(as_of, entity) for each in (whole, home))
            assert one.manifest.run_id == other.manifest.run_id
            assert one.read()[0].equals(other.read()[0])
            assert np.array_equal(one.read()[1], other.read()[1])
    staging = [path for path in home.home.snapshots.rglob("*") if "staging" in path.name]
    assert not [path for place in staging for path in place.rglob("*")]


@pytest.mark.parametrize("pretrained", [False, True])
def test_two_processes_refresh_as_one(
    provender: Provender, tmp_path: Path, pretrained: bool
) -> None:
    homes = [TowerHome.planted(tmp_path / name) for name in ("one", "two")]
    if pretrained:
        ids: dict[str, Any] = {"ids": {"dim": 8, "pretrained": True}}
        sequence = {"sequence": {"events": ["click"], "length": 3}}
        for home in homes:
            home.settings(features={"user": {**ids, **sequence}, "pin": ids})
    alone()
    result = provender(*produced(homes[0]))
    assert result.exit_code == 0, result.output

    def work() -> tuple[int, str]:
        alone()
        done = CliRunner().invoke(main, produced(homes[1]))
        return done.exit_code, done.output

    answers = launched(2, work)
    assert [code for code, _ in answers] == [0, 0], answers
    for number in DAYS:
        for entity in ENTITIES:
            one, other = (home.vectors(number, entity) for home in homes)
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_allclose(one[key], other[key], atol=1e-4)
