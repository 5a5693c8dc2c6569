"""The loss of one chunk and its gradients in closed form: one product a side forward, two back.

A chunk's triples are scored against the negatives that they share, once with the tail corrupted and
once with the head. With S the scores of a side, queries A and candidates C,

    S = scale (2 A C' - |a|^2 - |c|^2)      dA = 2 scale (G C - rowsum(G) A)
    G = dL/dS                               dC = 2 scale (G' A - colsum(G) C)

for squared distances, and the same without the squares for dot products. Negatives that a triple
has alone, and the triple itself, are further columns of S. Tests hold the whole of it to autograd.

Each pass over a chunk's numbers takes as long as a tenth of a product, so they are few: scores are
written once into one matrix, and its derivatives carry weight and scale from there on.

Legend of shapes: d dims, B triples, K shared negatives, H negatives of a triple alone, U unique
rows, E ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from provender.producers.chunks import Chunk
from provender.producers.losses import Hits, Loss
from provender.producers.scores import Gradients, Product, Relation, ScoreFunction, pair_score


@dataclass(frozen=True)
class Objective:
    """What is minimised: the mean of both sides' losses, weighted, of `scale` times the score."""

    score: ScoreFunction
    loss: Loss
    scale: float
    product: Product


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a chunk: what B queries (B, d) are scored against, beside their true ends.

    `candidates` (K, d) are shared, `alone` (B, H, d) are each triple's own negatives.
    `log_expected` (K + H,) says how often negatives were expected, `hits` which do not count.
    """

    queries: Tensor
    candidates: Tensor
    alone: Tensor
    log_expected: Tensor
    hits: Hits | None


@dataclass(frozen=True, eq=False)
class _Gradients:
    """The gradients of a side's tensors, and of its positive scores (B,)."""

    queries: Tensor
    candidates: Tensor
    alone: Tensor
    positive: Tensor


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
    heads, tails, hard = _parts(ends, chunk)
    moved = score.move(heads, relation)
    left, right = moved[:count], tails[-count:]
    loops = [heads[:count], score.move(right, relation)] if chunk.one_type else []
    tail_side = _side(
        (left, tails[:-count]),
        [*hard.unbind(1), *loops[:1]],
        chunk.log_expected_tail,
        _hits(chunk.hit_tail, chunk.hit_hard, chunk),
    )
    head_side = _side(
        (right, moved[count:]),
        loops[1:],
        chunk.log_expected_head,
        _hits(chunk.hit_head, None, chunk),
    )
    positive = objective.scale * pair_score(left, right, score.similarity)
    by_tail, of_tail = _backward(tail_side, positive, chunk.weight, objective)
    by_head, of_head = _backward(head_side, positive, chunk.weight, objective)
    of_left, of_right = _pair_back(left, right, of_tail.positive + of_head.positive, objective)

    back = torch.empty_like(ends)
    of_heads, of_tails, of_hard = _parts(back, chunk)
    torch.add(of_tail.queries, of_left, out=of_heads[:count])
    of_heads[count:] = of_head.candidates
    of_moved, of_relation = score.move_back(of_heads, heads, relation)
    if of_moved is not of_heads:
        of_heads.copy_(of_moved)
    torch.add(of_head.queries, of_right, out=of_tails[-count:])
    of_hard.copy_(of_tail.alone[:, : of_hard.shape[1]])
    if chunk.one_type:
        of_tails[:-count].add_(of_tail.candidates)
        of_heads[:count].add_(of_tail.alone[:, -1])
        of_right, of_loops = score.move_back(of_head.alone[:, -1], right, relation)
        of_tails[-count:].add_(of_right)
        of_relation = {name: value + of_loops[name] for name, value in of_relation.items()}
    else:
        of_tails[:-count] = of_tail.candidates
    gathered = torch.zeros_like(projected).index_add_(0, chunk.place, back)
    of_rows, of_projection = score.project_back(gathered, rows, relation, objective.product)
    return 0.5 * (by_tail + by_head), of_rows, {**of_relation, **of_projection}


