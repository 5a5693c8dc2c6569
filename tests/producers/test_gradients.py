"""A chunk's loss and gradients in closed form against plain formulas under torch.autograd.

The oracle scores one triple at a time, corrupts it with one negative after another, and lets
autograd differentiate.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provender.producers.chunks import Chunk
from provender.producers.gradients import Objective, chunk_gradients
from provender.producers.losses import pick_loss
from provender.producers.negatives import accidental_hits
from provender.producers.scores import SCORES, Relation, brain_float, single

DIM, MARGIN, TEMPERATURE, SCALE = 6, 1.0, 0.7, 0.8
LOSSES = ("softmax", "self_adversarial", "margin")
HEAD, TAIL = torch.tensor([0, 1, 0, 8, 2]), torch.tensor([3, 4, 4, 3, 2])
#: Hard tails of each triple, and which of them are missing; entity 6 is nowhere else.
HARD = torch.tensor([[6, 5], [3, 3], [4, 0], [3, 3], [2, 7]])
MISSING = torch.tensor([[False, False], [False, True], [True, False], [True, True], [False, False]])
NEGATIVE_HEAD, NEGATIVE_TAIL = torch.tensor([0, 2, 7]), torch.tensor([4, 5, 5])


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.6 * torch.randn(*shape, dtype=torch.float64, generator=generator)


def _chunk(hits: bool = True, hard: bool = False, one_type: bool = False) -> Chunk:
    """Five triples with twins among heads, tails and negatives; the last is a loop."""
    negative_tail = NEGATIVE_HEAD if one_type else NEGATIVE_TAIL
    negatives = [NEGATIVE_HEAD] if one_type else [NEGATIVE_HEAD, NEGATIVE_TAIL]
    ends = [HEAD, *negatives, TAIL, *([HARD.flatten()] if hard else [])]
    rows, place = torch.unique(torch.cat(ends), return_inverse=True)
    expected_head = torch.tensor([0.5, 1.0, 0.2], dtype=torch.float64).log()
    expected_tail = torch.tensor([0.3, 0.9, 0.9], dtype=torch.float64).log()
    return Chunk(
        relation=0,
        rows=rows,
        place=place,
        weight=torch.tensor([1.0, 0.5, 2.0, 3.0, 0.1], dtype=torch.float64),
        log_expected_head=expected_head,
        log_expected_tail=expected_head if one_type else expected_tail,
        hit_head=accidental_hits(HEAD, NEGATIVE_HEAD) if hits else None,
        hit_tail=accidental_hits(TAIL, negative_tail) if hits else None,
        one_type=one_type,
        hit_hard=MISSING if hard else None,
    )


def _relation(model: str, anchor: bool = False) -> dict[str, Tensor]:
    shapes = SCORES[model].shapes(DIM)
    relation = {name: _randn(*shape, seed=7 + i) for i, (name, shape) in enumerate(shapes.items())}
    if anchor:
        del relation["deviation"]
    return relation


def _objective(model: str, loss: str) -> Objective:
    picked = pick_loss(loss, MARGIN, TEMPERATURE)  # type: ignore[arg-type]
    return Objective(SCORES[model], picked, SCALE, single)


def _score(model: str, h: Tensor, t: Tensor, relation: Relation) -> Tensor:
    """One triple's score as the papers write it."""
    if model in ("transe", "transr", "transra"):
        M = torch.eye(DIM).to(h) + relation.get("deviation", torch.zeros(DIM, DIM).to(h))
        return -((h @ M + relation["translation"] - t @ M) ** 2).sum()
    if model == "distmult":
        return (h * (1 + relation["diagonal"]) * t).sum()
    a, b = torch.complex(*h.chunk(2)), torch.complex(*t.chunk(2))
    if model == "complex":
        return (a * (1 + torch.complex(*relation["diagonal"].chunk(2))) * b.conj()).real.sum()
    return -(a * torch.exp(1j * relation["phase"]) - b).abs().square().sum()


