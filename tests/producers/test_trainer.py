"""Training: gradients everywhere, anchors held, plain TransR by an oracle, resuming bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.plugin.errors import CheckpointError, ConfigError, TrainingError
from provender.producers.chunks import (
    Chunk,
    chunk_losses,
    cut_chunks,
    epoch_generator,
    loss_weights,
    pick_loss,
)
from provender.producers.evaluation import next_day
from provender.producers.graph import TripleGraph
from provender.producers.negatives import build_sampler
from provender.producers.trainer import pick_device, train
from provender.producers.transra import TransRAParameters
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent


@dataclass(frozen=True)
class Relation:
    name: str
    head: str
    tail: str


RELATIONS = (
    Relation("click", "user", "pin"),
    Relation("checkout", "user", "item"),
    Relation("promotes", "pin", "item"),
)
USERS, PINS, ITEMS, TOPICS = 60, 40, 20, 4
SMALL = TransRAConfig(dim=8, epochs=2, chunk_size=32, negatives=16, checkpoint_every=3)


def planted(
    seed: int = 0, days: int = 1, users: int = USERS, pins: int = PINS
) -> tuple[TripleGraph, pa.Table]:
    """Users and pins like those of their own topic; the graph, and clicks of the next day."""
    rng = np.random.default_rng(seed)
    topic = {"user": np.arange(users) % TOPICS, "pin": np.arange(pins) % TOPICS}
    topic["item"] = np.arange(ITEMS) % TOPICS
    columns: list[list[np.ndarray]] = [[], [], []]
    starts = {"user": 0, "pin": users, "item": users + pins}
    for index, one in enumerate(RELATIONS):
        like = topic[one.head][:, None] == topic[one.tail][None, :]
        chance = np.where(like, min(1.0, 0.5 * days), 0.03)
        heads, tails = np.nonzero(rng.random(like.shape) < chance)
        columns[0].append(np.full(len(heads), index))
        columns[1].append(heads + starts[one.head])
        columns[2].append(tails + starts[one.tail])
    relation, head, tail = (torch.from_numpy(np.concatenate(c)) for c in columns)
    keys = {"user": pa.array(range(users)), "pin": pa.array(range(pins))}
    keys["item"] = pa.array([f"item {i:03}" for i in range(ITEMS)])
    weight = torch.from_numpy(rng.uniform(0.5, 2.0, len(head)).astype(np.float32))
    like = topic["user"][:, None] == topic["pin"][None, :]
    users_, pins_ = np.nonzero(like & (rng.random(like.shape) < 0.3))
    window = pa.table({"relation": np.zeros(len(users_), np.int16), "head": users_, "tail": pins_})
    return TripleGraph(RELATIONS, keys, head, tail, relation, weight), window


GRAPH, WINDOW = planted()


def _equal(a: TransRAParameters, b: TransRAParameters) -> bool:
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def _tensors(parameters: TransRAParameters) -> tuple[Tensor, Tensor, Tensor]:
    return parameters.entity, parameters.translation, parameters.deviation


def test_the_planted_structure_is_found() -> None:
    config = SMALL.model_copy(update={"epochs": 10, "shrinkage": 1.0})
    report = next_day(train(GRAPH, config), GRAPH, WINDOW, recalls=[10])["click"]
    assert report.model.recall[10] > 0.8
    assert report.popularity.recall[10] < 0.3


@pytest.mark.parametrize("loss", ["softmax", "self_adversarial", "margin"])
def test_every_parameter_moves_and_the_anchors_deviation_never(loss: str) -> None:
    config = SMALL.model_copy(update={"loss": loss, "shrinkage": 0.0, "principal_axes": False})
    start = train(GRAPH, config.model_copy(update={"learning_rate": 1e-30, "epochs": 1}))
    end = train(GRAPH, config)
    assert not (start.entity == end.entity).any()
    assert end.translation.all()
    assert end.deviation[1:].all()
    assert not end.deviation[0].any()
    norms = end.entity.norm(dim=1)
    assert 0.01 < float(norms.min()) <= float(norms.max()) < 10


def test_without_the_anchor_relation_all_projections_move() -> None:
    config = SMALL.model_copy(update={"anchor_relation": None, "principal_axes": False})
    assert train(GRAPH, config).deviation.all()


def test_turning_the_axes_leaves_the_ranking() -> None:
    straight = train(GRAPH, SMALL.model_copy(update={"principal_axes": False}))
    turned = train(GRAPH, SMALL)
    a, b = (next_day(p, GRAPH, WINDOW, recalls=[10]).metrics() for p in (straight, turned))
    assert a == pytest.approx(b, rel=1e-3)
    assert not torch.equal(straight.entity, turned.entity)


def _one_chunk() -> tuple[Chunk, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    chunk = Chunk(
        relation=0,
        rows=torch.arange(7),
        head=torch.tensor([0, 1, 0]),
        tail=torch.tensor([3, 4, 4]),
        negative_head=torch.tensor([0, 2]),
        negative_tail=torch.tensor([4, 5, 6, 5]),
        weight=torch.ones(3),
        log_expected_head=torch.tensor([0.5, 1.0]).log(),
        log_expected_tail=torch.tensor([0.3, 0.9, 2.0, 0.9]).log(),
    )
    rows = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    r = torch.randn(3, dtype=torch.float64, generator=generator)
    return chunk, rows, r, torch.randn(3, 3, dtype=torch.float64, generator=generator)


def test_a_chunks_losses_equal_a_naive_loop() -> None:
    chunk, rows, r, D = _one_chunk()
    M = torch.eye(3, dtype=torch.float64) + D

    def f(head: int, tail: int) -> float:
        return -2.0 * float((rows[head] @ M + r - rows[tail] @ M).square().sum())

    by_hand = []
    for h, t in zip(chunk.head.tolist(), chunk.tail.tolist(), strict=True):
        sides = []
        tails = zip(
            chunk.negative_tail.tolist(), chunk.log_expected_tail.exp().tolist(), strict=True
        )
        sides.append([np.exp(f(h, n)) / q for n, q in tails if n != t])
        heads = zip(
            chunk.negative_head.tolist(), chunk.log_expected_head.exp().tolist(), strict=True
        )
        sides.append([np.exp(f(n, t)) / q for n, q in heads if n != h])
        own = np.exp(f(h, t))
        by_hand.append(np.mean([-np.log(own / (own + sum(side))) for side in sides]))
    losses = chunk_losses(rows, r, D, chunk, pick_loss(TransRAConfig()), 2.0)
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-6)


def test_gradients_of_a_chunk_equal_finite_differences() -> None:
    chunk, rows, r, D = _one_chunk()
    loss = pick_loss(TransRAConfig())

    def total(rows: Tensor, r: Tensor, D: Tensor) -> Tensor:
        return chunk_losses(rows, r, D, chunk, loss, 0.5).sum()

    inputs = [tensor.requires_grad_() for tensor in (rows, r, D)]
    assert torch.autograd.gradcheck(total, inputs)


def test_plain_transr_for_one_step_equals_an_independent_implementation() -> None:
    """Both anchors off, one chunk an epoch: dense TransR, dense Adagrad and torch's Adam."""
    graph = _only_clicks(GRAPH)
    config = TransRAConfig(
        dim=4,
        epochs=1,
        chunk_size=10_000,
        negatives=8,
        anchor_relation=None,
        anchor_entities="off",
        shrinkage=0.0,
        deviation_shrinkage=0.0,
        principal_axes=False,
    )
    # The same start: a run whose steps are too small to be seen.
    tiny = {"learning_rate": 1e-30, "relation_learning_rate": 1e-30}
    start = train(graph, config.model_copy(update=tiny))
    entity = start.entity.clone().double().requires_grad_()
    r = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    M = torch.eye(4, dtype=torch.float64, requires_grad=True)

    generator = epoch_generator(config.seed, 0)
    edges = cut_chunks(graph, config.chunk_size, generator)[0]
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
    torch.testing.assert_close(end.translation[0].double(), -rate * r.grad.sign())
    torch.testing.assert_close(end.deviation[0].double(), -rate * M.grad.sign())


