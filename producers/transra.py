"""TransRA's parameters and its score f(h, r, t) = -|h M_r + r - t M_r|^2, with M_r = I + deviation.

TransR (Lin et al. 2015, eq. 8) whose projections are learned as deviations from the identity; the
anchor relation's deviation stays zero, so that its scores are plain distances of raw vectors.

Legend of shapes: N entities, R relations, d dims, B triples, K shared negatives, U gathered rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.vectors import Vectors


@dataclass(frozen=True, eq=False)
class TransRAParameters:
    """All float32: `entity` (N, d), `translation` (R, d), `deviation` (R, d, d)."""

    entity: Tensor
    translation: Tensor
    deviation: Tensor

    def vectors(self, graph: TripleGraph, entity: str) -> Vectors:
        """The raw vectors of one entity type by key, on the CPU."""
        rows = self.entity[graph.span(entity)].detach().cpu().numpy()
        return Vectors(_single(graph.keys[entity]), np.ascontiguousarray(rows, dtype=np.float32))

    def to(self, device: torch.device | str) -> TransRAParameters:
        """The same on another device."""
        return TransRAParameters(
            self.entity.to(device), self.translation.to(device), self.deviation.to(device)
        )


def project(rows: Tensor, deviation: Tensor | None) -> Tensor:
    """Rows (U, d) times M_r; None is the identity. The result is (U, d)."""
    return rows if deviation is None else torch.addmm(rows, rows, deviation)


def pair_score(head: Tensor, tail: Tensor) -> Tensor:
    """Minus the squared distance, row by row: (B, d) and (B, d) to (B,)."""
    return -(head - tail).square().sum(-1)


def cross_score(queries: Tensor, candidates: Tensor) -> Tensor:
    """Minus the squared distances of all pairs, as one product: (B, d) and (K, d) to (B, K).

    |a - b|^2 = |a|^2 + |b|^2 - 2ab.
    """
    squares = candidates.square().sum(-1)
    products = torch.addmm(-squares, queries, candidates.T, alpha=2)
    return products - queries.square().sum(-1, keepdim=True)


def rotate(parameters: TransRAParameters, rotation: Tensor) -> TransRAParameters:
    """Turn the space by an orthogonal (d, d): x Q, r Q, Q' M Q. Every score stays as it was."""
    return TransRAParameters(
        entity=parameters.entity @ rotation,
        translation=parameters.translation @ rotation,
        deviation=rotation.T @ parameters.deviation @ rotation,
    )


def principal_axes(parameters: TransRAParameters, graph: TripleGraph) -> Tensor:
    """The rotation (d, d) that sorts the space's directions by how much they tell apart.

    The variance is taken within each entity type, types counting alike. Signs are fixed, so that
    the same vectors give the same rotation.
    """
    dim = parameters.entity.shape[1]
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for entity in graph.counts:
        rows = parameters.entity[graph.span(entity)].detach().cpu().to(torch.float64)
        if len(rows) > 1:
            covariance += torch.cov(rows.T).reshape(dim, dim)
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    rotation: Tensor = (axes * largest.sign()).to(parameters.entity)
    return rotation


def relation_tensors(
    parameters: TransRAParameters, graph: TripleGraph
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """By relation name: its vector (d,) and deviation (d, d), on the CPU."""
    return {
        one.name: (parameters.translation[i].cpu(), parameters.deviation[i].cpu())
        for i, one in enumerate(graph.relations)
    }


def _single(keys: Any) -> pa.Array[Any]:
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
