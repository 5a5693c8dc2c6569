"""What a model learns: a row for each entity, and what its score function takes of relations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.mapped_rows import BLOCK
from provender.producers.scores import SCORES, ScoreFunction, cross_score, single
from provender.producers.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Parameters:
    """All float32: `entity` (N, d); `relation` by name, (R, ...) each, as `model` has them."""

    model: str
    entity: Tensor
    relation: Mapping[str, Tensor]

    @property
    def score(self) -> ScoreFunction:
        """The model's score function."""
        return SCORES[self.model]

    @property
    def dim(self) -> int:
        """d, the length of one row."""
        return int(self.entity.shape[1])

    def of(self, relation: int) -> dict[str, Tensor]:
        """The parameters of one relation; a projection that is the identity is left out."""
        own = {name: values[relation] for name, values in self.relation.items()}
        if "deviation" in own and not bool(own["deviation"].any()):
            del own["deviation"]
        return own

    def left(self, relation: int, rows: Tensor) -> Tensor:
        """Rows (n, d) as heads of a relation: where it expects their tails."""
        return self.score.move(self.right(relation, rows), self.of(relation))

    def right(self, relation: int, rows: Tensor) -> Tensor:
        """Rows (n, d) as tails of a relation."""
        return self.score.project(rows, self.of(relation), single)

    def cross(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scores (B, n) of all pairs of what `left` and `right` returned, in either order."""
        return cross_score(queries, candidates, self.score.similarity)

    def vectors(self, graph: TripleGraph, entity: str) -> Vectors:
        """The raw vectors of one entity type by key, on the CPU."""
        rows = self.entity[graph.span(entity)].detach().cpu().numpy()
        return Vectors(_single(graph.keys[entity]), np.ascontiguousarray(rows, dtype=np.float32))

    def by_name(self, graph: TripleGraph) -> dict[str, dict[str, Tensor]]:
        """By relation name: its parameters, on the CPU."""
        return {
            one.name: {name: values[i].cpu() for name, values in self.relation.items()}
            for i, one in enumerate(graph.relations)
        }

    def to(self, device: torch.device | str) -> Parameters:
        """The same on another device."""
        relation = {name: values.to(device) for name, values in self.relation.items()}
        return Parameters(self.model, self.entity.to(device), relation)


def rotate(parameters: Parameters, rotation: Tensor) -> Parameters:
    """Turn the space of a translation model by an orthogonal (d, d): x Q, r Q, Q' M Q.

    Every score stays as it was. The rows are overwritten: a table may be half of all memory.
    """
    for block in parameters.entity.split(BLOCK):
        block.copy_(block @ rotation)
    turned = {"translation": parameters.relation["translation"] @ rotation}
    if "deviation" in parameters.relation:
        turned["deviation"] = rotation.T @ parameters.relation["deviation"] @ rotation
    return Parameters(parameters.model, parameters.entity, turned)


def principal_axes(parameters: Parameters, graph: TripleGraph) -> Tensor:
    """The rotation (d, d) that sorts the space's directions by how much they tell apart.

    The variance is taken within each entity type, types counting alike. Signs are fixed, so that
    the same vectors give the same rotation.
    """
    dim = parameters.dim
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for entity in graph.counts:
        rows = parameters.entity[graph.span(entity)].detach()
        covariance += covariance_of(rows.split(BLOCK), dim)
    return axes_of(covariance).to(parameters.entity)


def covariance_of(blocks: Iterable[Tensor], dim: int) -> Tensor:
    """The covariance (d, d), in float64, of rows (n, d) that come in blocks; zero of one row."""
    products = torch.zeros(dim, dim, dtype=torch.float64)
    total, count = torch.zeros(dim, dtype=torch.float64), 0
    for block in blocks:
        rows = block.cpu().double()
        products.addmm_(rows.T, rows)
        total += rows.sum(0)
        count += len(rows)
    if count < 2:
        return torch.zeros_like(products)
    return (products - torch.outer(total, total) / count) / (count - 1)


def axes_of(covariance: Tensor) -> Tensor:
    """The eigenvectors (d, d), widest direction first, each with its largest entry positive."""
    axes: Tensor = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return axes * largest.sign()


def _single(keys: Any) -> pa.Array[Any]:
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
