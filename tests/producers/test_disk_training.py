"""Training from disk: as good as in memory, each edge once an epoch, the same bits after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from provender.plugin.errors import CheckpointError, ConfigError, TrainingError
from provender.producers.bucket_order import visits
from provender.producers.chunks import EpochPlan
from provender.producers.disk_training import DiskRun, VisitRun, train_on_disk
from provender.producers.edge_streams import GraphEdges
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_loop import Progress
from provender.producers.training_state import TrainingState
from provender.producers.visit_sources import sampler_of_present
from tests.producers.disk_world import COUNTS, SMALL, own_topic, planted

GRAPH = planted()


def _equal(a: Parameters, b: Parameters) -> bool:
    same = [torch.equal(a.relation[name], b.relation[name]) for name in a.relation]
    return torch.equal(a.entity, b.entity) and all(same)


@pytest.mark.parametrize("model", ["transra", "distmult"])
def test_one_partition_is_training_in_memory_bit_for_bit(tmp_path: Path, model: str) -> None:
    config = SMALL.model_copy(update={"model": model})
    assert _equal(train(GRAPH, config), train_on_disk(GraphEdges(GRAPH), config, tmp_path))


@pytest.mark.parametrize("whole_below", [0, 10])
def test_the_planted_structure_is_found_as_in_memory(tmp_path: Path, whole_below: int) -> None:
    config = SMALL.model_copy(
        update={"epochs": 10, "partitions": 3, "shrinkage": 0.5, "checkpoint_minutes": 60.0}
    )
    found = train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=whole_below)
    whole = train(GRAPH, config.model_copy(update={"partitions": 1}))
    assert own_topic(found, GRAPH) > own_topic(whole, GRAPH) - 0.05 > 0.8


def test_commands_train_in_memory_and_say_so() -> None:
    with pytest.raises(ConfigError, match=r"partitions: found 3.*train_on_disk"):
        train(GRAPH, SMALL.model_copy(update={"partitions": 3}))


def test_every_edge_is_trained_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Counter[tuple[int, int, int]]] = [Counter(), Counter()]
    drawn: set[int] = set()

    def step(self: DiskRun, plan: EpochPlan, index: int) -> tuple[int, float]:
        graph, edges = self.run.source.graph, plan.chunks[index]
        ids = _global_ids(self)
        ends = [[ids[row] for row in end[edges].tolist()] for end in (graph.head, graph.tail)]
        relations = graph.relation[edges].tolist()
        seen[plan.epoch // len(self.order)].update(zip(relations, *ends, strict=True))
        drawn.update(ids[row] for row in self.run.source.draw(plan, index).rows.tolist())
        return len(edges), 0.0

    monkeypatch.setattr(DiskRun, "_step", step)
    config = SMALL.model_copy(update={"partitions": 5})
    train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=20)
    columns = (GRAPH.relation, GRAPH.head, GRAPH.tail)
    wanted = Counter(zip(*(column.tolist() for column in columns), strict=True))
    assert seen == [wanted, wanted]
    assert drawn == set(range(GRAPH.entities))


def _global_ids(run: DiskRun) -> dict[int, int]:
    """By row of the table in memory: the global id that should lie there."""
    deal, ids, before = run.buckets.partitioning, {}, 0
    for entity, count in COUNTS.items():
        for each in range(count):
            partition, row = each % deal.partitions, each // deal.partitions
            slot = int(run.held.slot[partition])
            if entity in deal.whole:
                ids[run.layout.start(entity, 0) + each] = before + each
            elif slot >= 0:
                ids[run.layout.start(entity, slot) + row] = before + each
        before += count
    return ids


def test_negatives_come_from_those_in_memory_and_know_how_often() -> None:
    degrees = torch.tensor([4, 0, -1, -1, 1, -1], dtype=torch.int32)
    sampler = sampler_of_present(degrees, 100, SMALL, torch.device("cpu"))
    drawn = sampler.draw(20_000, torch.Generator().manual_seed(0))
    powers = np.array([4.0, 0.0, 1.0]) ** SMALL.degree_power
    share = SMALL.uniform_share / 3 + (1 - SMALL.uniform_share) * powers / powers.sum()
    found = torch.bincount(drawn - 100, minlength=6).numpy() / 20_000
    assert found[[0, 1, 4]] == pytest.approx(share, abs=0.015)
    assert found[[2, 3, 5]].sum() == 0
    expected = 3 * sampler.log_probability_of(torch.tensor([100, 101, 104])).exp().numpy()
    assert expected == pytest.approx(3 * share, rel=1e-5)
    most = torch.tensor([1 - 2**-53], dtype=torch.float64)
    highest = torch.searchsorted(sampler.cumulative, most, right=True)
    assert int(highest) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.producers.disk_world import SMALL, planted
from provender.producers.disk_training import train_on_disk
from provender.producers.edge_streams import GraphEdges
from provender.producers.partitions import PartitionFiles

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

whole = PartitionFiles.write
def half(self, partition, parts, version):
    whole(self, partition, parts[:1] if version == 9 else parts, version)
    version == 9 and die()

if sys.argv[3] == "write":
    PartitionFiles.write = half
config = SMALL.model_copy(update={"partitions": 5, "checkpoint_minutes": float(sys.argv[4])})
train_on_disk(GraphEdges(planted()), config, Path(sys.argv[2]), whole_below=20,
    on_progress=lambda at: at.step == 21 and sys.argv[3] == "step" and die())
"""


