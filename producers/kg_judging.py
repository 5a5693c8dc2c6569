"""How well a model predicts links that it was not trained on: both sides, and head by head.

`LinkJudge` ranks both ends of held-out links, filtered by all links of all files (Bordes et al.
2013). `HeadJudge` ranks, for each head, everything that is ever a tail of one relation: Recall@k
and NDCG@k, with what the head is already known to have left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from provender.plugin.errors import SourceError
from provender.producers.graph import TripleGraph
from provender.producers.kg_data import Links, LinkSets, Size
from provender.producers.link_ranking import (
    End,
    Filter,
    Ranks,
    RelationScorer,
    Scorer,
    rank_links,
)
from provender.producers.onednn import product
from provender.producers.parameters import Parameters
from provender.producers.rank_figures import head_figures, hits, link_figures, reciprocal


def model_scorer(parameters: Parameters, graph: TripleGraph) -> Scorer:
    """Scores by the parameters, on the device where they are."""
    seen = len(graph.relations)
    return lambda relation: _model(parameters, graph, relation) if relation < seen else None


@dataclass(frozen=True, eq=False)
class LinkJudge:
    """Links (L,) to be ranked on both sides, and what each side sets aside."""

    sets: LinkSets
    links: Links
    head: Filter
    tail: Filter

    @classmethod
    def of(cls, sets: LinkSets, name: str, *, most: int | None = None, seed: int = 0) -> LinkJudge:
        """Judge by the links of `valid` or `test`; of more than `most`, so many are drawn."""
        links = sets.held_out[name]
        if most is not None and len(links) > most:
            links = links.at(_drawn(len(links), most, seed))
        sizes = {"heads": sets.size("head"), "tails": sets.size("tail")}
        head, tail = (Filter.of(sets.all, end, **sizes) for end in ("head", "tail"))
        return cls(sets, links, head, tail)

    def ranks(self, scorer: Scorer) -> dict[str, Ranks]:
        """By side: where the true heads rank, and where the true tails do."""
        ranks = rank_links(self.links, scorer, [self.head, self.tail])
        return dict(zip(("head", "tail"), ranks, strict=True))

    def mrr(self, scorer: Scorer) -> float:
        """The filtered MRR of both sides."""
        return float(reciprocal(_both(self.ranks(scorer))).mean())

    def figures(self, scorer: Scorer) -> dict[str, Any]:
        """Both sides together, then each, then each relation."""
        ranks = self.ranks(scorer)
        sides = {side: link_figures(each) for side, each in ranks.items()}
        both = link_figures(_both(ranks)) | {"links": len(self.links)}
        present = self.links.relation.unique().tolist()
        relations = {self.sets.relations[i].name: self._of(i, ranks) for i in present}
        return {**both, **sides, "relations": relations}

    def _of(self, relation: int, ranks: dict[str, Ranks]) -> dict[str, float]:
        here = self.links.relation == relation
        own = {side: each.at(here) for side, each in ranks.items()}
        sides = {f"{side}_mrr": float(reciprocal(each).mean()) for side, each in own.items()}
        both = _both(own)
        return {
            "links": int(here.sum()),
            "mrr": float(reciprocal(both).mean()),
            "hits@10": float(hits(both, 10).mean()),
            **sides,
        }


@dataclass(frozen=True, eq=False)
class HeadJudge:
    """Links (L,) of one relation, to be ranked head by head among `candidates` (n,).

    Candidates are whatever is a tail of the relation in any file. The tails of `links` and of
    `aside` are places among them, the seen ones first; `counts` (n seen) are those of training.
    """

    links: Links
    candidates: Tensor
    aside: Filter
    counts: Tensor

    @classmethod
    def of(cls, sets: LinkSets, name: str, *, most: int | None = None, seed: int = 0) -> HeadJudge:
        """Judge by the heads of `valid` or `test`; of more than `most`, so many are drawn.

        What a head has in training (and in valid, when test is judged) is no candidate for it.
        Raises SourceError if nothing is left to predict.
        """
        held = {"train": sets.train, **sets.held_out}
        every = {which: each.at(each.relation.eq(sets.ranked or 0)) for which, each in held.items()}
        candidates = torch.cat([each.tail for each in every.values()]).unique()
        tails = Size(int((candidates < sets.size("tail").seen).sum()), len(candidates))
        placed = {
            which: replace(each, tail=torch.searchsorted(candidates, each.tail))
            for which, each in every.items()
        }
        former = [placed["train"]] + ([placed["valid"]] if name == "test" and sets.valid else [])
        links = _new(placed[name], former, len(candidates))
        if not len(links):
            raise SourceError(
                f"the {name} links",
                found="none that the training links lack",
                expected="links to predict",
                remedy="Split the data so that no link is in two files.",
            )
        aside = Filter.of(former, "tail", heads=sets.size("head"), tails=tails)
        counts = placed["train"].tail.bincount(minlength=tails.seen)
        return cls(_of_some_heads(links, most, seed), candidates, aside, counts)

    def figures(self, scorer: Scorer, ks: Sequence[int]) -> dict[str, float]:
        """Recall@k and NDCG@k of a scorer of all tails."""
        seen = self.candidates[: self.aside.answers.seen]
        return self._figures(lambda relation: _columns(scorer(relation), seen), self.aside, ks)

    def popularity(self, ks: Sequence[int]) -> dict[str, float]:
        """The same of the number of links in training, alike for every head: the floor."""
        every = self.aside.asked.known  # It knows an answer for unseen heads too.
        aside = replace(self.aside, asked=Size(every, every))
        return self._figures(lambda _: _constant(self.counts.float()), aside, ks)

    def _figures(self, scorer: Scorer, aside: Filter, ks: Sequence[int]) -> dict[str, float]:
        (ranks,) = rank_links(self.links, scorer, [aside])
        return head_figures(ranks, self.links.head, ks)


def _model(parameters: Parameters, graph: TripleGraph, relation: int) -> RelationScorer:
    """Scores of one relation, less what depends on the question alone: -|q - c|^2 as qc - |c|^2/2.

    One product without a bias is far faster than torch's `addmm` with one.
    """
    one = graph.relations[relation]
    right = parameters.right(relation, parameters.entity[graph.span(one.tail)])  # (n, d)
    heads = right
    if one.head != one.tail:
        heads = parameters.right(relation, parameters.entity[graph.span(one.head)])
    left = parameters.score.move(heads, parameters.of(relation))
    distance = parameters.score.similarity == "distance"

    def scores(answer: End, asked: Tensor) -> Tensor:
        queries, candidates = (left, right) if answer == "tail" else (right, left)
        products = product(queries.index_select(0, asked.to(queries.device)), candidates.T)
        if distance:
            products -= torch.linalg.vector_norm(candidates, dim=1).square_().div_(2)
        return products

    return scores


def _columns(one: RelationScorer | None, chosen: Tensor) -> RelationScorer | None:
    """A scorer's scores of some tails (n,) alone."""
    if one is None:
        return None
    scorer = one

    def scores(answer: End, asked: Tensor) -> Tensor:
        whole = scorer(answer, asked)
        if len(chosen) == whole.shape[1]:
            return whole
        return whole.index_select(1, chosen.to(whole.device))

    return scores


def _constant(scores: Tensor) -> RelationScorer:
    """The same scores (n,), whoever is asked for."""
    return lambda _, asked: scores.expand(len(asked), -1)


def _new(links: Links, former: Sequence[Links], tails: int) -> Links:
    """Each link of one relation once, without the former ones."""
    pairs = (links.head * tails + links.tail).unique()
    pairs = pairs[~torch.isin(pairs, torch.cat([each.head * tails + each.tail for each in former]))]
    return Links(pairs // tails, torch.full_like(pairs, int(links.relation[0])), pairs % tails)


def _of_some_heads(links: Links, most: int | None, seed: int) -> Links:
    heads = links.head.unique()
    if most is None or len(heads) <= most:
        return links
    return links.at(torch.isin(links.head, heads[_drawn(len(heads), most, seed)]))


def _drawn(count: int, most: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:most].sort().values


def _both(ranks: dict[str, Ranks]) -> Ranks:
    return Ranks(
        torch.cat([each.above for each in ranks.values()]),
        torch.cat([each.level for each in ranks.values()]),
    )