def _only_clicks(graph: TripleGraph) -> TripleGraph:
    of = graph.edges_of(0)
    return TripleGraph(
        graph.relations[:1],
        {entity: graph.keys[entity] for entity in ("user", "pin")},
        graph.head[of],
        graph.tail[of],
        graph.relation[of],
        graph.weight[of],
    )


def test_chunks_are_of_one_relation_and_cover_every_edge_once() -> None:
    chunks = cut_chunks(GRAPH, 32, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(chunks).tolist()) == list(range(GRAPH.edges))
    assert all(len(chunk) <= 32 for chunk in chunks)
    assert all(len(GRAPH.relation[chunk].unique()) == 1 for chunk in chunks)
    again = cut_chunks(GRAPH, 32, torch.Generator().manual_seed(2))
    assert [c.tolist() for c in chunks] != [c.tolist() for c in again]


def test_weights_weigh_the_loss() -> None:
    config = SMALL.model_copy(update={"relations": {"click": 3.0, "promotes": 0.5}})
    weights = loss_weights(GRAPH, config)
    clicks = GRAPH.edges_of(0)
    assert weights[clicks].mean().item() == pytest.approx(3.0, rel=1e-5)
    ratio = weights[clicks] / GRAPH.weight[clicks]
    assert ratio.std().item() == pytest.approx(0.0, abs=1e-5)
    assert weights[GRAPH.edges_of(2)].mean().item() == pytest.approx(0.5, rel=1e-5)
    doubled = replace(GRAPH, weight=torch.where(torch.arange(GRAPH.edges) == 0, 9.0, GRAPH.weight))
    assert not _equal(train(GRAPH, SMALL), train(doubled, SMALL))


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
    assert _equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not _equal(first, train(GRAPH, SMALL.model_copy(update={"seed": 1})))


