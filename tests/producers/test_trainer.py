"""Training: what is learned, every parameter moved, anchors held, plain TransR by an oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers.chunks import EpochPlan, generator_of
from provender.producers.evaluation import next_day
from provender.producers.graph import TripleGraph
from provender.producers.negatives import build_sampler
from provender.producers.scores import SCORES
from provender.producers.trainer import train
from provender.producers.training_loop import Progress
from provender.producers.training_state import TrainingState
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent
from tests.producers.planted import (
    GRAPH,
    RELATIONS,
    SMALL,
    WINDOW,
    changed,
    equal,
    only_clicks,
    planted,
)

CPU = torch.device("cpu")
#: What finds the planted structure, by model.
LEARNING: dict[str, dict[str, object]] = {
    model: {"model": model, "epochs": 10, "shrinkage": 1.0} for model in SCORES
}
LEARNING["distmult"] |= {"score_scale": 1.0, "init_norm": 1.0, "shrinkage": 0.0, "epochs": 20}
LEARNING["complex"] |= {"score_scale": 1.0, "init_norm": 1.0, "shrinkage": 0.0, "epochs": 20}


def _recall(config: TransRAConfig, device: str = "cpu") -> float:
    parameters = train(GRAPH, config, device=device)
    assert parameters.entity.device.type == "cpu"
    return next_day(parameters, GRAPH, WINDOW, recalls=[10])["click"].model.recall[10]


@pytest.mark.parametrize("model", SCORES)
def test_every_model_finds_the_planted_structure(model: str) -> None:
    config = changed(**LEARNING[model])
    report = next_day(train(GRAPH, config), GRAPH, WINDOW, recalls=[10])["click"]
    assert report.model.recall[10] > 0.8
    assert report.popularity.recall[10] < 0.3


def test_brain_float_finds_it_too_and_stays_near() -> None:
    config = changed(**LEARNING["transra"], principal_axes=False)
    rounded = config.model_copy(update={"precision": "bfloat16"})
    assert _recall(rounded) > 0.8
    exact, near = (
        train(GRAPH, one.model_copy(update={"epochs": 1})).entity for one in (config, rounded)
    )
    start = TrainingState.start(GRAPH, config, CPU, None).parameters.entity
    assert not torch.equal(exact, near)
    assert (near - exact).norm() < 0.05 * (exact - start).norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", SCORES)
def test_cuda_learns_what_the_cpu_learns(model: str) -> None:
    assert _recall(changed(**LEARNING[model]), "cuda") > 0.8


@pytest.mark.parametrize("loss", ["softmax", "self_adversarial", "margin"])
@pytest.mark.parametrize("model", SCORES)
def test_every_parameter_moves_but_the_anchors_deviation(model: str, loss: str) -> None:
    config = changed(model=model, loss=loss, shrinkage=0.0, principal_axes=False)
    start = TrainingState.start(GRAPH, config, CPU, None).parameters
    end = train(GRAPH, config)
    assert not (start.entity == end.entity).any()
    assert sorted(end.relation) == sorted(SCORES[model].shapes(config.dim))
    for name, values in end.relation.items():
        anchored = model == "transra" and name == "deviation"
        assert values[1:].all()
        assert bool(values[0].any()) is not anchored
        assert anchored or values[0].all()
    norms = end.entity.norm(dim=1)
    assert 0.01 < float(norms.min()) <= float(norms.max()) < 10


def test_without_the_anchor_relation_all_projections_move() -> None:
    config = changed(anchor_relation=None, principal_axes=False)
    assert train(GRAPH, config).relation["deviation"].all()


def test_turning_the_axes_leaves_the_ranking() -> None:
    straight = train(GRAPH, changed(principal_axes=False))
    turned = train(GRAPH, SMALL)
    a, b = (next_day(p, GRAPH, WINDOW, recalls=[10]).metrics() for p in (straight, turned))
    assert a == pytest.approx(b, rel=1e-3)
    assert not torch.equal(straight.entity, turned.entity)


def test_plain_transr_for_one_step_equals_an_independent_implementation() -> None:
    """Both anchors off, one chunk an epoch: dense TransR, dense Adagrad and Adam's first step."""
    graph = only_clicks()
    config = TransRAConfig(
        model="transr",
        dim=4,
        epochs=1,
        chunk_size=10_000,
        negatives=8,
        anchor_entities="off",
        shrinkage=0.0,
        deviation_shrinkage=0.0,
        principal_axes=False,
    )
    start = TrainingState.start(graph, config, CPU, None).parameters
    entity = start.entity.double().requires_grad_()
    r = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    M = torch.eye(4, dtype=torch.float64, requires_grad=True)

    (edges,) = EpochPlan.cut(graph, config.chunk_size, config.seed, 0).chunks
    assert len(edges) == graph.edges
    generator = generator_of(config.seed, 0, 0)
    counts = torch.bincount(torch.cat([graph.head, graph.tail]), minlength=graph.entities)
    draws = {}
    for side in ("user", "pin"):
        span = graph.span(side)
        power = counts[span].double() ** config.degree_power
        share = config.uniform_share
        chance = share / len(power) + (1 - share) * power / power.sum()
        sampler = build_sampler(
            counts[span], span.start, power=config.degree_power, uniform_share=share
        )
        drawn = sampler.draw(config.negatives, generator)
        draws[side] = (drawn, (chance[drawn - span.start] * config.negatives).log())

    def score(head: Tensor, tail: Tensor) -> Tensor:
        return -config.score_scale * ((head @ M + r - tail @ M) ** 2).sum(-1)

    total = torch.zeros((), dtype=torch.float64)
    weights = graph.weight.double() / graph.weight.double().mean()
    for edge in edges.tolist():
        h, t = graph.head[edge], graph.tail[edge]
        own = score(entity[h], entity[t])
        for corrupted, mine in (("pin", t), ("user", h)):
            drawn, log_expected = draws[corrupted]
            others = (
                score(entity[h], entity[drawn])
                if corrupted == "pin"
                else score(entity[drawn], entity[t])
            )
            kept = (others - log_expected)[drawn != mine]
            total = total + 0.5 * weights[edge] * (
                torch.logsumexp(torch.cat([own.view(1), kept]), 0) - own
            )
    total.backward()
    assert entity.grad is not None and r.grad is not None and M.grad is not None
    size = entity.grad.square().mean(1, keepdim=True).sqrt() + 1e-10
    stepped = entity.detach() - config.learning_rate * entity.grad / size
    end = train(graph, config)
    torch.testing.assert_close(end.entity.double(), stepped, atol=2e-4, rtol=0)
    rate = config.relation_learning_rate  # Adam's first step is the sign of the gradient
    torch.testing.assert_close(end.relation["translation"][0].double(), -rate * r.grad.sign())
    torch.testing.assert_close(end.relation["deviation"][0].double(), -rate * M.grad.sign())


