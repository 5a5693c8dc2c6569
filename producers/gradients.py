"""The loss of one chunk and its gradients in closed form: one product a side forward, two back.

A chunk's triples are scored against the negatives that they share, once with the tail corrupted and
once with the head. With S the scores of a side, queries A and candidates C,

    S = scale (2 A C' - |a|^2 - |c|^2)      dA = 2 scale (G C - rowsum(G) A)
    G = dL/dS                               dC = 2 scale (G' A - colsum(G) C)

for squared distances, and the same without the squares for dot products. Tests hold the whole of it
to autograd.

Legend of shapes: d dims, B triples, K shared negatives, H hard ones a triple, U unique rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from provender.producers.chunks import Chunk
from provender.producers.losses import Loss
from provender.producers.scores import (
    Gradients,
    Product,
    Relation,
    ScoreFunction,
    Similarity,
    pair_score,
)


@dataclass(frozen=True)
class Objective:
    """What is minimised: the mean of both sides' losses, weighted, of `scale` times the score."""

    score: ScoreFunction
    loss: Loss
    scale: float
    product: Product


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a chunk: its queries (B, d), and what they are told from.

    `candidates` (K, d) are shared, `own` (B, H, d) are each triple's alone, None where H is 0.
    `log_expected` (K,) says how often candidates were expected; `hit` bool (B, K) and `hit_own`
    bool (B, H) which do not count, None where all do.
    """

    queries: Tensor
    candidates: Tensor
    own: Tensor | None
    log_expected: Tensor
    hit: Tensor | None
    hit_own: Tensor | None


def chunk_gradients(
    rows: Tensor, relation: Relation, chunk: Chunk, objective: Objective
) -> tuple[Tensor, Tensor, Gradients]:
    """Return the losses (B,), and the gradients of their weighted sum.

    `rows` (U, d) are the gathered entities. The gradients are those of the rows (U, d) and of the
    relation's parameters by name.
    """
    score, count = objective.score, len(chunk.weight)
    projected = score.project(rows, relation, objective.product)
    ends = projected.index_select(0, chunk.place)
    back = torch.zeros_like(ends)
    heads, tails, hard = _parts(ends, chunk)
    moved_back, tails_back, hard_back = _parts(back, chunk)
    moved = score.move(heads, relation)
    left, right = moved[:count], tails[:count]

    tail_side = _Side(
        left, tails[count:], hard, chunk.log_expected_tail, chunk.hit_tail, chunk.hit_hard
    )
    head_side = _Side(right, moved[count:], None, chunk.log_expected_head, chunk.hit_head, None)
    if chunk.loops:
        true = chunk.place[:count] == chunk.place[len(heads) : len(heads) + count]
        tail_side = _with_own(tail_side, heads[:count], true)
        head_side = _with_own(head_side, score.move(right, relation), true)
    positive = objective.scale * pair_score(left, right, score.similarity)
    weight = (0.5 * objective.scale) * chunk.weight
    by_tail, d_tail, own_tail_back = _side_back(
        tail_side, positive, weight, objective, (moved_back[:count], tails_back[count:])
    )
    by_head, d_head, own_head_back = _side_back(
        head_side, positive, weight, objective, (tails_back[:count], moved_back[count:])
    )
    of_left, of_right = _pair_back(left, right, (d_tail + d_head) * weight, score.similarity)
    moved_back[:count].add_(of_left)
    tails_back[:count].add_(of_right)

    heads_back, of_relation = score.move_back(moved_back, heads, relation)
    if heads_back is not moved_back:
        moved_back.copy_(heads_back)
    if chunk.loops and own_tail_back is not None and own_head_back is not None:
        moved_back[:count].add_(own_tail_back[:, -1])
        of_right, of_loops = score.move_back(own_head_back[:, -1], right, relation)
        tails_back[:count].add_(of_right)
        of_relation = {name: value + of_loops[name] for name, value in of_relation.items()}
    if hard_back is not None and own_tail_back is not None:
        hard_back.copy_(own_tail_back[:, : hard_back.shape[1]])
    gathered = torch.zeros_like(projected).index_add_(0, chunk.place, back)
    rows_back, of_projection = score.project_back(gathered, rows, relation, objective.product)
    return 0.5 * (by_tail + by_head), rows_back, {**of_relation, **of_projection}


def _parts(ends: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
    """Heads and tails (B + K, d), the triples' own first, and hard negatives (B, H, d), if any."""
    side = len(chunk.weight) + len(chunk.log_expected_tail)
    hard = ends[2 * side :].view(len(chunk.weight), -1, ends.shape[1])
    return ends[:side], ends[side : 2 * side], hard if hard.shape[1] else None


