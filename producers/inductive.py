"""Vectors of entities that a refresh has not seen, from their first links and their content.

Links: some steps of training on the new links alone, with every known row and every relation held
fixed. For an unseen entity x that is the sampled softmax of its links against candidates for their
other ends, drawn among the known, and a pull to where it is expected before any link:

    sum_links  w (log sum_c exp(s f(x, r, c)) - s f(x, r, n))  +  pull |x - p|^2

A distance's share of x alone is that of every candidate and falls out, so that for distances as for
dot products it is a convex problem, and each entity's own.

Content: p is predicted by a ridge regression from content to vectors of the known; else it is the
mean of the entity's type.

Legend of shapes: N entities, n unseen ones, E links, K candidates, d dims, m rows, c content dims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from provender.plugin.row_adagrad import adagrad_rows
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.scores import cross_score, pair_score

#: How strongly an entity is pulled to the mean of its type, and to what its content says: as
#: benchmarks/cold_start.py measured best on the simulated world.
TYPE_PULL, CONTENT_PULL = 10.0, 100.0
#: Candidates a side, steps of row-wise Adagrad a round and their rate: the trainer's own, more
#: steps learn few links by heart.
CANDIDATES, STEPS, RATE = 512, 15, 0.3
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Expected:
    """Where each entity is expected before its links: `rows` (N, d), and the `pull` (N,) there."""

    rows: Tensor
    pull: Tensor


def type_means(rows: Tensor, known: Tensor, graph: TripleGraph) -> Expected:
    """Expect of each entity the mean of the known ones of its type; of a type without any, zeros.

    Args:
        rows: (N, d), of which those not `known` are not read.
        known: bool (N,).
    """
    mean = torch.zeros_like(rows)
    for entity in graph.counts:
        span = graph.span(entity)
        if known[span].any():
            mean[span] = rows[span][known[span]].mean(0)
    return Expected(mean, torch.full((len(rows),), TYPE_PULL))


def fold_in(
    parameters: Parameters,
    graph: TripleGraph,
    known: Tensor,
    expected: Expected,
    *,
    scale: float,
    weights: Callable[[str], float] = lambda relation: 1.0,
    rounds: int = 2,
    seed: int = 0,
) -> Tensor:
    """Place the unseen entities of a graph; the known rows come back as they are.

    Args:
        parameters: `entity` (N, d), of which rows not `known` are not read.
        graph: all links there are by now.
        known: bool (N,).
        expected: of all entities.
        scale: of the scores in the loss (`score_scale`).
        weights: a relation's weight in the loss, by its name.
        rounds: from the second on, links among the unseen count too, their other ends where the
            round before has placed them: a new pin of a new item of a known shop takes two.
        seed: of the draw of candidates.

    Returns:
        (N, d) float32.
    """
    rows = torch.where(known.unsqueeze(1), parameters.entity, expected.rows)
    unseen = torch.nonzero(~known).squeeze(1)
    position = torch.full((len(rows),), -1)
    position[unseen] = torch.arange(len(unseen))
    for one in range(rounds if len(unseen) else 0):
        usable = known if one == 0 else torch.ones_like(known)
        draw = torch.Generator().manual_seed(seed)
        sides = list(_sides(parameters, graph, rows, position, usable, known, weights, draw))
        placed = _descend(sides, expected.rows[unseen], expected.pull[unseen], parameters, scale)
        rows = rows.index_copy(0, unseen, placed)
    return rows


@dataclass(frozen=True, eq=False)
class _Side:
    """A relation's links from their unseen ends.

    `place` (n, d) to (n, d) puts those where their other ends are compared: `own` (E,) positions
    among the unseen, `target` (E, d), `weight` (E,); `candidates` (K, d), each standing for
    `exp(share)` known entities.
    """

    place: Callable[[Tensor], Tensor]
    own: Tensor
    target: Tensor
    weight: Tensor
    candidates: Tensor
    share: float


def _sides(
    parameters: Parameters,
    graph: TripleGraph,
    rows: Tensor,
    position: Tensor,
    usable: Tensor,
    known: Tensor,
    weights: Callable[[str], float],
    draw: torch.Generator,
) -> Iterator[_Side]:
    """Each relation's links between an unseen end and a usable one, from either end."""
    for relation, one in enumerate(graph.relations):
        edges = graph.edges_of(relation)
        if edges.stop == edges.start:
            continue
        weight = graph.weight[edges] * (weights(one.name) / graph.weight[edges].mean())
        ends = [
            (graph.head[edges], graph.tail[edges], one.tail, parameters.left, parameters.right),
            (graph.tail[edges], graph.head[edges], one.head, parameters.right, parameters.left),
        ]
        for own, other, entity, mine, theirs in ends:
            links = torch.nonzero((position[own] >= 0) & usable[other]).squeeze(1)
            standing = torch.nonzero(known[graph.span(entity)]).squeeze(1) + graph.offsets[entity]
            if len(links) and len(standing):
                chosen = standing[torch.randperm(len(standing), generator=draw)[:CANDIDATES]]
                yield _Side(
                    place=partial(mine, relation),
                    own=position[own[links]],
                    target=theirs(relation, rows[other[links]]),
                    weight=weight[links],
                    candidates=theirs(relation, rows[chosen]),
                    share=math.log(len(standing) / len(chosen)),
                )


def _descend(
    sides: list[_Side], expected: Tensor, pull: Tensor, parameters: Parameters, scale: float
) -> Tensor:
    """Row-wise Adagrad from where they are expected: (n, d)."""
    x, squares, everyone = expected.clone(), torch.zeros(len(expected)), torch.arange(len(expected))
    similarity = parameters.score.similarity
    for _ in range(STEPS):
        at = x.detach().requires_grad_()
        loss = (pull * (at - expected).square().sum(1)).sum()
        for side in sides:
            placed = side.place(at)
            others = scale * cross_score(placed, side.candidates, similarity) + side.share
            own = scale * pair_score(placed[side.own], side.target, similarity)
            against = torch.logsumexp(others, 1)[side.own]
            loss = loss + (side.weight * (torch.logaddexp(own, against) - own)).sum()
        (gradient,) = torch.autograd.grad(loss, at)
        adagrad_rows(x, squares, everyone, gradient, rate=RATE)
    return x


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
