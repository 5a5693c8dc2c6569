"""Score functions against explicit loops over numbers, their gradients against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from provender.producers.scores import (
    SCORES,
    Relation,
    brain_float,
    cross_score,
    first_values,
    identity,
    pair_score,
    single,
)

DIM = 6
Numbers = list[float]


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _relation(model: str, dim: int = DIM) -> dict[str, Tensor]:
    shapes = SCORES[model].shapes(dim)
    return {name: _randn(*shape, seed=7 + i) for i, (name, shape) in enumerate(shapes.items())}


def _complex(row: Numbers) -> list[complex]:
    """d/2 real parts, then d/2 imaginary ones."""
    half = len(row) // 2
    return [complex(a, b) for a, b in zip(row[:half], row[half:], strict=True)]


def _transe(h: Numbers, t: Numbers, relation: Relation) -> float:
    r: Numbers = relation["translation"].tolist()
    return -sum((a + b - c) ** 2 for a, b, c in zip(h, r, t, strict=True))


def _transr(h: Numbers, t: Numbers, relation: Relation) -> float:
    deviation, total = relation["deviation"].tolist(), 0.0
    for column, entry in enumerate(relation["translation"].tolist()):
        for row in range(len(h)):
            m = deviation[row][column] + (1.0 if row == column else 0.0)
            entry += h[row] * m - t[row] * m
        total += entry**2
    return -total


def _rotate(h: Numbers, t: Numbers, relation: Relation) -> float:
    turns = [complex(torch.polar(torch.ones_like(p), p)) for p in relation["phase"]]
    ends = zip(_complex(h), turns, _complex(t), strict=True)
    return -sum(abs(a * turn - b) ** 2 for a, turn, b in ends)


def _distmult(h: Numbers, t: Numbers, relation: Relation) -> float:
    diagonal: Numbers = relation["diagonal"].tolist()
    return sum(a * (1 + r) * b for a, r, b in zip(h, diagonal, t, strict=True))


def _complex_product(h: Numbers, t: Numbers, relation: Relation) -> float:
    diagonal = _complex(relation["diagonal"].tolist())
    ends = zip(_complex(h), diagonal, _complex(t), strict=True)
    return sum((a * (1 + r) * b.conjugate()).real for a, r, b in ends)


SLOW: dict[str, Callable[[Numbers, Numbers, Relation], float]] = {
    "transe": _transe,
    "transr": _transr,
    "transra": _transr,
    "rotate": _rotate,
    "distmult": _distmult,
    "complex": _complex_product,
}


def _ends(model: str, heads: Tensor, tails: Tensor, relation: Relation) -> tuple[Tensor, Tensor]:
    score = SCORES[model]
    moved = score.move(score.project(heads, relation, single), relation)
    return moved, score.project(tails, relation, single)


def test_every_score_function_has_its_oracle() -> None:
    assert sorted(SLOW) == sorted(SCORES)


@pytest.mark.parametrize("model", SCORES)
def test_scores_equal_explicit_loops(model: str) -> None:
    heads, tails, relation = _randn(4, DIM), _randn(5, DIM, seed=1), _relation(model)
    slow = [[SLOW[model](h, t, relation) for t in tails.tolist()] for h in heads.tolist()]
    left, right = _ends(model, heads, tails, relation)
    similarity = SCORES[model].similarity
    crossed = cross_score(left, right, similarity)
    torch.testing.assert_close(crossed, torch.tensor(slow, dtype=torch.float64))
    paired = pair_score(left, right[:4], similarity)
    torch.testing.assert_close(paired, crossed[:, :4].diagonal())


def test_a_score_by_hand() -> None:
    h, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    r, deviation = torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    left, right = _ends("transr", h, t, {"translation": r, "deviation": deviation})  # diag(2, 0)
    assert pair_score(left, right, "distance").tolist() == [-(2.5**2)]
    left, right = _ends("transra", h, t, {"translation": r})  # The anchor relation.
    assert pair_score(left, right, "distance").tolist() == [-(1.5**2 + 1.0)]


@pytest.mark.parametrize("model", SCORES)
def test_gradients_equal_autograd(model: str) -> None:
    score, relation = SCORES[model], _relation(model)
    rows = _randn(5, DIM).requires_grad_()
    leaves = {name: values.requires_grad_() for name, values in relation.items()}
    above = _randn(5, DIM, seed=2)
    with torch.no_grad():
        backward = (
            score.move_back(above, rows, leaves),
            score.project_back(above.clone(), rows, leaves, single),
        )
    forward = score.move(rows, leaves), score.project(rows, leaves, single)
    for value, (of_rows, of_relation) in zip(forward, backward, strict=True):
        names = list(of_relation)
        inputs = [rows, *(leaves[name] for name in names)]
        wanted = torch.autograd.grad(value, inputs, above)
        torch.testing.assert_close(of_rows, wanted[0])
        for name, gradient in zip(names, wanted[1:], strict=True):
            torch.testing.assert_close(of_relation[name], gradient)


@pytest.mark.parametrize("model", SCORES)
def test_every_relation_starts_where_it_changes_nothing(model: str) -> None:
    parts = identity(model, 3, DIM)
    assert {name: tuple(each.shape[1:]) for name, each in parts.items()} == SCORES[model].shapes(
        DIM
    )
    heads, tails = _randn(4, DIM).float(), _randn(4, DIM, seed=1).float()
    left, right = _ends(model, heads, tails, {name: each[2] for name, each in parts.items()})
    assert torch.equal(left, heads)
    assert torch.equal(right, tails)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_single_precision_is_near_too(similarity: str) -> None:
    a, b = _randn(50, 64), _randn(70, 64, seed=1)
    exact = -torch.cdist(a, b).square() if similarity == "distance" else a @ b.T
    crossed = cross_score(a.float(), b.float(), similarity)  # type: ignore[arg-type]
    torch.testing.assert_close(crossed, exact.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("model", SCORES)
def test_translations_start_at_the_identity_and_factors_anywhere(model: str) -> None:
    first, same = first_values(model, 50, DIM), first_values(model, 50, DIM)
    for name, values in first.items():
        assert torch.equal(values, same[name])
        assert bool(values.any()) == (name in ("phase", "diagonal"))
    if "phase" in first:
        assert first["phase"].abs().max() <= math.pi
        assert first["phase"].cos().min() < -0.9
    if "diagonal" in first:
        assert abs(float(first["diagonal"].mean()) + 1) < 0.2


def test_products_in_brain_float_lose_two_digits_and_no_more() -> None:
    a, b = _randn(30, 200).float(), _randn(200, 20, seed=1).float()
    product = brain_float(a, b)
    assert product.dtype == torch.float32
    assert 0 < float((product - a @ b).norm() / (a @ b).norm()) < 0.01