def _parent(users: int = 50, seed: int = 3) -> Parent:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((users, 8)).astype(np.float32) * 0.3
    return Parent({"user": Vectors(pa.array(range(users)), rows)})


def _moved(anchor: str, tether: float = 0.0) -> tuple[Tensor, Tensor]:
    """How far the known and the new users went from where they started."""
    changed = {"anchor_entities": anchor, "tether": tether, "refresh_epochs": 4}
    parent = _parent()
    end = train(GRAPH, SMALL.model_copy(update=changed), parent=parent)
    still = {**changed, "refresh_learning_rate": 1e-30}
    start = train(GRAPH, SMALL.model_copy(update=still), parent=parent)
    away = (end.entity - start.entity).norm(dim=1)
    assert torch.equal(start.entity[:50], torch.from_numpy(parent.vectors["user"].vectors))
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


def test_a_refresh_starts_where_the_last_one_ended() -> None:
    config = SMALL.model_copy(update={"epochs": 10, "shrinkage": 1.0, "refresh_epochs": 1})
    first = train(GRAPH, config)
    later, window = planted(seed=1)
    refreshed = train(later, config, parent=Parent.of(first, GRAPH))
    cosine = torch.nn.functional.cosine_similarity(first.entity, refreshed.entity)
    assert cosine.mean() > 0.9
    assert next_day(refreshed, later, window, recalls=[10])["click"].model.recall[10] > 0.8


class _StopError(Exception):
    pass


def _stop_at(step: int) -> object:
    def on_progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise _StopError

    return on_progress


