"""Starts by key: reordered, new and vanished entities; parents that do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError, ConfigError
from provender.producers.graph import TripleGraph
from provender.producers.optimizer_state import OptimizerState
from provender.producers.parameters import Parameters
from provender.producers.training_state import TrainingState
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors
from provender.producers.warm_start import (
    Parent,
    Reference,
    align,
    first_entities,
    first_relations,
    first_squares,
    load_relations,
    save_relations,
)


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (Relation("click", "user", "pin"), Relation("save", "user", "pin"))


def _graph(users: list[int], pins: list[str], clicks: list[tuple[int, int, float]]) -> TripleGraph:
    return TripleGraph(
        RELATIONS,
        {"user": pa.array(users, pa.int64()), "pin": pa.array(pins, pa.string())},
        head=torch.tensor([h for h, _, _ in clicks], dtype=torch.int64),
        tail=torch.tensor([t + len(users) for _, t, _ in clicks], dtype=torch.int64),
        relation=torch.zeros(len(clicks), dtype=torch.int64),
        weight=torch.tensor([w for _, _, w in clicks]),
    )


def _vectors(keys: list[int] | list[str], rows: list[list[float]]) -> Vectors:
    return Vectors(pa.array(keys), np.array(rows, dtype=np.float32))


def test_rows_are_found_by_key_not_by_place() -> None:
    graph = _graph([1, 3, 5], ["a"], [])
    former = _vectors([0, 3, 4, 5], [[0, 0], [3, 3], [4, 4], [5, 5]])
    reference = align(graph, 2, Parent({"user": former, "page": _vectors(["x"], [[9, 9]])}))
    assert reference.known.tolist() == [False, True, True, False]
    assert reference.vectors.tolist() == [[0, 0], [3, 3], [5, 5], [0, 0]]


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_alignment_equals_a_dictionary(now: set[int], before: set[int]) -> None:
    graph = _graph(sorted(now), [], [])
    rows = np.array(sorted(before), dtype=np.float32).reshape(-1, 1)
    former = Vectors(pa.array(sorted(before), pa.int64()), rows)
    reference = align(graph, 1, Parent({"user": former}))
    expected = [float(key) if key in before else 0.0 for key in sorted(now)]
    assert reference.vectors.squeeze(1).tolist() == expected
    assert reference.known.tolist() == [key in before for key in sorted(now)]


def test_new_entities_start_near_their_known_neighbours() -> None:
    graph = _graph([1, 2], ["a", "b", "c"], [(0, 0, 1.0), (0, 1, 3.0), (1, 2, 1.0)])
    reference = align(graph, 2, Parent({"pin": _vectors(["a", "b"], [[1.0, 0.0], [5.0, 8.0]])}))
    first = first_entities(graph, reference, 1e-6, torch.Generator().manual_seed(0))
    assert first[2:4].tolist() == [[1.0, 0.0], [5.0, 8.0]]
    assert first[0].tolist() == pytest.approx([(1 + 15) / 4, 24 / 4], abs=1e-5)
    assert first[1].abs().max() < 1e-4  # its only neighbour is new as well
    assert first[1].abs().min() > 0


def test_neighbours_of_no_weight_leave_who_is_new_at_random() -> None:
    graph = _graph([1], ["a"], [(0, 0, 0.0)])
    reference = align(graph, 2, Parent({"pin": _vectors(["a"], [[1.0, 0.0]])}))
    first = first_entities(graph, reference, 0.5, torch.Generator().manual_seed(0))
    assert torch.isfinite(first).all()
    assert first[0].norm() > 0


def test_random_rows_have_the_stated_length() -> None:
    graph = _graph(list(range(2000)), [], [])
    none = Reference(torch.zeros(2000, 64), torch.zeros(2000, dtype=torch.bool))
    first = first_entities(graph, none, 0.5, torch.Generator().manual_seed(0))
    assert first.norm(dim=1).mean().item() == pytest.approx(0.5, rel=0.02)


def test_relations_come_by_name_and_those_of_another_model_stay_behind() -> None:
    learned = {"translation": torch.ones(2), "deviation": torch.eye(2)}
    graph, parent = _graph([1], ["a"], []), Parent({}, {"save": learned, "gone": learned})
    first = first_relations(graph, "transra", 2, parent)
    assert first["translation"].tolist() == [[0, 0], [1, 1]]
    assert first["deviation"].tolist() == [[[0, 0], [0, 0]], [[1, 0], [0, 1]]]
    assert list(first_relations(graph, "transe", 2, parent)) == ["translation"]


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.floats(0, 1, width=32))
def test_squares_come_by_key_and_decay(now: set[int], before: set[int], kept: float) -> None:
    graph = _graph(sorted(now), ["a"], [])
    former = Vectors(pa.array(sorted(before), pa.int64()), np.zeros((len(before), 1), np.float32))
    state = OptimizerState({"user": torch.tensor(sorted(before)) + 1.0}, {}, {})
    squares = first_squares(graph, Parent({"user": former}, {}, state), kept)
    expected = [kept * (key + 1.0) if key in before else 0.0 for key in sorted(now)]
    assert squares.tolist() == pytest.approx([*expected, 0.0])
    assert not first_squares(graph, Parent({"user": former}), kept).any()


def test_parents_that_do_not_fit_are_refused() -> None:
    graph = _graph([1], ["a"], [])
    with pytest.raises(ConfigError, match="'user' from the parent: found dim 3; expected dim 2"):
        align(graph, 2, Parent({"user": _vectors([1], [[1, 2, 3]])}))
    with pytest.raises(ConfigError, match=r"keys of 'user'.*found string; expected int64"):
        align(graph, 2, Parent({"user": _vectors(["1"], [[1, 2]])}))
    with pytest.raises(ConfigError, match="relation 'click'"):
        first_relations(graph, "transe", 2, Parent({}, {"click": {"translation": torch.ones(3)}}))


def test_relations_survive_the_file(tmp_path: Path) -> None:
    graph = _graph([1], ["a"], [])
    relation = {"translation": torch.randn(2, 3), "deviation": torch.randn(2, 3, 3)}
    parameters = Parameters("transra", torch.zeros(2, 3), relation)
    save_relations(tmp_path / "relations.safetensors", parameters, graph)
    loaded = load_relations(tmp_path / "relations.safetensors")
    assert sorted(loaded) == ["click", "save"]
    assert torch.equal(loaded["save"]["translation"], relation["translation"][1])
    assert torch.equal(loaded["save"]["deviation"], relation["deviation"][1])
    (tmp_path / "relations.safetensors").write_bytes(b"half")
    for name in ("relations.safetensors", "none.safetensors"):
        with pytest.raises(CheckpointError, match="learns the relations anew"):
            load_relations(tmp_path / name)


def test_the_fingerprint_sees_every_change() -> None:
    def parent(
        key: int = 1, value: float = 1.0, r: float = 0.0, name: str = "click", square: float = 0.0
    ) -> Parent:
        relations = {name: {"translation": torch.full((1,), r)}}
        state = OptimizerState({"user": torch.full((1,), square)}, {}, {}) if square else None
        return Parent({"user": _vectors([key], [[value]])}, relations, state)

    changed = [parent(key=2), parent(value=2.0), parent(r=1.0), parent(name="save")]
    changed += [parent(square=1.0), parent(square=2.0)]
    assert parent().fingerprint == parent().fingerprint
    assert len({parent().fingerprint, *(one.fingerprint for one in changed)}) == 7


def test_a_parent_gives_back_the_parameters_of_its_own_graph_only() -> None:
    graph = _graph([1, 2], ["a"], [])
    parameters = Parameters("complex", torch.randn(3, 4), {"diagonal": torch.randn(2, 4)})
    parent = Parent.of(parameters, graph)
    again = parent.parameters(graph, "complex")
    assert torch.equal(again.entity, parameters.entity)
    assert torch.equal(again.relation["diagonal"], parameters.relation["diagonal"])
    with pytest.raises(CheckpointError, match="'user' from the parent: found other keys"):
        parent.parameters(_graph([1, 3], ["a"], []), "complex")


def test_the_anchors_deviation_starts_at_zero_whatever_the_parent_learned() -> None:
    graph = _graph([1], ["a"], [])
    known = {"translation": torch.ones(2), "deviation": torch.eye(2)}
    parent = Parent({}, {"click": known, "save": known})
    config = TransRAConfig(dim=2, anchor_relation="click")
    state = TrainingState.start(graph, config, torch.device("cpu"), parent)
    deviation = state.parameters.relation["deviation"]
    assert not deviation[0].any()
    assert deviation[1].tolist() == [[1, 0], [0, 1]]


def test_what_another_model_learned_of_relations_is_passed_over() -> None:
    parent = Parent({}, {"save": {"translation": torch.ones(2), "deviation": torch.eye(2)}})
    graph = _graph([1], ["a"], [])
    assert first_relations(graph, "transe", 2, parent)["translation"][1].tolist() == [1, 1]
    first = first_relations(graph, "distmult", 2, parent)["diagonal"]
    assert torch.equal(first, first_relations(graph, "distmult", 2, None)["diagonal"])
