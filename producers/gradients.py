"""The loss of one chunk and its gradients in closed form: one product a side forward, two back.

A chunk's triples are scored against the negatives that they share, once with the tail corrupted and
once with the head. With S the scores of a side, queries A and candidates C,

    S = scale (2 A C' - |a|^2 - |c|^2)      dA = 2 scale (G C - rowsum(G) A)
    G = dL/dS                               dC = 2 scale (G' A - colsum(G) C)

for squared distances, and the same without the squares for dot products. Tests hold the whole of it
to autograd.

Legend of shapes: d dims, B triples, K shared negatives, U unique rows.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def chunk_gradients(
    rows: Tensor, relation: Relation, chunk: Chunk, objective: Objective
) -> tuple[Tensor, Tensor, Gradients]:
    """Return the losses (B,), and the gradients of their weighted sum.

    `rows` (U, d) are the gathered entities. The gradients are those of the rows (U, d) and of the
    relation's parameters by name.
    """
    score, triples = objective.score, len(chunk.weight)
    projected = score.project(rows, relation, objective.product)
    ends = projected.index_select(0, chunk.place)
    heads, tails = ends.chunk(2)  # (B + K, d) each: the triples' own, then the negatives
    moved = score.move(heads, relation)
    back = torch.zeros_like(ends)
    moved_back, tails_back = back.chunk(2)

    left, right = moved[:triples], tails[:triples]
    own = (moved_back[:triples], tails_back[:triples])
    positive = objective.scale * pair_score(left, right, score.similarity)
    weight = (0.5 * objective.scale) * chunk.weight
    by_tail, d_tail = _side(
        left, tails[triples:], positive, weight, chunk.log_expected_tail, chunk.hit_tail,
        objective, (own[0], tails_back[triples:]),
    )
    by_head, d_head = _side(
        right, moved[triples:], positive, weight, chunk.log_expected_head, chunk.hit_head,
        objective, (own[1], moved_back[triples:]),
    )
    _pair_back(left, right, (d_tail + d_head) * weight, score.similarity, own)

    heads_back, of_move = score.move_back(moved_back, heads, relation)
    if heads_back is not moved_back:
        moved_back.copy_(heads_back)
    gathered = torch.zeros_like(projected).index_add_(0, chunk.place, back)
    rows_back, of_projection = score.project_back(gathered, rows, relation, objective.product)
    return 0.5 * (by_tail + by_head), rows_back, {**of_move, **of_projection}


def _side(
    queries: Tensor,
    candidates: Tensor,
    positive: Tensor,
    weight: Tensor,
    log_expected: Tensor,
    hit: Tensor | None,
    objective: Objective,
    back: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The losses (B,) of one side and their derivatives by the positive scores.

    The gradients of the queries (B, d) are added to the first of `back`, those of the candidates
    (K, d) to the second.
    """
    distance = objective.score.similarity == "distance"
    negative = _scores(queries, candidates, objective)
    losses, by_positive, by_negative = objective.loss(positive, negative, log_expected, hit)
    weighted = queries * weight.unsqueeze(1)
    factor = 2.0 if distance else 1.0
    of_queries = objective.product(by_negative, candidates)
    of_candidates = objective.product(by_negative.T, weighted)
    if distance:
        of_queries.addcmul_(queries, by_negative.sum(1, keepdim=True), value=-1)
        of_candidates.addcmul_(candidates, (by_negative.T @ weight).unsqueeze(1), value=-1)
    back[0].addcmul_(of_queries, weight.unsqueeze(1), value=factor)
    back[1].add_(of_candidates, alpha=factor)
    return losses, by_positive


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
    return torch.linalg.vector_norm(rows, dim=1).square_()


def _pair_back(
    left: Tensor,
    right: Tensor,
    by_positive: Tensor,
    similarity: Similarity,
    back: tuple[Tensor, Tensor],
) -> None:
    """Add the gradients of the positive scores to those of their ends."""
    weight = by_positive.unsqueeze(1)
    if similarity == "dot":
        back[0].addcmul_(right, weight)
        back[1].addcmul_(left, weight)
        return
    away = (left - right).mul_(weight)
    back[0].sub_(away, alpha=2)
    back[1].add_(away, alpha=2)