@pytest.mark.parametrize("step", [1, 3, 4, 17, 20, 21, 22, 41])
@pytest.mark.parametrize("parent", [None, _parent()])
def test_resuming_gives_the_same_bits(tmp_path: Path, step: int, parent: Parent | None) -> None:
    config = SMALL.model_copy(update={"refresh_epochs": 2})
    whole = train(GRAPH, config, parent=parent)
    with pytest.raises(_StopError):
        train(
            GRAPH,
            config,
            parent=parent,
            checkpoint_dir=tmp_path,
            on_progress=_stop_at(step),  # type: ignore[arg-type]
        )
    seen: list[int] = []
    resumed = train(
        GRAPH,
        config,
        parent=parent,
        checkpoint_dir=tmp_path,
        on_progress=lambda done, total, loss: seen.append(done),
    )
    assert seen[0] == step - step % config.checkpoint_every + 1
    assert _equal(whole, resumed)


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    first = train(GRAPH, SMALL, checkpoint_dir=tmp_path)
    again = train(GRAPH, SMALL, checkpoint_dir=tmp_path, on_progress=_stop_at(1))  # type: ignore[arg-type]
    assert _equal(first, again)


def test_another_configuration_graph_or_parent_starts_anew(tmp_path: Path) -> None:
    train(GRAPH, SMALL, checkpoint_dir=tmp_path)
    other = SMALL.model_copy(update={"seed": 5})
    graph, _ = planted(seed=9)
    assert _equal(train(GRAPH, other, checkpoint_dir=tmp_path), train(GRAPH, other))
    assert _equal(train(graph, SMALL, checkpoint_dir=tmp_path), train(graph, SMALL))
    parented = train(GRAPH, SMALL, checkpoint_dir=tmp_path, parent=_parent())
    assert _equal(parented, train(GRAPH, SMALL, parent=_parent()))


def test_a_damaged_checkpoint_costs_time_but_no_bit(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        train(GRAPH, SMALL, checkpoint_dir=tmp_path, on_progress=_stop_at(11))  # type: ignore[arg-type]
    newest = max(tmp_path.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:100])
    assert _equal(train(GRAPH, SMALL, checkpoint_dir=tmp_path), train(GRAPH, SMALL))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError):
        train(GRAPH, SMALL, checkpoint_dir=tmp_path)


_CHILD = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("twin", sys.argv[1])
twin = sys.modules["twin"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(twin)

def on_progress(done, total, loss):
    print(done, flush=True)
    time.sleep(0.002)

config = twin.SMALL.model_copy(update={"epochs": 40})
twin.train(twin.GRAPH, config, checkpoint_dir=Path(sys.argv[2]), on_progress=on_progress)
"""


def test_sigkill_at_any_moment_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, __file__, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline()  # it trains
        time.sleep(rng.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    config = SMALL.model_copy(update={"epochs": 40})
    seen: list[int] = []
    resumed = train(
        GRAPH,
        config,
        checkpoint_dir=tmp_path,
        on_progress=lambda done, total, loss: seen.append(done),
    )
    assert seen[0] > 1
    assert _equal(resumed, train(GRAPH, config))


def test_a_loss_that_is_no_number_names_batch_and_relation() -> None:
    spoilt = Parent({"item": Vectors(pa.array(["item 003"]), np.full((1, 8), np.nan, np.float32))})
    with pytest.raises(
        TrainingError, match=r"epoch 0, batch \d+, relation '(checkout|promotes)'.*nan"
    ):
        train(GRAPH, SMALL, parent=spoilt)
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        train(GRAPH, SMALL.model_copy(update={"learning_rate": 1e30}))


def test_what_cannot_be_trained_is_refused() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    nothing = TripleGraph(RELATIONS, GRAPH.keys, empty, empty, empty, torch.zeros(0))
    with pytest.raises(TrainingError, match="no edges"):
        train(nothing, SMALL)
    for wrong in ({"anchor_relation": "clik"}, {"relations": {"clik": 1.0}}):
        with pytest.raises(ConfigError, match="'clik'; expected one of click, checkout, promotes"):
            train(GRAPH, SMALL.model_copy(update=wrong))


def test_devices() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu").type == "cpu"
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match=f"device '{name}'.*Choose another"):
            pick_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_learns_what_the_cpu_learns() -> None:
    config = SMALL.model_copy(update={"epochs": 10, "shrinkage": 1.0})
    parameters = train(GRAPH, config, device="cuda")
    assert parameters.entity.device.type == "cpu"
    assert next_day(parameters, GRAPH, WINDOW, recalls=[10])["click"].model.recall[10] > 0.8
