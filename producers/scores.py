"""Score functions: how likely a triple (h, r, t) is, as pure functions of tensors.

All of them have one form, so that a chunk of triples against its negatives is one matrix product:

    score(h, r, t) = similarity(move(project(h)), project(t))

`project` is what a relation does to both ends, `move` what it does to heads only. The similarity is
a dot product or minus the squared distance. Each function comes with its gradient in closed form:
given the gradient of the output, `project_back` and `move_back` return that of the rows and of the
relation's parameters. Translations and projections start where they change nothing (`identity`).

| model    | similarity | project  | move                  | source                   |
|----------|------------|----------|-----------------------|--------------------------|
| transe   | distance   |          | + r                   | Bordes et al. 2013       |
| transr   | distance   | M_r      | + r                   | Lin et al. 2015, eq. 7-8 |
| transra  | distance   | M_r; I for the anchor relation | + r | DESIGN.md          |
| rotate   | distance   |          | times e^(i phase)     | Sun et al. 2019, eq. 3   |
| distmult | dot        |          | times a diagonal      | Yang et al. 2015, eq. 4  |
| complex  | dot        |          | times a complex diagonal | Trouillon et al. 2016, eq. 11 |

Distances are squared (the papers of TransE and RotatE also use L1): that is what one product gives.

Legend of shapes: n rows, d dims. Complex vectors hold d/2 real parts, then d/2 imaginary ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from provender.producers.onednn import product

Similarity = Literal["distance", "dot"]
#: The parameters of one relation by name; what is missing is the identity.
Relation = Mapping[str, Tensor]
Gradients = dict[str, Tensor]


class ScoreFunction(Protocol):
    """One row of the table above."""

    similarity: Similarity

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of one relation."""

    def project(self, rows: Tensor, relation: Relation, product: Product) -> Tensor:
        """Both ends as the relation sees them: (n, d) to (n, d)."""

    def project_back(
        self, gradient: Tensor, rows: Tensor, relation: Relation, product: Product
    ) -> tuple[Tensor, Gradients]:
        """The gradients of `rows` and of the relation's parameters; may write into `gradient`."""

    def move(self, projected: Tensor, relation: Relation) -> Tensor:
        """Projected heads moved to where their tails should be: (n, d) to (n, d)."""

    def move_back(
        self, gradient: Tensor, projected: Tensor, relation: Relation
    ) -> tuple[Tensor, Gradients]:
        """The gradients of `projected` and of the relation's parameters."""


class Product(Protocol):
    """A matrix product at some precision: (n, m) and (m, k) to float32 (n, k)."""

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """The product."""

    def plus(self, base: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """`base` and the product."""

    def onto(self, target: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
        """Add `factor` times the product to `target`, in place."""


class _Unprojected:
    """Both ends as they are."""

    def project(self, rows: Tensor, relation: Relation, product: Product) -> Tensor:
        return rows

    def project_back(
        self, gradient: Tensor, rows: Tensor, relation: Relation, product: Product
    ) -> tuple[Tensor, Gradients]:
        return gradient, {}


class _TransE(_Unprojected):
    """-|h + r - t|^2."""

    similarity: Similarity = "distance"

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"translation": (dim,)}

    def move(self, projected: Tensor, relation: Relation) -> Tensor:
        return projected + relation["translation"]

    def move_back(
        self, gradient: Tensor, projected: Tensor, relation: Relation
    ) -> tuple[Tensor, Gradients]:
        return gradient, {"translation": gradient.sum(0)}


class _TransR(_TransE):
    """-|h M + r - t M|^2 with M = I + deviation; without a deviation it is TransE."""

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"translation": (dim,), "deviation": (dim, dim)}

    def project(self, rows: Tensor, relation: Relation, product: Product) -> Tensor:
        if "deviation" not in relation:
            return rows
        return product.plus(rows, rows, relation["deviation"])

    def project_back(
        self, gradient: Tensor, rows: Tensor, relation: Relation, product: Product
    ) -> tuple[Tensor, Gradients]:
        if "deviation" not in relation:
            return gradient, {}
        deviation = product(rows.T, gradient)
        return product.plus(gradient, gradient, relation["deviation"].T), {"deviation": deviation}


class _DistMult(_Unprojected):
    """<h * (1 + r), t>."""

    similarity: Similarity = "dot"

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"diagonal": (dim,)}

    def move(self, projected: Tensor, relation: Relation) -> Tensor:
        return torch.addcmul(projected, projected, relation["diagonal"])

    def move_back(
        self, gradient: Tensor, projected: Tensor, relation: Relation
    ) -> tuple[Tensor, Gradients]:
        diagonal = (gradient * projected).sum(0)
        return torch.addcmul(gradient, gradient, relation["diagonal"]), {"diagonal": diagonal}