def _loss(name: str, own: Tensor, others: Tensor, log_expected: Tensor) -> Tensor:
    """The loss of one triple against its own list of negatives."""
    if name == "softmax":
        return -torch.log_softmax(torch.cat([own.view(1), others - log_expected]), 0)[0]
    if name == "margin":
        share = torch.exp(-log_expected) / torch.exp(-log_expected).sum()
        return (share * F.relu(MARGIN - own + others)).sum()
    share = torch.softmax(TEMPERATURE * others - log_expected, 0).detach()
    return -F.logsigmoid(MARGIN + own) - (share * F.logsigmoid(-others - MARGIN)).sum()


def _slow_losses(
    model: str, loss: str, rows: Tensor, relation: Relation, chunk: Chunk, hits: bool
) -> Tensor:
    """The losses (B,), triple by triple."""
    at = {entity: row for row, entity in enumerate(chunk.rows.tolist())}
    negative_tail = NEGATIVE_HEAD if chunk.one_type else NEGATIVE_TAIL

    def scaled(head: int, tail: int) -> Tensor:
        return SCALE * _score(model, rows[at[head]], rows[at[tail]], relation)

    losses = []
    for row, (h, t) in enumerate(zip(HEAD.tolist(), TAIL.tolist(), strict=True)):
        own, once = scaled(h, t), torch.zeros((), dtype=torch.float64)
        by_tail = [
            (scaled(h, n), q)
            for n, q in zip(negative_tail.tolist(), chunk.log_expected_tail, strict=True)
            if n != t or not hits
        ]
        if chunk.hit_hard is not None:
            columns = zip(HARD[row].tolist(), MISSING[row].tolist(), strict=True)
            by_tail += [(scaled(h, n), once) for n, missing in columns if not missing]
        by_head = [
            (scaled(n, t), q)
            for n, q in zip(NEGATIVE_HEAD.tolist(), chunk.log_expected_head, strict=True)
            if n != h or not hits
        ]
        if chunk.one_type and h != t:
            by_tail.append((scaled(h, h), once))
            by_head.append((scaled(t, t), once))
        sides = [
            _loss(loss, own, *(torch.stack(each) for each in zip(*side, strict=True)))
            for side in (by_tail, by_head)
        ]
        losses.append(0.5 * (sides[0] + sides[1]))
    return torch.stack(losses)