@pytest.mark.parametrize(("moment", "reached"), [("step", 21), ("write", 40)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, moment: str, reached: int) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[2]), str(tmp_path / "a")]
    killed = subprocess.run([*command, moment, "0"], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert list((tmp_path / "a/checkpoints").glob("*.json"))
    config = SMALL.model_copy(update={"partitions": 5})
    steps: list[int] = []
    resumed, whole = (
        train_on_disk(
            GraphEdges(GRAPH),
            config,
            tmp_path / name,
            whole_below=20,
            on_progress=lambda at: steps.append(at.step),
        )
        for name in ("a", "b")
    )
    assert 1 < steps[0] <= reached
    assert _equal(resumed, whole)


def test_what_has_ended_is_mapped_again_and_writing_to_it_stays_in_memory(tmp_path: Path) -> None:
    edges, config = GraphEdges(GRAPH), SMALL.model_copy(update={"partitions": 3})
    first = train_on_disk(edges, config, tmp_path, whole_below=0)
    changed = first.entity.clone()
    first.entity.zero_()
    calls: list[object] = []
    again = train_on_disk(edges, config, tmp_path, whole_below=0, on_progress=calls.append)
    assert not calls
    assert torch.equal(again.entity, changed)


def test_a_lost_partition_is_named_and_nothing_is_made_up(tmp_path: Path) -> None:
    edges, config = GraphEdges(GRAPH), SMALL.model_copy(update={"partitions": 3})

    def stop(at: Progress) -> None:
        if at.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on_disk(edges, config, tmp_path, whole_below=0, on_progress=stop)
    next(tmp_path.glob("partitions/*")).unlink()
    with pytest.raises(CheckpointError, match=r"partition-.*found no such file"):
        train_on_disk(edges, config, tmp_path, whole_below=0)


def test_what_has_ended_leaves_its_table_alone(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"partitions": 3})
    train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=0)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == [
        "entities",
        "relations",
    ]


def test_a_loss_that_is_no_number_stops_and_names_the_relation(tmp_path: Path) -> None:
    config = SMALL.model_copy(
        update={"partitions": 3, "learning_rate": 1e25, "checkpoint_minutes": 60.0}
    )
    with pytest.raises(TrainingError, match=r"visit \d+ of epoch 0, batch \d+, relation '"):
        train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=0)


def test_an_error_names_the_visit_of_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"partitions": 3, "checkpoint_minutes": 60.0})
    turn = len(visits(3, config.partitions_held)) + 2
    wrong: list[str] = []

    def step(
        self: VisitRun, state: TrainingState, plan: EpochPlan, index: int
    ) -> tuple[int, float]:
        if plan.epoch < turn or index < 1:
            return 1, 0.0
        graph = self.source.graph
        wrong.append(graph.relations[int(graph.relation[plan.chunks[index][0]])].name)
        raise self.not_finite(plan, index, float("nan"))

    monkeypatch.setattr(VisitRun, "step", step)
    with pytest.raises(TrainingError) as caught:
        train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=0)
    assert caught.value.thing == f"visit 2 of epoch 1, batch 1, relation {wrong[0]!r}"
    assert caught.value.found == "a loss of nan"


def test_relations_that_are_no_numbers_are_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last update may spoil them after its loss was fine."""

    def step(self: DiskRun, plan: EpochPlan, index: int) -> tuple[int, float]:
        self.state.parameters.relation["translation"][1] = torch.inf
        return 1, 0.0

    monkeypatch.setattr(DiskRun, "_step", step)
    config = SMALL.model_copy(update={"partitions": 3, "checkpoint_minutes": 60.0})
    with pytest.raises(TrainingError, match="relations' translation that are no finite numbers"):
        train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=0)
    assert not list(tmp_path.glob("entities-*"))
