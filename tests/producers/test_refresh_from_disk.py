"""Commands with `partitions`: the table from disk, with a parent, after a kill, and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provender.plugin.drift import drift
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.producers import disk_training, mapped_rows
from provender.producers.ranks import Ranks
from provender.producers.refresh import refresh, restore
from provender.producers.training_log import read_metrics
from tests.conftest import Provender
from tests.producers.refresh_world import (
    ENTITIES,
    RefreshWorld,
    assert_killed,
    day,
    make_world,
    quiet,
)

#: Users stay whole, pins are dealt out.
WHOLE_BELOW = 100
FROM_DISK = {
    "partitions": 3,
    "partitions_held": 2,
    "checkpoint_minutes": 0.0,
    "refresh_epochs": 3,
}


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Types of so few entities are dealt out in this module."""
    with pytest.MonkeyPatch.context() as patch:
        some = partial(disk_training.train_on_disk, whole_below=WHOLE_BELOW)
        patch.setattr("provender.producers.refresh.train_on_disk", some)
        yield


@pytest.fixture(scope="module")
def produced(few: None, tmp_path_factory: pytest.TempPathFactory) -> RefreshWorld:
    """A home with a refresh as of day 2, not to be changed."""
    made = make_world(tmp_path_factory.mktemp("produced") / "home")
    made.settings(**FROM_DISK)
    refresh(made.job(), day(2), quiet)
    return made


@pytest.fixture
def world(produced: RefreshWorld, tmp_path: Path) -> RefreshWorld:
    """A copy of it of one's own."""
    return _copy(produced, tmp_path / "home")


def _copy(world: RefreshWorld, root: Path) -> RefreshWorld:
    shutil.copytree(world.root, root)
    return RefreshWorld(Home(root))


