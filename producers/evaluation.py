"""Next-day link prediction, with popularity and chance as floors under the same protocol.

Per relation, every true (head, tail) of the window is ranked among all entities of the tail's
type. MRR and Hits@k are filtered (Bordes et al. 2013): other true tails of that head in the window
do not count against it. Recall@k is the share of a head's true tails within its first k, over all
entities, and the mean over heads.

Ties are broken at random and every figure is the expectation over that, so that a model gains
nothing by giving many entities the same score, popularity's many equal counts are judged fairly,
and chance is exact: it is the model that scores everything alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Heads (B,) within their type -> scores (B, n) of all entities of the tail's type, on the CPU.
Scorer = Callable[[Tensor], Tensor]
#: Scores held at once, at most.
SCORES = 2**26


@dataclass(frozen=True)
class Ranking:
    """How well one scorer ranks: `mrr`, and `hits` and `recall` by k, all within 0 and 1."""

    mrr: float
    hits: dict[int, float]
    recall: dict[int, float]


@dataclass(frozen=True)
class RelationReport:
    """One relation's figures over `pairs` distinct true pairs of `heads` heads."""

    relation: str
    heads: int
    pairs: int
    candidates: int
    model: Ranking
    popularity: Ranking
    random: Ranking


@dataclass(frozen=True)
class EvaluationReport:
    """The relations that are both in the graph and in the window, in the graph's order."""

    relations: tuple[RelationReport, ...]

    def __getitem__(self, relation: str) -> RelationReport:
        return next(one for one in self.relations if one.relation == relation)

    def metrics(self) -> dict[str, float]:
        """All figures under flat names, such as `click/model/recall@100`, for a manifest."""
        flat: dict[str, float] = {}
        for one in self.relations:
            flat[f"{one.relation}/pairs"] = float(one.pairs)
            for who in ("model", "popularity", "random"):
                ranking: Ranking = getattr(one, who)
                flat[f"{one.relation}/{who}/mrr"] = ranking.mrr
                flat |= {f"{one.relation}/{who}/hits@{k}": v for k, v in ranking.hits.items()}
                flat |= {f"{one.relation}/{who}/recall@{k}": v for k, v in ranking.recall.items()}
        return flat


def next_day(
    parameters: Parameters,
    graph: TripleGraph,
    window: pa.Table,
    *,
    hits: Sequence[int] = (10,),
    recalls: Sequence[int] = (100,),
    max_heads: int | None = 20_000,
    seed: int = 0,
) -> EvaluationReport:
    """Judge the parameters by the triples of a later window.

    `window` has the columns relation, head and tail, ids as in the events the graph was built
    from. Beyond `max_heads` heads of a relation, so many are drawn (seeded).
    """
    reports = []
    for index, pairs in _pairs(graph, window, max_heads, seed):
        truth = _by_head(pairs)
        one = graph.relations[index]
        count = graph.counts[one.tail]
        scorers = (
            model_scorer(parameters, graph, index),
            _constant_scorer(popularity(graph, index)),
            _constant_scorer(torch.zeros(count)),
        )
        rankings = [rank(scorer, truth, count, hits=hits, recalls=recalls) for scorer in scorers]
        reports.append(RelationReport(one.name, len(truth), pairs.shape[1], count, *rankings))
    return EvaluationReport(tuple(reports))


@dataclass(frozen=True)
class Quality:
    """One figure for a model, and popularity's: the mean over the relations of Recall@100."""

    model: float
    popularity: float


def quality(
    parameters: Parameters,
    graph: TripleGraph,
    window: pa.Table,
    *,
    recall: int = 100,
    max_heads: int = 2_000,
    seed: int = 0,
) -> Quality | None:
    """Judge the parameters as `next_day` does, in one figure; None where nothing was to predict.

    Two models of one as-of time are asked the same: the heads drawn, the true tails and the
    candidates follow from the events alone. Only relations that a model learns from count, so two
    whose `relations` differ are not asked the same; and popularity follows `half_life_days` and
    `degree_cap` in so far as they drop edges.
    """
    found = []
    for index, pairs in _pairs(graph, window, max_heads, seed):
        truth, count = _by_head(pairs), graph.counts[graph.relations[index].tail]
        scorers = (
            model_scorer(parameters, graph, index),
            _constant_scorer(popularity(graph, index)),
        )
        found.append(
            [
                rank(each, truth, count, hits=(), recalls=(recall,)).recall[recall]
                for each in scorers
            ]
        )
    return Quality(*np.mean(found, axis=0).tolist()) if found else None


