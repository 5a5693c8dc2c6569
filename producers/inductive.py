"""Vectors of entities that a refresh has not seen, from their first links, all else held fixed.

A distance model scores a link (h, r, t) by -|left(h) - right(t)|^2, and both sides are affine in
their row. So a link with a known entity says where the unseen one should be, as head
x A + b = right(t), as tail x C = left(h), and one ridge regression answers all of its links:

    minimise  sum_links  w / s_r |x A + b - y|^2  +  1 / s_p |x - p|^2

p is what is expected before any link: what the content says, or the mean of the type. The weights
are no knobs: s_r is the mean squared error of the relation's links between known entities, s_p
that of p for known entities (empirical Bayes). With one relation and A = I it is the weighted mean
of the neighbours, moved by r, and the further drawn to p the noisier such links are.

Legend of shapes: N entities, n unseen ones, E links, d dims.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters

#: Systems that are solved at once: at 64 dims, 64 MiB of matrices.
_BLOCK = 4096
#: Links of a relation, at most, that its noise is measured by.
_SAMPLE = 65_536
#: Below any variance of float32 vectors: where a prior or a relation errs by nothing.
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Prior:
    """What is expected of each entity before its links: `mean` (N, d), `variance` (N,) a dim."""

    mean: Tensor
    variance: Tensor


def type_means(rows: Tensor, known: Tensor, graph: TripleGraph) -> Prior:
    """Expect of each entity the mean of the known ones of its type; of a type without any, zeros.

    Args:
        rows: (N, d), of which those not `known` are not read.
        known: bool (N,).
    """
    mean, variance = torch.zeros_like(rows), torch.ones(len(rows))
    for entity in graph.counts:
        span = graph.span(entity)
        of_type = rows[span][known[span]]
        if len(of_type):
            mean[span] = of_type.mean(0)
            variance[span] = (of_type - of_type.mean(0)).square().mean()
    return Prior(mean, variance)


def fold_in(
    parameters: Parameters, graph: TripleGraph, known: Tensor, prior: Prior, *, hops: int = 3
) -> Tensor:
    """Place the unseen entities of a graph; the known rows come back as they are.

    Args:
        parameters: of a distance model; `entity` (N, d), of which rows not `known` are not read.
        graph: all links there are by now.
        known: bool (N,).
        prior: of all entities.
        hops: rounds. From the second on, links among the unseen count too, with both ends as the
            round before has placed them: a new pin of a new item is two hops from the item's shop.

    Returns:
        (N, d) float32.

    Raises ConfigError for a model whose score is a dot product.
    """
    _check_distance(parameters)
    rows = torch.where(known.unsqueeze(1), parameters.entity, prior.mean)
    unseen = torch.nonzero(~known).squeeze(1)
    noise = link_noise(parameters, graph, known)
    for hop in range(hops if len(unseen) else 0):
        usable = known if hop == 0 else torch.ones_like(known)
        sides = list(_sides(parameters, graph, rows, unseen, usable, noise))
        parts = [_solve(sides, unseen, at, prior) for at in range(0, len(unseen), _BLOCK)]
        rows = rows.index_copy(0, unseen, torch.cat(parts))
    return rows


def link_noise(parameters: Parameters, graph: TripleGraph, known: Tensor) -> Tensor:
    """The mean of w |left(h) - right(t)|^2 / d over each relation's links of known ends: (R,).

    A relation without any has that of all others together; without others, 1.
    """
    found = torch.full((len(graph.relations),), torch.nan)
    for relation in range(len(graph.relations)):
        edges = graph.edges_of(relation)
        head, tail, weight = graph.head[edges], graph.tail[edges], graph.weight[edges]
        both = torch.nonzero(known[head] & known[tail]).squeeze(1)
        both = both[:: max(1, len(both) // _SAMPLE)]
        if len(both):
            left = parameters.left(relation, parameters.entity[head[both]])
            right = parameters.right(relation, parameters.entity[tail[both]])
            found[relation] = (weight[both] * (left - right).square().mean(1)).mean()
    rest = found.nanmean().nan_to_num(1.0)
    return found.nan_to_num(float(rest)).clamp_min(_TINY)


@dataclass(frozen=True, eq=False)
class _Side:
    """A relation's links, seen from their unseen ends, whose x A + b should be `target`.

    `own` (E,) positions among the unseen; `target` (E, d) less b; `precision` (E,), w / s_r;
    `slope` (d, d), A.
    """

    own: Tensor
    target: Tensor
    precision: Tensor
    slope: Tensor


def _sides(
    parameters: Parameters,
    graph: TripleGraph,
    rows: Tensor,
    unseen: Tensor,
    usable: Tensor,
    noise: Tensor,
) -> Iterator[_Side]:
    """Each relation's links between an unseen end and a usable one, from either end."""
    position = torch.full((len(rows),), -1)
    position[unseen] = torch.arange(len(unseen))
    unit, origin = torch.eye(rows.shape[1]), torch.zeros(1, rows.shape[1])
    for relation in range(len(graph.relations)):
        edges = graph.edges_of(relation)
        for own, other, side, place in (
            (graph.head[edges], graph.tail[edges], parameters.left, parameters.right),
            (graph.tail[edges], graph.head[edges], parameters.right, parameters.left),
        ):
            links = torch.nonzero((position[own] >= 0) & usable[other]).squeeze(1)
            if len(links):
                offset = side(relation, origin)
                yield _Side(
                    own=position[own[links]],
                    target=place(relation, rows[other[links]]) - offset,
                    precision=graph.weight[edges][links] / noise[relation],
                    slope=side(relation, unit) - offset,
                )


