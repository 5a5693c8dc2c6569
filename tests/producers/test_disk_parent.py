"""Training from disk from a parent: the same rows, anchors and relations as in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.plugin.errors import ConfigError
from provender.producers.disk_parent import Former
from provender.producers.disk_training import DiskRun, train_on_disk
from provender.producers.edge_streams import GraphEdges
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_state import TrainingState
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent
from tests.producers.disk_world import SMALL, own_topic, planted

GRAPH = planted()
#: A refresh long enough to move what may move.
REFRESH = SMALL.model_copy(update={"refresh_epochs": 2, "checkpoint_minutes": 60.0})


def _without_some(parent: Parent) -> Parent:
    """As if one entity in five were new, of every type."""
    known = {}
    for entity, one in parent.vectors.items():
        kept = np.arange(len(one.keys)) % 5 != 1
        known[entity] = Vectors(one.keys.filter(pa.array(kept)), one.vectors[kept])
    return replace(parent, vectors=known)


PARENT = _without_some(Parent.of(train(GRAPH, SMALL.model_copy(update={"epochs": 6})), GRAPH))


def _on_disk(folder: Path, config: TransRAConfig, whole_below: int = 0) -> Parameters:
    former = Former(PARENT, GRAPH.keys)
    return train_on_disk(GraphEdges(GRAPH), config, folder, former=former, whole_below=whole_below)


@pytest.mark.parametrize("anchors", ["tether", "frozen", "off"])
def test_one_partition_is_a_refresh_in_memory_bit_for_bit(tmp_path: Path, anchors: str) -> None:
    config = REFRESH.model_copy(update={"anchor_entities": anchors})
    expected, found = train(GRAPH, config, parent=PARENT), _on_disk(tmp_path, config)
    assert torch.equal(found.entity, expected.entity)
    for name, values in expected.relation.items():
        assert torch.equal(found.relation[name], values)


@pytest.mark.parametrize("whole_below", [0, 20, 100])
def test_every_row_starts_where_it_does_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_below: int
) -> None:
    """Except for the random vectors, of which each partition has its own."""
    monkeypatch.setattr(DiskRun, "_step", lambda self, plan, index: (1, 0.0))
    config = REFRESH.model_copy(update={"partitions": 5, "init_norm": 1e-9})
    found = _on_disk(tmp_path, config, whole_below)
    started = TrainingState.start(GRAPH, config, torch.device("cpu"), PARENT)
    assert torch.allclose(found.entity, started.parameters.entity, atol=1e-6)


def test_frozen_rows_stay_in_all_partitions_and_the_others_are_learned(tmp_path: Path) -> None:
    config = REFRESH.model_copy(update={"partitions": 4, "anchor_entities": "frozen"})
    found = _on_disk(tmp_path, config, whole_below=20)
    for entity, former in PARENT.vectors.items():
        rows = found.entity[GRAPH.span(entity)].numpy()
        known = np.isin(GRAPH.keys[entity].to_numpy(), former.keys.to_numpy())
        assert np.array_equal(rows[known], former.vectors)
    assert own_topic(found, GRAPH) > 0.8


def test_a_tethered_refresh_stays_in_the_space_of_its_parent(tmp_path: Path) -> None:
    config = REFRESH.model_copy(update={"partitions": 4, "seed": 7})
    rows = _on_disk(tmp_path, config).entity[GRAPH.span("user")].numpy()
    former = PARENT.vectors["user"]
    rows = rows[np.isin(GRAPH.keys["user"].to_numpy(), former.keys.to_numpy())]
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(former.vectors, axis=1)
    cosine = (rows * former.vectors).sum(1) / lengths
    assert 0.9 < cosine.mean() < 1 - 1e-4


def test_another_parent_is_another_training(tmp_path: Path) -> None:
    config = REFRESH.model_copy(update={"partitions": 3})
    with_parent = _on_disk(tmp_path, config)
    without = train_on_disk(GraphEdges(GRAPH), config, tmp_path, whole_below=0)
    assert not torch.equal(with_parent.entity, without.entity)
    assert torch.equal(with_parent.entity, _on_disk(tmp_path, config).entity)


def test_a_parent_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = REFRESH.model_copy(update={"partitions": 3, "dim": 8})
    with pytest.raises(ConfigError, match=r"vectors of 'item' from the parent: found dim 16"):
        _on_disk(tmp_path, config)