def _pairs(
    graph: TripleGraph, window: pa.Table, max_heads: int | None, seed: int
) -> Iterator[tuple[int, Ints]]:
    """The relations that are both in the graph and in the window, each with its true pairs."""
    relation, head, tail = (
        window.column(name).to_numpy().astype(np.int64) for name in ("relation", "head", "tail")
    )
    for index in range(len(graph.relations)):
        of, here = graph.edges_of(index), relation == index
        if of.stop > of.start and here.any():
            pairs = np.unique(np.stack([head[here], tail[here]]), axis=1)
            yield index, _sample(pairs, max_heads, seed)


def popularity(graph: TripleGraph, relation: int) -> Tensor:
    """How many edges of the relation end at each entity of its tail type: float32 (n,)."""
    tail = graph.relations[relation].tail
    local = graph.tail[graph.edges_of(relation)] - graph.offsets[tail]
    return torch.bincount(local, minlength=graph.counts[tail]).float()


def model_scorer(parameters: Parameters, graph: TripleGraph, relation: int) -> Scorer:
    """The scores of all tails, for batches of heads."""
    one = graph.relations[relation]
    rows = parameters.entity[graph.span(one.head)]
    tails = parameters.right(relation, parameters.entity[graph.span(one.tail)])

    def scores(batch: Tensor) -> Tensor:
        heads = parameters.left(relation, rows[batch.to(rows.device)])
        return parameters.cross(heads, tails).cpu()

    return scores


def rank(
    scorer: Scorer,
    truth: list[tuple[int, Ints]],
    candidates: int,
    *,
    hits: Sequence[int],
    recalls: Sequence[int],
    batch: int = 512,
) -> Ranking:
    """Rank the true tails of every head; `truth` lists (head, its distinct tails)."""
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, candidates + 1))])
    reciprocal, within = [], []
    by_head: list[list[float]] = []
    for row, tails in _rows(scorer, truth, max(1, min(batch, SCORES // max(1, candidates)))):
        true = row[tails]
        above = (row > true[:, None]).sum(1)
        level = (row == true[:, None]).sum(1)  # itself included
        above_others = above - (true > true[:, None]).sum(1)
        level_others = level - (true == true[:, None]).sum(1) + 1
        reciprocal.append(
            (harmonic[above_others + level_others] - harmonic[above_others]) / level_others
        )
        within.append([_chance(above_others, level_others, k) for k in hits])
        by_head.append([float(_chance(above, level, k).mean()) for k in recalls])
    columns = [np.concatenate(column) for column in zip(*within, strict=True)]
    recall = np.mean(np.array(by_head).reshape(len(truth), -1), axis=0)
    return Ranking(
        mrr=float(np.concatenate(reciprocal).mean()),
        hits={k: float(column.mean()) for k, column in zip(hits, columns, strict=True)},
        recall={k: float(value) for k, value in zip(recalls, recall, strict=True)},
    )


def _rows(
    scorer: Scorer, truth: list[tuple[int, Ints]], batch: int
) -> Iterator[tuple[NDArray[np.float32], Ints]]:
    """Each head's scores (n,) and true tails, scored in batches."""
    for start in range(0, len(truth), batch):
        part = truth[start : start + batch]
        scores = scorer(torch.tensor([head for head, _ in part])).numpy()
        yield from ((scores[i], tails) for i, (_, tails) in enumerate(part))


def _chance(above: Ints, level: Ints, k: int) -> Floats:
    """The chance of being among the first k with `above` ahead and `level` alike, oneself too."""
    return np.clip((k - above) / level, 0.0, 1.0)


def _by_head(pairs: Ints) -> list[tuple[int, Ints]]:
    heads, starts = np.unique(pairs[0], return_index=True)
    return list(zip(heads.tolist(), np.split(pairs[1], starts[1:]), strict=True))


def _sample(pairs: Ints, max_heads: int | None, seed: int) -> Ints:
    """The pairs, sorted, of at most `max_heads` heads."""
    heads = np.unique(pairs[0])
    if max_heads is None or len(heads) <= max_heads:
        return pairs
    kept = np.random.default_rng(seed).choice(heads, size=max_heads, replace=False)
    return pairs[:, np.isin(pairs[0], kept)]


def _constant_scorer(scores: Tensor) -> Scorer:
    return lambda batch: scores.expand(len(batch), -1)