def test_weights_weigh_the_loss() -> None:
    doubled = replace(GRAPH, weight=torch.where(torch.arange(GRAPH.edges) == 0, 9.0, GRAPH.weight))
    assert not equal(train(GRAPH, SMALL), train(doubled, SMALL))


def test_runs_are_repeatable_whatever_else_happens() -> None:
    first = train(GRAPH, SMALL)
    torch.manual_seed(99)
    np.random.default_rng(1).random(10)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        second = train(GRAPH, SMALL)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not equal(first, train(GRAPH, changed(seed=1)))


def test_progress_counts_every_triple() -> None:
    seen: list[Progress] = []
    train(GRAPH, SMALL, on_progress=seen.append)
    assert [at.step for at in seen] == list(range(1, seen[-1].total + 1))
    assert sum(at.count for at in seen) == SMALL.epochs * GRAPH.edges
    assert {at.epoch for at in seen} == set(range(SMALL.epochs))
    assert np.mean([at.loss for at in seen[-5:]]) < np.mean([at.loss for at in seen[:5]])


def _parent(users: int = 50, seed: int = 3) -> Parent:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((users, 8)).astype(np.float32) * 0.3
    return Parent({"user": Vectors(pa.array(range(users)), rows)})


def _moved(anchor: str, tether: float = 0.0) -> tuple[Tensor, Tensor]:
    """How far the known and the new users went from where they started."""
    config, parent = changed(anchor_entities=anchor, tether=tether, refresh_epochs=4), _parent()
    end = train(GRAPH, config, parent=parent).entity
    start = TrainingState.start(GRAPH, config, CPU, parent).parameters.entity
    assert torch.equal(start[:50], torch.from_numpy(parent.vectors["user"].vectors))
    away = (end - start).norm(dim=1)
    return away[:50], away[50:]


def test_the_tether_pulls_back() -> None:
    free, loose, tight = _moved("off")[0], _moved("tether", 1.0)[0], _moved("tether", 50.0)[0]
    assert free.mean() > loose.mean() > tight.mean() > 0
    assert tight.mean() < 0.5 * free.mean()


def test_a_tether_of_zero_is_none() -> None:
    assert torch.equal(_moved("off")[0], _moved("tether", 0.0)[0])


def test_frozen_rows_keep_every_bit_and_new_ones_move() -> None:
    known, new = _moved("frozen")
    assert not known.any()
    assert new.all()


@pytest.mark.parametrize("model", ["transra", "complex"])
def test_a_refresh_starts_where_the_last_one_ended(model: str) -> None:
    config = changed(**LEARNING[model], refresh_epochs=1)
    first = train(GRAPH, config)
    later, window = planted(seed=1)
    refreshed = train(later, config, parent=Parent.of(first, GRAPH))
    cosine = torch.nn.functional.cosine_similarity(first.entity, refreshed.entity)
    assert cosine.mean() > 0.9
    assert next_day(refreshed, later, window, recalls=[10])["click"].model.recall[10] > 0.8


def test_a_loss_that_is_no_number_names_batch_and_relation() -> None:
    spoilt = Parent({"item": Vectors(pa.array(["item 003"]), np.full((1, 8), np.nan, np.float32))})
    with pytest.raises(
        TrainingError, match=r"epoch 0, batch \d+, relation '(checkout|promotes)'.*nan"
    ):
        train(GRAPH, SMALL, parent=spoilt)
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        train(GRAPH, changed(learning_rate=1e30))


def test_what_cannot_be_trained_is_refused() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    nothing = TripleGraph(RELATIONS, GRAPH.keys, empty, empty, empty, torch.zeros(0))
    with pytest.raises(TrainingError, match="no edges"):
        train(nothing, SMALL)
    for wrong in ({"anchor_relation": "clik"}, {"relations": {"clik": 1.0}}):
        with pytest.raises(ConfigError, match="'clik'; expected one of click, checkout, promotes"):
            train(GRAPH, changed(**wrong))
    for model in ("rotate", "complex"):
        with pytest.raises(ConfigError, match=f"dim of {model}: found 7; .*Choose an even dim"):
            train(GRAPH, changed(model=model, dim=7))