def test_a_refresh_publishes_what_was_trained_from_disk(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home")
    world.settings(**FROM_DISK)
    steps: list[tuple[int, int]] = []

    def shown(stage: str, done: int, total: int, note: str) -> None:
        if stage == "train":
            steps.append((done, total))
            assert note.startswith("loss ")

    done = refresh(world.job(), day(2), shown)
    assert steps == [(step, len(steps)) for step in range(1, len(steps) + 1)]
    log = read_metrics(world.home.runs / done.run_id / "log")
    assert log[-1]["step"] == len(steps)
    before = list(steps)
    trained = restore(world.job(), day(2), shown)
    assert steps == before  # It is only looked up.
    for snapshot in done.snapshots:
        keys, vectors = snapshot.read()
        expected = trained.vectors()[snapshot.manifest.entity]
        assert keys.equals(expected.keys)
        assert np.array_equal(vectors, expected.vectors)


def test_the_next_refresh_has_a_parent_and_stays_in_its_space(world: RefreshWorld) -> None:
    refresh(world.job(), day(3), quiet)
    for entity in ENTITIES:
        first, second = world.snapshots(f"{entity}_transra_v1")
        assert second.manifest.parent == first.manifest.run_id
        assert second.manifest.metrics["quality"] is not None
        cosine = drift(*first.read(), *second.read()).cosine_mean
        assert cosine is not None
        assert 0.9 < cosine < 1 - 1e-6


def test_a_parent_may_be_of_the_other_kind(world: RefreshWorld) -> None:
    for number, partitions in ((3, 1), (4, 3)):
        refresh(world.job(partitions=partitions), day(number), quiet)
    for former, later in pairwise(world.snapshots("pin_transra_v1")):
        assert later.manifest.parent == former.manifest.run_id
        assert (drift(*former.read(), *later.read()).cosine_mean or 0.0) > 0.9


#: Where a command ends itself, within its so manieth partition's file -> checkpoints by then.
KILLS = {"summing neighbours": (5, 0), "training": (20, 2)}
_PRODUCE = ["produce", "--as-of", day(3).isoformat(), "--device", "cpu", "--home"]
#: Imports everything once; then each command runs in a fork of its own, which kills itself.
_KILLED = """
import json, os, signal, sys
from functools import partial
from provender.plugin.cli import main
from provender.producers import disk_training, refresh
from provender.producers.partitions import PartitionFiles

def kill_within(left):
    whole = PartitionFiles.write
    def some(self, partition, parts, version):
        nonlocal left
        left -= 1
        whole(self, partition, parts if left else parts[:1], version)
        left or os.kill(os.getpid(), signal.SIGKILL)
    PartitionFiles.write = some

whole_below, commands = json.loads(sys.argv[1])
refresh.train_on_disk = partial(disk_training.train_on_disk, whole_below=whole_below)
for writes, arguments in commands:
    child = os.fork()
    if not child:
        kill_within(writes)
        main.main(args=arguments)
    print(os.waitpid(child, 0)[1])
"""


@pytest.fixture(scope="module")
def killed(
    produced: RefreshWorld, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RefreshWorld]:
    """By point, a home in which the refresh as of day 3 was killed there."""
    roots = {point: tmp_path_factory.mktemp("killed") / "home" for point in KILLS}
    worlds = {point: _copy(produced, root) for point, root in roots.items()}
    commands = [(KILLS[point][0], [*_PRODUCE, str(roots[point])]) for point in KILLS]
    assert_killed(_KILLED, [WHOLE_BELOW, commands], times=len(KILLS))
    return worlds


@pytest.fixture(scope="module")
def unharmed(produced: RefreshWorld, tmp_path_factory: pytest.TempPathFactory) -> RefreshWorld:
    """A home in which it was not."""
    world = _copy(produced, tmp_path_factory.mktemp("unharmed") / "home")
    refresh(world.job(), day(3), quiet)
    return world


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_command_goes_on_to_the_same_bits(
    point: str, killed: dict[str, RefreshWorld], unharmed: RefreshWorld, provender: Provender
) -> None:
    world = killed[point]
    (run_id,) = {path.name for path in world.home.runs.glob("transra-*")} - {
        each.manifest.run_id for each in world.snapshots("pin_transra_v1")
    }
    checkpoints = list((world.home.runs / run_id / "disk/checkpoints").glob("*.json"))
    assert len(checkpoints) == KILLS[point][1]

    done = provender(*_PRODUCE, world.root)

    assert done.exit_code == 0, done.output
    for entity in ENTITIES:
        one, whole = (each.snapshots(f"{entity}_transra_v1")[-1] for each in (world, unharmed))
        assert one.manifest.run_id == run_id
        assert one.manifest.checksum == whole.manifest.checksum


@pytest.mark.parametrize(
    ("settings", "thing"),
    [
        ({"filter_negatives": True}, "filter_negatives: found a training from disk"),
        ({"early_stopping": {}}, "early_stopping: found a training from disk"),
        ({"state_decay": 0.5}, "state_decay: found a training from disk"),
    ],
)
def test_what_only_memory_allows_is_refused_before_any_work(
    produced: RefreshWorld, settings: dict[str, Any], thing: str
) -> None:
    with pytest.raises(ConfigError, match=thing):
        produced.job(**settings)
    produced.job(**settings, partitions=1)


def test_several_processes_are_refused(
    produced: RefreshWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provender.producers.ranks._here", Ranks.__new__(Ranks))
    monkeypatch.setattr(Ranks, "count", 2, raising=False)
    with pytest.raises(ConfigError, match="partitions: found 3 in a command over 2 processes"):
        produced.job()


@pytest.mark.parametrize("mapped", [False, True])
def test_gathered_rows_are_those_of_the_blocks(tmp_path: Path, mapped: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    blocks = [rows[:2], rows[2:2], rows[2:]]
    found = mapped_rows.gathered(iter(blocks), 7, 3, tmp_path / "new" if mapped else None)
    assert np.array_equal(found, rows)
    assert list(tmp_path.glob("*/*")) == []
    found[0] = 0.0  # It is one's own.
    nobody = mapped_rows.gathered(iter([rows[:0]]), 0, 3, tmp_path if mapped else None)
    assert nobody.shape == (0, 3)
