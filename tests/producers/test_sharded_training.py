"""Training over ranks: the same as one process in steps of W chunks, and no hanging."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.chunks import EpochPlan
from provender.producers.followers import follow, over_ranks
from provender.producers.graph import TripleGraph
from provender.producers.optimizers import adam
from provender.producers.parameters import Parameters
from provender.producers.ranks import Ranks
from provender.producers.trainer import Run, train
from provender.producers.training_loop import Progress
from provender.producers.training_state import TrainingState
from provender.producers.transra_config import TransRAConfig
from provender.producers.warm_start import Parent
from tests.producers.rank_world import launched, over


class Relation(NamedTuple):
    name: str
    head: str
    tail: str


def _graph() -> TripleGraph:
    generator = torch.Generator().manual_seed(3)
    relations = (Relation("click", "user", "pin"), Relation("like", "user", "user"))
    relation = (torch.arange(230) >= 150).long()
    head = torch.randint(0, 25, (230,), generator=generator)
    tail = torch.randint(0, 25, (230,), generator=generator) + 25 * (1 - relation)
    keys = {"user": pa.array(range(25)), "pin": pa.array(range(26))}
    weight = torch.rand(230, generator=generator) + 0.5
    return TripleGraph(relations, keys, head, tail, relation, weight)


GRAPH = _graph()
SMALL = TransRAConfig(
    dim=6, epochs=2, refresh_epochs=2, chunk_size=16, negatives=8, principal_axes=False
)
PARENT = Parent.of(train(GRAPH, SMALL.model_copy(update={"seed": 5})), GRAPH)


def _led(work: Callable[[Ranks], Any]) -> Callable[[Ranks], Any]:
    """Rank 0 does the work, the others follow."""

    def led(here: Ranks) -> Any:
        if here.rank:
            return follow(here)
        try:
            return work(here)
        finally:
            here.post(do="stop")

    return led


def _tensors(parameters: Parameters) -> dict[str, Tensor]:
    return {"entity": parameters.entity, **parameters.relation}


def _in_steps_of(count: int, config: TransRAConfig, parent: Parent | None) -> dict[str, Tensor]:
    """One process; W chunks a step, from the same parameters; every row by dense Adagrad."""
    run = Run.prepare(GRAPH, config, torch.device("cpu"), parent)
    state = TrainingState.start(GRAPH, config, torch.device("cpu"), parent)
    entity, relations = state.parameters.entity, state.parameters.relation
    for epoch in range(run.epochs):
        plan = EpochPlan.cut(GRAPH, config.chunk_size, config.seed, epoch)
        assert len(plan.chunks) % count, "the last step is to be one of fewer chunks"
        for first in range(0, len(plan.chunks), count):
            dense = torch.zeros_like(entity)
            of_relations: dict[int, dict[str, Tensor]] = {}
            for index in range(first, min(first + count, len(plan.chunks))):
                chunk = run.source.draw(plan, index)
                rows = entity[chunk.rows]
                _, of_rows, of_relation = run.gradients(state, chunk, rows)
                of_rows = of_rows + 2 * config.shrinkage * rows
                if run.reference and config.anchor_entities == "tether":
                    of_rows += 2 * config.tether * (rows - run.reference.vectors[chunk.rows])
                dense[chunk.rows] += of_rows
                own = of_relations.setdefault(chunk.relation, {})
                for name, gradient in of_relation.items():
                    if name == "deviation":
                        at = relations[name][chunk.relation]
                        pull = 2 * config.deviation_shrinkage * len(chunk.weight) * at
                        gradient = gradient + pull
                    own[name] = own.get(name, 0) + gradient
            if run.reference and config.anchor_entities == "frozen":
                dense[run.reference.known] = 0.0
            state.squares += dense.square().mean(1)
            entity -= run.rate * dense / (state.squares.sqrt() + 1e-10).unsqueeze(1)
            for relation, gradients in of_relations.items():
                state.steps[relation] += 1
                for name, gradient in gradients.items():
                    value, moments = relations[name][relation], state.moments[name][relation]
                    step = int(state.steps[relation])
                    adam(value, moments, gradient, step, rate=config.relation_learning_rate)
    return _tensors(state.parameters)


@pytest.mark.parametrize(
    ("count", "anchor", "refresh"),
    [(2, "off", False), (2, "tether", True), (2, "frozen", True), (4, "off", False)],
)
def test_ranks_train_as_one_process_in_steps_of_as_many_chunks(
    count: int, anchor: str, refresh: bool
) -> None:
    config = SMALL.model_copy(update={"anchor_entities": anchor})
    parent = PARENT if refresh else None
    found, *others = over(
        count, _led(lambda here: _tensors(train(GRAPH, config, device="cpu", parent=parent)))
    )
    assert others == [None] * (count - 1)
    by_hand = _in_steps_of(count, config, parent)
    for name, values in by_hand.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    assert not torch.equal(by_hand["entity"], _tensors(train(GRAPH, config))["entity"])


def test_one_rank_trains_as_no_ranks_bit_for_bit() -> None:
    (found,) = over(1, _led(lambda here: _tensors(train(GRAPH, SMALL, parent=PARENT))))
    for name, values in _tensors(train(GRAPH, SMALL, parent=PARENT)).items():
        assert torch.equal(found[name], values)


class _StoppedError(Exception):
    pass


def _stopping(progress: Progress) -> None:
    if progress.epoch == 0:
        raise _StoppedError


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"checkpoint_minutes": 0.0, "chunk_size": 8})

    def whole(here: Ranks) -> dict[str, Tensor]:
        return _tensors(train(GRAPH, config))

    def stopped(here: Ranks) -> dict[str, Tensor]:
        with pytest.raises(_StoppedError):
            train(GRAPH, config, checkpoint_dir=tmp_path, on_progress=_stopping)
        assert list(tmp_path.glob("*.json"))
        return _tensors(train(GRAPH, config, checkpoint_dir=tmp_path))

    uninterrupted, again = over(2, _led(whole))[0], over(2, _led(stopped))[0]
    for name, values in uninterrupted.items():
        assert torch.equal(again[name], values)


def test_a_loss_that_is_no_number_names_its_batch_and_the_ranks_stay() -> None:
    broken = SMALL.model_copy(update={"learning_rate": 1e30})

    def work(here: Ranks) -> str:
        with pytest.raises(TrainingError, match=r"epoch \d, batch \d+, relation '(click|like)'"):
            train(GRAPH, broken)
        train(GRAPH, SMALL)
        return "trained"

    assert over(2, _led(work)) == ["trained", None]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_ends_or_stands_still_stops_the_others(how: signal.Signals) -> None:
    def work(here: Ranks) -> str:
        if here.rank == 1:
            draw, drawn = Run.gradients, iter(range(100))

            def failing(*arguments: Any) -> Any:
                if next(drawn) == 3:
                    os.kill(os.getpid(), how)
                return draw(*arguments)

            Run.gradients = failing  # type: ignore[method-assign, assignment]
            follow(here)
            return "followed"
        started = time.monotonic()
        with pytest.raises(TrainingError, match="gone or standing still"):
            train(GRAPH, SMALL)
        assert time.monotonic() - started < 30
        return "told"

    assert over(2, work, timeout=timedelta(seconds=4))[0] == "told"


def test_a_rank_whose_leader_is_gone_ends_too() -> None:
    def work(here: Ranks) -> str:
        if here.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(TrainingError, match="gone or standing still"):
            follow(here)
        return "told"

    assert over(2, work) == [None, "told"]


def test_a_command_is_done_by_rank_0_alone_and_the_others_train_with_it() -> None:
    done: list[str] = []

    @over_ranks
    def command() -> None:
        parameters = train(GRAPH, SMALL)
        done.append(f"{len(parameters.entity)} rows")

    def work() -> list[str]:
        command()
        return done

    assert launched(2, work) == [["51 rows"], []]


def test_an_error_of_the_command_lets_the_others_go() -> None:
    @over_ranks
    def command() -> None:
        raise TrainingError("it", found="a fault", expected="none", remedy="Mend it.")

    assert launched(2, command) == [
        "TrainingError: it: found a fault; expected none. Mend it.",
        None,
    ]


def test_a_command_of_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    done: list[str] = []
    over_ranks(lambda: done.append("done"))()
    assert done == ["done"]