def _parts(ends: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
    """Heads and negative heads (B + K, d), negative tails and tails, hard negatives (B, H, d)."""
    hard = ends[chunk.tails.stop :]
    count = len(chunk.weight)
    shape = count, len(hard) // count, ends.shape[1]
    return ends[chunk.heads], ends[chunk.tails], hard.view(shape)


def _side(
    own: tuple[Tensor, Tensor], alone: list[Tensor], log_expected: Tensor, hits: Hits | None
) -> _Side:
    """Queries and candidates, with the negatives (B, d) that each triple has alone.

    Each of those is there once, so no draw is to be corrected.
    """
    queries, candidates = own
    if not alone:
        none = queries.new_empty(len(queries), 0, queries.shape[1])
        return _Side(queries, candidates, none, log_expected, hits)
    expected = torch.cat([log_expected, log_expected.new_zeros(len(alone))])
    return _Side(queries, candidates, torch.stack(alone, dim=1), expected, hits)


def _hits(shared: Hits | None, hard: Tensor | None, chunk: Chunk) -> Hits | None:
    """All negatives that do not count: shared ones, hard ones, and loops that are true."""
    found = [] if shared is None else [shared]
    first = len(chunk.log_expected_tail)
    if hard is not None:
        rows, columns = hard.nonzero(as_tuple=True)
        found.append((rows, columns + first))
        first += hard.shape[1]
    if chunk.one_type:
        (rows,) = chunk.loops().nonzero(as_tuple=True)
        found.append((rows, torch.full_like(rows, first)))
    return (torch.cat([r for r, _ in found]), torch.cat([c for _, c in found])) if found else None


def _backward(
    side: _Side, positive: Tensor, weight: Tensor, objective: Objective
) -> tuple[Tensor, _Gradients]:
    """The losses (B,) of one side, and the gradients of half their weighted sum.

    `positive` (B,) are the scaled scores of the triples.
    """
    scores = _scores(side, positive, objective)
    losses, slopes, total = objective.loss(scores, side.log_expected, side.hits)
    distance = objective.score.similarity == "distance"
    factor = (1.0 if distance else 0.5) * objective.scale * weight
    slopes.mul_(factor.unsqueeze(1))
    shared = slopes[:, : len(side.candidates)]
    alone = slopes[:, len(side.candidates) : -1].unsqueeze(2)
    of_queries = objective.product(shared, side.candidates)
    of_candidates = objective.product(shared.T, side.queries)
    of_alone = side.queries.unsqueeze(1)
    if side.alone.shape[1]:
        of_queries.add_((side.alone * alone).sum(1))
    if distance:
        of_queries.addcmul_(side.queries, total.mul_(factor).unsqueeze(1), value=-1)
        of_candidates.addcmul_(side.candidates, shared.sum(0).unsqueeze(1), value=-1)
        of_alone = of_alone - side.alone
    return losses, _Gradients(of_queries, of_candidates, of_alone * alone, slopes[:, -1])


def _pair_back(
    left: Tensor, right: Tensor, by_score: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The gradients (B, d) of both ends, given what `_Gradients` says of the pairs' scores (B,)."""
    by_score = by_score.unsqueeze(1)
    if objective.score.similarity == "dot":
        return right * by_score, left * by_score
    away = (left - right).mul_(by_score)
    return -away, away


def _scores(side: _Side, positive: Tensor, objective: Objective) -> Tensor:
    """The scaled scores (B, K + H + 1): of shared negatives, those alone, and the positive ones."""
    scale, similarity = objective.scale, objective.score.similarity
    (count, own, _), shared = side.alone.shape, len(side.candidates)
    scores = side.queries.new_empty(count, shared + own + 1)
    pairs = scores[:, :shared]
    if similarity == "dot":
        objective.product.onto(pairs.zero_(), side.queries, side.candidates.T, scale)
    else:
        far = _squares(side.queries).mul_(-scale).unsqueeze(1)
        torch.sub(far, _squares(side.candidates).mul_(scale), out=pairs)
        objective.product.onto(pairs, side.queries, side.candidates.T, 2 * scale)
    if own:
        alone = pair_score(side.queries.unsqueeze(1), side.alone, similarity)
        torch.mul(alone, scale, out=scores[:, shared:-1])
    scores[:, -1] = positive
    return scores


def _squares(rows: Tensor) -> Tensor:
    """The squared lengths of rows (n, d)."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length.square_()
