"""The optimizers go on where the last refresh left them; without a state they begin anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from provender.plugin.errors import CheckpointError
from provender.producers.graph import TripleGraph
from provender.producers.optimizer_state import OptimizerState, first_moments
from provender.producers.trainer import train
from provender.producers.training_state import TrainingState, optimizers_at_end
from provender.producers.transra_config import TransRAConfig
from provender.producers.warm_start import Parent


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (Relation("click", "user", "pin"), Relation("save", "user", "pin"))
CPU = torch.device("cpu")
QUICK = TransRAConfig(dim=4, epochs=2, chunk_size=16, negatives=8, refresh_epochs=1)


def _graph(users: int = 12, relations: tuple[Relation, ...] = RELATIONS) -> TripleGraph:
    """Each user has clicked and saved one of six pins."""
    head = torch.arange(users).repeat(2)
    return TripleGraph(
        relations,
        {"user": pa.array(range(users)), "pin": pa.array([f"pin {i}" for i in range(6)])},
        head=head,
        tail=users + head % 6,
        relation=torch.arange(2).repeat_interleave(users),
        weight=torch.ones(2 * users),
    )


def _finished(
    folder: Path, config: TransRAConfig, parent: Parent | None = None
) -> tuple[Parent, OptimizerState]:
    """What a finished training hands to the next, and the optimizers in it."""
    graph = _graph()
    parameters = train(graph, config, device="cpu", checkpoint_dir=folder, parent=parent)
    state = optimizers_at_end(folder, graph, config, parent)
    assert state is not None
    handed = Parent.of(parameters, graph)
    return Parent(handed.vectors, handed.relations, state), state


def test_an_unturned_state_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Kept whole, the sums and moments of the next start are those of the end."""
    config = QUICK.model_copy(update={"principal_axes": False, "state_decay": 1.0})
    parent, state = _finished(tmp_path, config)
    next_ = TrainingState.start(_graph(), config, CPU, parent)
    assert next_.squares.min() > 0
    assert torch.equal(next_.squares, torch.cat([state.squares["user"], state.squares["pin"]]))
    assert next_.steps.tolist() == [2, 2]
    for index, name in enumerate(("click", "save")):
        for part, values in next_.moments.items():
            assert torch.equal(values[index], state.moments[name][part])
    assert next_.moments["translation"][:, 1].min() > 0


def test_a_turned_space_keeps_squares_and_no_moments(tmp_path: Path) -> None:
    """Adam's second moments are of single coordinates, which a rotation mixes."""
    config = QUICK.model_copy(update={"state_decay": 0.5})
    parent, state = _finished(tmp_path / "first", config)
    assert (state.moments, state.steps) == ({}, {})
    next_ = TrainingState.start(_graph(), config, CPU, parent)
    assert torch.equal(next_.squares[:12], 0.5 * state.squares["user"])
    assert not next_.steps.any()
    assert not any(values.any() for values in next_.moments.values())
    _, second = _finished(tmp_path / "second", config, parent)  # Later refreshes turn nothing.
    assert second.steps["save"] == 1


def test_a_decay_of_nothing_and_older_runs_begin_anew(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"principal_axes": False})
    parent, _ = _finished(tmp_path / "first", config)
    without = Parent(parent.vectors, parent.relations)
    fresh = config.model_copy(update={"state_decay": 0.0})
    kept = config.model_copy(update={"state_decay": 0.5})
    for start in (
        TrainingState.start(_graph(), fresh, CPU, parent),
        TrainingState.start(_graph(), kept, CPU, without),
    ):
        assert not start.squares.any()
        assert not start.steps.any()
        assert not any(values.any() for values in start.moments.values())


def test_what_is_kept_shortens_the_steps(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"anchor_entities": "off"})
    parent, _ = _finished(tmp_path, config)

    def moved(decay: float) -> float:
        settings = config.model_copy(update={"state_decay": decay})
        now = train(_graph(), settings, device="cpu", parent=parent).vectors(_graph(), "user")
        return float(abs(now.vectors - parent.vectors["user"].vectors).mean())

    assert moved(1.0) < moved(0.5) < moved(0.0)


def test_new_relations_and_users_begin_at_zero(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"principal_axes": False, "state_decay": 1.0})
    parent, state = _finished(tmp_path, config)
    later = _graph(14, (Relation("hide", "user", "pin"), RELATIONS[0]))
    start = TrainingState.start(later, config, CPU, parent)
    assert start.steps.tolist() == [0, 2]
    assert not start.moments["deviation"][0].any()
    assert torch.equal(start.moments["translation"][1], state.moments["click"]["translation"])
    assert start.squares[12:14].tolist() == [0, 0]
    assert torch.equal(start.squares[14:], state.squares["pin"])


def test_moments_of_another_model_stay_behind() -> None:
    state = OptimizerState({}, {"click": {"phase": torch.ones(2, 2)}}, {"click": torch.tensor(7)})
    moments, steps = first_moments(_graph(), {"translation": torch.zeros(2, 4)}, state)
    assert not moments["translation"].any()
    assert steps.tolist() == [0, 0]


def test_it_survives_the_file(tmp_path: Path) -> None:
    moments = {"a/b": {"translation": torch.rand(2, 3)}, "c": {"translation": torch.rand(2, 3)}}
    steps = {"a/b": torch.tensor(3), "c": torch.tensor(0)}
    state = OptimizerState({"user": torch.rand(5), "pin": torch.rand(2)}, moments, steps)
    path = tmp_path / "state.safetensors"
    assert OptimizerState.load(path) is None
    state.save(path)
    loaded = OptimizerState.load(path)
    assert loaded is not None
    pairs = list(zip(state.tensors(), loaded.tensors(), strict=True))
    assert len(pairs) == 6
    assert all(a == b and torch.equal(one, other) for (a, one), (b, other) in pairs)
    path.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="optimizers then begin anew"):
        OptimizerState.load(path)