def _compare(
    model: str,
    loss: str,
    dtype: torch.dtype,
    tolerance: float,
    *,
    hits: bool = True,
    hard: bool = False,
    one_type: bool = False,
    anchor: bool = False,
) -> None:
    chunk, relation = _chunk(hits, hard, one_type), _relation(model, anchor)
    rows = _randn(len(chunk.rows), DIM)
    leaves = {name: values.clone().requires_grad_() for name, values in relation.items()}
    leaf = rows.clone().requires_grad_()
    slow = _slow_losses(model, loss, leaf, leaves, chunk, hits)
    wanted = torch.autograd.grad((slow * chunk.weight).sum(), [leaf, *leaves.values()])

    cast = {name: values.to(dtype) for name, values in relation.items()}
    given = replace(
        chunk,
        weight=chunk.weight.to(dtype),
        log_expected_head=chunk.log_expected_head.to(dtype),
        log_expected_tail=chunk.log_expected_tail.to(dtype),
    )
    losses, of_rows, of_relation = chunk_gradients(
        rows.to(dtype), cast, given, _objective(model, loss)
    )
    assert sorted(of_relation) == sorted(relation)
    found = [losses, of_rows, *(of_relation[name] for name in leaves)]
    for closed, plain in zip(found, [slow.detach(), *wanted], strict=True):
        assert closed.dtype == dtype
        torch.testing.assert_close(closed.double(), plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("hits", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", SCORES)
def test_the_closed_form_equals_autograd(model: str, loss: str, hits: bool) -> None:
    _compare(model, loss, torch.float64, 1e-9, hits=hits)


@pytest.mark.parametrize("hits", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", SCORES)
def test_hard_negatives_of_each_triple_too(model: str, loss: str, hits: bool) -> None:
    _compare(model, loss, torch.float64, 1e-9, hits=hits, hard=True)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", SCORES)
def test_one_type_shares_negatives_and_has_loops_as_further_ones(
    model: str, loss: str, hard: bool
) -> None:
    _compare(model, loss, torch.float64, 1e-9, hits=not hard, hard=hard, one_type=True)


def test_hard_negatives_that_are_all_missing_change_nothing() -> None:
    rows, relation, objective = _randn(9, DIM), _relation("transr"), _objective("transr", "softmax")
    chunk = _chunk(hard=True)
    missing = replace(chunk, hit_hard=torch.ones_like(MISSING))
    without = replace(chunk, hit_hard=None, place=chunk.place[: -HARD.numel()])
    found = chunk_gradients(rows, relation, missing, objective)
    plain = chunk_gradients(rows, relation, without, objective)
    torch.testing.assert_close(found[0], plain[0])
    torch.testing.assert_close(found[1], plain[1])
    torch.testing.assert_close(found[2]["deviation"], plain[2]["deviation"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", SCORES)
def test_single_precision_is_near(model: str, loss: str) -> None:
    _compare(model, loss, torch.float32, 2e-4, hard=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_anchor_relation_has_a_translation_only(loss: str) -> None:
    _compare("transra", loss, torch.float64, 1e-9, anchor=True)


def test_the_softmax_by_a_naive_loop_over_numbers() -> None:
    chunk, rows = _chunk(), _randn(8, DIM)
    relation = _relation("transr")
    M, r = torch.eye(DIM, dtype=torch.float64) + relation["deviation"], relation["translation"]
    at = {entity: row for row, entity in enumerate(chunk.rows.tolist())}

    def f(head: int, tail: int) -> float:
        away: list[float] = ((rows[at[head]] - rows[at[tail]]) @ M + r).tolist()
        return -SCALE * sum(x * x for x in away)

    by_hand = []
    for h, t in zip(HEAD.tolist(), TAIL.tolist(), strict=True):
        tails = zip(NEGATIVE_TAIL.tolist(), chunk.log_expected_tail.exp().tolist(), strict=True)
        heads = zip(NEGATIVE_HEAD.tolist(), chunk.log_expected_head.exp().tolist(), strict=True)
        own = math.exp(f(h, t))
        by_tail = sum(math.exp(f(h, n)) / q for n, q in tails if n != t)
        by_head = sum(math.exp(f(n, t)) / q for n, q in heads if n != h)
        by_hand.append(-sum(math.log(own / (own + side)) for side in (by_tail, by_head)) / 2)
    losses, _, _ = chunk_gradients(rows, relation, chunk, _objective("transr", "softmax"))
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-9)


def test_weights_scale_gradients_and_leave_losses() -> None:
    rows, relation = _randn(8, DIM), _relation("transr")
    chunk, objective = _chunk(), _objective("transr", "softmax")
    once = chunk_gradients(rows, relation, chunk, objective)
    twice = chunk_gradients(rows, relation, replace(chunk, weight=2 * chunk.weight), objective)
    torch.testing.assert_close(twice[0], once[0])
    torch.testing.assert_close(twice[1], 2 * once[1])
    torch.testing.assert_close(twice[2]["deviation"], 2 * once[2]["deviation"])


@pytest.mark.parametrize("model", SCORES)
def test_brain_float_points_the_same_way(model: str) -> None:
    chunk, rows, relation = _chunk(), _randn(8, DIM).float(), _relation(model)
    relation = {name: values.float() for name, values in relation.items()}
    given = replace(
        chunk,
        weight=chunk.weight.float(),
        log_expected_head=chunk.log_expected_head.float(),
        log_expected_tail=chunk.log_expected_tail.float(),
    )
    objective = _objective(model, "softmax")
    near = chunk_gradients(rows, relation, given, replace(objective, product=brain_float))
    exact = chunk_gradients(rows, relation, given, objective)
    pairs = [(near[1], exact[1]), *((near[2][name], exact[2][name]) for name in relation)]
    for rounded, whole in pairs:
        assert F.cosine_similarity(rounded.flatten(), whole.flatten(), dim=0) > 0.999