def _with_own(side: _Side, more: Tensor, hit: Tensor) -> _Side:
    """The side with one more negative (B, d) for each triple, and where it does not count (B,)."""
    own, hit_own = more.unsqueeze(1), hit.unsqueeze(1)
    if side.own is not None:
        former = side.own.new_zeros(side.own.shape[:2], dtype=torch.bool)
        hit_own = torch.cat([former if side.hit_own is None else side.hit_own, hit_own], dim=1)
        own = torch.cat([side.own, own], dim=1)
    return replace(side, own=own, hit_own=hit_own)


def _side_back(
    side: _Side,
    positive: Tensor,
    weight: Tensor,
    objective: Objective,
    back: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The losses (B,) of one side, their derivatives by the positive scores, the gradient of `own`.

    The gradients of the queries (B, d) are added to the first of `back`, those of the candidates
    (K, d) to the second.
    """
    similarity, queries, shared = objective.score.similarity, side.queries, len(side.candidates)
    negative, drawn = _negatives(side, objective)
    losses, by_positive, by_negative = objective.loss(positive, negative, *drawn)
    own_back = None
    if side.own is not None:
        by_own = by_negative[:, shared:] * weight.unsqueeze(1)
        of_queries, own_back = _pair_back(queries.unsqueeze(1), side.own, by_own, similarity)
        back[0].add_(of_queries.sum(1))
        by_negative = by_negative[:, :shared]
    factor = 2.0 if similarity == "distance" else 1.0
    of_queries = objective.product(by_negative, side.candidates)
    of_candidates = objective.product(by_negative.T, queries * weight.unsqueeze(1))
    if similarity == "distance":
        of_queries.addcmul_(queries, by_negative.sum(1, keepdim=True), value=-1)
        of_candidates.addcmul_(side.candidates, (by_negative.T @ weight).unsqueeze(1), value=-1)
    back[0].addcmul_(of_queries, weight.unsqueeze(1), value=factor)
    back[1].add_(of_candidates, alpha=factor)
    return losses, by_positive, own_back


def _negatives(side: _Side, objective: Objective) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
    """The scaled scores (B, K + H) of all negatives, and what the loss is told of them.

    Each of a triple's own is there once, so no draw is to be corrected.
    """
    negative = _scores(side.queries, side.candidates, objective)
    if side.own is None:
        return negative, (side.log_expected, side.hit)
    similarity, own = objective.score.similarity, side.own
    scores = objective.scale * pair_score(side.queries.unsqueeze(1), own, similarity)
    once = side.log_expected.new_zeros(own.shape[1])
    hit = side.hit
    if hit is not None or side.hit_own is not None:
        shared = torch.zeros_like(negative, dtype=torch.bool) if hit is None else hit
        alone = torch.zeros_like(scores, dtype=torch.bool) if side.hit_own is None else side.hit_own
        hit = torch.cat([shared, alone], dim=1)
    return torch.cat([negative, scores], dim=1), (torch.cat([side.log_expected, once]), hit)


def _scores(queries: Tensor, candidates: Tensor, objective: Objective) -> Tensor:
    """The scaled scores of all pairs (B, K)."""
    scale = objective.scale
    if objective.score.similarity == "dot":
        return objective.product(queries * scale, candidates.T)
    products = objective.product(queries * (2 * scale), candidates.T)
    products.sub_(_squares(candidates).mul_(scale))
    return products.sub_(_squares(queries).mul_(scale).unsqueeze(1))


def _squares(rows: Tensor) -> Tensor:
    """The squared lengths of rows (n, d)."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length.square_()


def _pair_back(
    left: Tensor, right: Tensor, by_score: Tensor, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """The gradients (..., d) of both ends, given the derivatives (...,) by the pairs' scores."""
    weight = by_score.unsqueeze(-1)
    if similarity == "dot":
        return right * weight, left * weight
    away = (left - right).mul_(2 * weight)
    return -away, away