class _ComplEx(_Unprojected):
    """Re <h * (1 + r), conj t>."""

    similarity: Similarity = "dot"

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"diagonal": (dim,)}

    def move(self, projected: Tensor, relation: Relation) -> Tensor:
        real, imaginary = relation["diagonal"].chunk(2)
        return _times(projected, 1 + real, imaginary)

    def move_back(
        self, gradient: Tensor, projected: Tensor, relation: Relation
    ) -> tuple[Tensor, Gradients]:
        real, imaginary = relation["diagonal"].chunk(2)
        diagonal = torch.cat(_diagonal_gradient(gradient, projected))
        return _times(gradient, 1 + real, -imaginary), {"diagonal": diagonal}


class _RotatE(_Unprojected):
    """-|h * e^(i phase) - t|^2."""

    similarity: Similarity = "distance"

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        return {"phase": (dim // 2,)}

    def move(self, projected: Tensor, relation: Relation) -> Tensor:
        phase = relation["phase"]
        return _times(projected, phase.cos(), phase.sin())

    def move_back(
        self, gradient: Tensor, projected: Tensor, relation: Relation
    ) -> tuple[Tensor, Gradients]:
        cosine, sine = relation["phase"].cos(), relation["phase"].sin()
        real, imaginary = _diagonal_gradient(gradient, projected)
        phase = imaginary * cosine - real * sine
        return _times(gradient, cosine, -sine), {"phase": phase}


#: By the name that a configuration uses.
SCORES: dict[str, ScoreFunction] = {
    "transra": _TransR(),
    "transr": _TransR(),
    "transe": _TransE(),
    "rotate": _RotatE(),
    "distmult": _DistMult(),
    "complex": _ComplEx(),
}


def identity(model: str, relations: int, dim: int) -> dict[str, Tensor]:
    """The parameters (R, ...) of relations that change nothing: zeros."""
    shapes = SCORES[model].shapes(dim)
    return {name: torch.zeros(relations, *shape) for name, shape in shapes.items()}


def first_values(model: str, relations: int, dim: int) -> dict[str, Tensor]:
    """Where relations (R, ...) start: the identity, but phases and diagonals at random.

    A relation that changes nothing prefers the head itself as its tail. A translation leaves that
    soon; at phase zero no slope leads away, and a diagonal would have to cross zero first. The
    draws are always the same.
    """
    first, generator = identity(model, relations, dim), torch.Generator().manual_seed(0)
    if "phase" in first:
        first["phase"].uniform_(-math.pi, math.pi, generator=generator)
    if "diagonal" in first:
        first["diagonal"].normal_(generator=generator).sub_(1.0)
    return first


def pair_score(left: Tensor, right: Tensor, similarity: Similarity) -> Tensor:
    """The similarity row by row: (n, d) and (n, d) to (n,)."""
    if similarity == "dot":
        return (left * right).sum(-1)
    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return -distance.square()


def cross_score(queries: Tensor, candidates: Tensor, similarity: Similarity) -> Tensor:
    """The similarities of all pairs, as one product: (B, d) and (K, d) to (B, K).

    |a - b|^2 = |a|^2 + |b|^2 - 2ab.
    """
    if similarity == "dot":
        return product(queries, candidates.T)
    squares = candidates.square().sum(-1)
    products = product(2 * queries, candidates.T) - squares
    return products - queries.square().sum(-1, keepdim=True)


class _Single:
    """In float32."""

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        return product(left, right)

    def plus(self, base: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return base + product(left, right)

    def onto(self, target: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
        target.add_(product(left, right), alpha=factor)


class _BrainFloat:
    """In bfloat16, sums in float32, the result rounded to bfloat16."""

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        return (left.bfloat16() @ right.bfloat16()).float()

    def plus(self, base: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return base + left.bfloat16() @ right.bfloat16()

    def onto(self, target: Tensor, left: Tensor, right: Tensor, factor: float) -> None:
        target.add_(left.bfloat16() @ right.bfloat16(), alpha=factor)


single: Product = _Single()
brain_float: Product = _BrainFloat()


def _times(rows: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Complex rows (n, d) times a complex number a column."""
    a, b = rows.chunk(2, dim=1)
    return torch.cat([a * real - b * imaginary, a * imaginary + b * real], dim=1)


def _diagonal_gradient(gradient: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients (d/2,) of the real and imaginary factors of `_times`."""
    a, b = rows.chunk(2, dim=1)
    up, down = gradient.chunk(2, dim=1)
    return (up * a + down * b).sum(0), (down * a - up * b).sum(0)