def _solve(sides: list[_Side], unseen: Tensor, start: int, prior: Prior) -> Tensor:
    """The ridge regressions of a block of the unseen: (n, d)."""
    ids = unseen[start : start + _BLOCK]
    pull = prior.variance[ids].clamp_min(_TINY).reciprocal()
    dim = prior.mean.shape[1]
    left = pull.view(-1, 1, 1) * torch.eye(dim)  # (n, d, d)
    right = pull.unsqueeze(1) * prior.mean[ids]  # (n, d)
    for side in sides:
        mine = torch.nonzero((side.own >= start) & (side.own < start + len(ids))).squeeze(1)
        own, precision = side.own[mine] - start, side.precision[mine]
        total = torch.zeros(len(ids)).index_add_(0, own, precision)
        left += total.view(-1, 1, 1) * (side.slope @ side.slope.T)
        weighted = precision.unsqueeze(1) * (side.target[mine] @ side.slope.T)
        right.index_add_(0, own, weighted)
    return torch.linalg.solve(left, right)


def _check_distance(parameters: Parameters) -> None:
    if parameters.score.similarity != "distance":
        raise ConfigError(
            f"model {parameters.model}",
            found="a score that is a dot product",
            expected="a distance model: transe, transr, transra or rotate",
            remedy="Refresh more often; there is no inductive path for dot products.",
        )


@dataclass(frozen=True, eq=False)
class Regression:
    """y = (x - `center`) @ `slope` + `mean`; `variance` a dim is what it left of held-out rows."""

    center: Tensor
    slope: Tensor
    mean: Tensor
    variance: float

    def __call__(self, features: Tensor) -> Tensor:
        """Predict (n, c) float32 -> (n, d)."""
        return (features.double() - self.center) @ self.slope + self.mean


#: Of the features' own mean variance; the last one leaves next to nothing but the mean.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e6)


def regress(features: Tensor, rows: Tensor, *, held_out: float = 0.2, seed: int = 0) -> Regression:
    """Ridge regression in closed form, its penalty chosen by rows that are held out.

    Args:
        features: (m, c), m at least 2.
        rows: (m, d), what is to be predicted.
        held_out: share of the rows that only judge; then all are fitted.
        seed: of their draw.
    """
    x, y = features.double(), rows.double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(held_out * len(x)))
    judge, fit = order[:cut], order[cut:]
    errors = {
        penalty: float((_ridge(x[fit], y[fit], penalty)(x[judge]) - y[judge]).square().mean())
        for penalty in _PENALTIES
    }
    best = min(errors, key=lambda penalty: (errors[penalty], -penalty))
    found = _ridge(x, y, best)
    return Regression(found.center, found.slope, found.mean, errors[best])


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Regression:
    center, mean = x.mean(0), y.mean(0)
    away = x - center
    scale = float(away.square().mean().clamp_min(_TINY)) * len(x)
    gram = away.T @ away + penalty * scale * torch.eye(x.shape[1], dtype=x.dtype)
    return Regression(center, torch.linalg.solve(gram, away.T @ (y - mean)), mean, 0.0)
