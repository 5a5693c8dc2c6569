"""Scores against explicit loops, and the rotation that changes none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.transra import (
    TransRAParameters,
    cross_score,
    pair_score,
    principal_axes,
    project,
    rotate,
)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _slow_score(h: Tensor, r: Tensor, t: Tensor, deviation: Tensor) -> float:
    """f = -|h M + r - t M|^2, entry by entry."""
    dim = len(h)
    total = 0.0
    for column in range(dim):
        entry = float(r[column])
        for row in range(dim):
            m = float(deviation[row, column]) + (1.0 if row == column else 0.0)
            entry += float(h[row]) * m - float(t[row]) * m
        total += entry**2
    return -total


def test_a_score_by_hand() -> None:
    h, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    r = torch.tensor([0.5, 0.0])
    deviation = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # M = diag(2, 0)
    score = pair_score(project(h, deviation) + r, project(t, deviation))
    assert score.tolist() == [-(2.5**2)]
    assert pair_score(project(h, None) + r, project(t, None)).tolist() == [-(1.5**2 + 1.0)]


def test_scores_equal_explicit_loops() -> None:
    heads, tails, r = _randn(4, 5), _randn(6, 5, seed=1), _randn(5, seed=2)
    deviation = _randn(5, 5, seed=3)
    crossed = cross_score(project(heads, deviation) + r, project(tails, deviation))
    slow = [[_slow_score(h, r, t, deviation) for t in tails] for h in heads]
    torch.testing.assert_close(crossed, torch.tensor(slow, dtype=torch.float64))
    paired = pair_score(project(heads, deviation) + r, project(tails[:4], deviation))
    torch.testing.assert_close(paired, crossed[:, :4].diagonal())


def test_single_precision_is_near_too() -> None:
    a, b = _randn(50, 64), _randn(70, 64, seed=1)
    exact = -torch.cdist(a, b).square()
    torch.testing.assert_close(
        cross_score(a.float(), b.float()), exact.float(), rtol=1e-4, atol=1e-3
    )


def _graph(users: int, pins: int) -> TripleGraph:
    none = torch.zeros(0, dtype=torch.int64)
    keys = {"user": pa.array(np.arange(users)), "pin": pa.array([f"p{i}" for i in range(pins)])}
    return TripleGraph((), keys, none, none, none, torch.zeros(0))


def test_rotating_changes_no_score_and_sorts_directions() -> None:
    entity = _randn(60, 4).float() * torch.tensor([0.1, 3.0, 1.0, 0.5])
    parameters = TransRAParameters(entity, _randn(2, 4).float(), _randn(2, 4, 4, seed=5).float())
    rotation = principal_axes(parameters, _graph(30, 30))
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(4), atol=1e-5, rtol=0)
    turned = rotate(parameters, rotation)
    spread = turned.entity[:30].var(0) + turned.entity[30:].var(0)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)
    for relation in range(2):
        scores = [
            cross_score(project(p.entity[:30], D) + p.translation[relation], project(p.entity, D))
            for p in (parameters, turned)
            for D in [p.deviation[relation]]
        ]
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-3)


def test_vectors_are_exported_by_type_and_key() -> None:
    parameters = TransRAParameters(_randn(5, 3).float(), torch.zeros(0, 3), torch.zeros(0, 3, 3))
    graph = _graph(2, 3)
    pins = parameters.vectors(graph, "pin")
    assert pins.keys.to_pylist() == ["p0", "p1", "p2"]
    assert pins.vectors.dtype == np.float32
    assert pins.vectors.tolist() == parameters.entity[2:].tolist()
    with pytest.raises(KeyError):
        parameters.vectors(graph, "page")
