"""Chunks: triples of one relation, with the negatives that they share, ready to be trained on.

Legend of shapes: E edges, B triples, K shared negatives, H hard ones a triple, U unique rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provender.producers.dgl_graph import degrees
from provender.producers.graph import TripleGraph
from provender.producers.hard_negatives import HardSource, hard_sources
from provender.producers.known_links import KnownLinks
from provender.producers.losses import Hits
from provender.producers.memory import in_huge_pages
from provender.producers.negatives import (
    EndSampler,
    Mixture,
    NegativeSampler,
    accidental_hits,
    build_sampler,
    mixture,
)
from provender.producers.transra_config import TransRAConfig


@dataclass(frozen=True, eq=False)
class Chunk:
    """B triples of one relation and K negatives a side.

    `rows` (U,) are unique global ids. `place` (E,) are positions in it: of the heads, the negative
    heads, the negative tails, the tails, and each triple's own H hard negatives. Where both ends
    are of one type, `one_type`, the same negatives serve both sides and are there once, and each
    triple's head is a negative of its tail, and the other way round.
    `weight` (B,) weighs the triples' losses; `log_expected_head` and `log_expected_tail` (K,) say
    how often a negative was expected; `hit_head` and `hit_tail` are the rows and columns of (B, K)
    where negatives do not count, None where all do; `hit_hard` bool (B, H) says the same of hard
    ones, None where H is 0.
    """

    relation: int
    rows: Tensor
    place: Tensor
    weight: Tensor
    log_expected_head: Tensor
    log_expected_tail: Tensor
    hit_head: Hits | None
    hit_tail: Hits | None
    one_type: bool = False
    hit_hard: Tensor | None = None

    @property
    def heads(self) -> slice:
        """Where in `place` the heads are, then the negative ones."""
        return slice(0, len(self.weight) + len(self.log_expected_head))

    @property
    def tails(self) -> slice:
        """Where in `place` the negative tails are, then the tails."""
        first = len(self.weight) if self.one_type else self.heads.stop
        return slice(first, first + len(self.log_expected_tail) + len(self.weight))

    def loops(self) -> Tensor:
        """Which triples have one entity at both ends: bool (B,)."""
        count = len(self.weight)
        return self.place[:count] == self.place[self.tails][-count:]


@dataclass(frozen=True, eq=False)
class ChunkSource:
    """Where chunks come from: the edges and the samplers, on the device of training.

    `weight` (E,) weighs the loss: mean 1 within a relation, times the relation's own weight.
    `known` says which negatives are true, None leaves them in; `hard` has further ones by relation.
    `end_share` of the negatives come from `ends`, those that each relation has as heads and tails.
    """

    graph: TripleGraph
    device: torch.device
    negatives: int
    seed: int
    head: Tensor
    tail: Tensor
    weight: Tensor
    samplers: dict[str, NegativeSampler]
    known: KnownLinks | None = None
    hard: Mapping[int, HardSource] = field(default_factory=dict)
    end_share: float = 0.0
    ends: Mapping[int, tuple[EndSampler, EndSampler]] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls, graph: TripleGraph, config: TransRAConfig, device: torch.device
    ) -> ChunkSource:
        """Put the edges on the device, and make a sampler for every entity type that has any."""
        counts = degrees(graph)
        samplers = {
            entity: build_sampler(
                counts[graph.span(entity)],
                graph.offsets[entity],
                power=config.degree_power,
                uniform_share=config.uniform_share,
                device=device,
            )
            for entity, count in graph.counts.items()
            if count
        }
        weight = loss_weights(graph, config)
        head, tail, weight = (
            in_huge_pages(each.to(device)) for each in (graph.head, graph.tail, weight)
        )
        return cls(
            graph=graph,
            device=device,
            negatives=config.negatives,
            seed=config.seed,
            head=head,
            tail=tail,
            weight=weight,
            samplers=samplers,
            known=KnownLinks.of(graph, head, tail) if config.filter_negatives else None,
            hard=hard_sources(graph, config, device),
            end_share=config.end_share,
            ends=_ends(graph, config, device) if config.end_share else {},
        )

    def draw(self, plan: EpochPlan, index: int) -> Chunk:
        """Draw the negatives of a plan's chunk, and gather what it needs.

        The draws depend on seed, epoch and index alone, whoever draws, and in whatever order.
        """
        generator = generator_of(self.seed, plan.epoch, index)
        edges = plan.chunks[index]
        relation = int(self.graph.relation[edges[0]])
        one = self.graph.relations[relation]
        one_type = one.head == one.tail
        heads, tails = self._mixtures(relation)
        edges = edges.to(self.device)
        negative_head = heads.draw(generator).to(self.device)
        negative_tail = negative_head if one_type else tails.draw(generator).to(self.device)
        head, tail = self.head.index_select(0, edges), self.tail.index_select(0, edges)
        negatives = [negative_head] if one_type else [negative_head, negative_tail]
        ends, hit_hard = [head, *negatives, tail], None
        if relation in self.hard:
            hard, hit_hard = self.hard[relation].draw(head, tail, generator)
            ends.append(hard.flatten())
        rows, place = torch.unique(torch.cat(ends), return_inverse=True)
        hit_head, hit_tail = self._hits(relation, head, negative_head, tail, negative_tail)
        return Chunk(
            relation=relation,
            rows=rows,
            place=place,
            weight=self.weight.index_select(0, edges),
            log_expected_head=heads.log_expected(negative_head),
            log_expected_tail=tails.log_expected(negative_tail),
            hit_head=hit_head,
            hit_tail=hit_tail,
            one_type=one_type,
            hit_hard=hit_hard,
        )

    def _mixtures(self, relation: int) -> tuple[Mixture, Mixture]:
        """What negative heads and tails are drawn from; within one type they are the same."""
        one, ends = self.graph.relations[relation], self.ends.get(relation, ())
        common = self.samplers[one.head], self.samplers[one.tail]
        if one.head == one.tail:
            both = mixture(common[0], ends, self.negatives, self.end_share)
            return both, both
        head, tail = (
            mixture(sampler, ends[side : side + 1], self.negatives, self.end_share)
            for side, sampler in enumerate(common)
        )
        return head, tail

    def _hits(
        self,
        relation: int,
        head: Tensor,
        negative_head: Tensor,
        tail: Tensor,
        negative_tail: Tensor,
    ) -> tuple[Hits | None, Hits | None]:
        """Which negative heads and tails do not count."""
        if self.known is None:
            return accidental_hits(head, negative_head), accidental_hits(tail, negative_tail)
        return (
            self.known.hit_heads(relation, tail, negative_head),
            self.known.hit_tails(relation, head, negative_tail),
        )


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """One epoch's chunks in their order: edge positions (B,) of one relation each."""

    epoch: int
    chunks: Sequence[Tensor]

    @classmethod
    def cut(cls, graph: TripleGraph, size: int, seed: int, epoch: int) -> EpochPlan:
        """Shuffle the edges within their relations, cut chunks of `size`, shuffle the chunks."""
        generator = generator_of(seed, epoch)
        chunks: list[Tensor] = []
        for relation in range(len(graph.relations)):
            of = graph.edges_of(relation)
            if of.stop > of.start:
                order = torch.randperm(of.stop - of.start, generator=generator) + of.start
                chunks.extend(order.split(size))
        order = torch.randperm(len(chunks), generator=generator)
        return cls(epoch, [chunks[i] for i in order.tolist()])


def generator_of(*what: int) -> torch.Generator:
    """The generator of some draws, such as (seed, epoch); neighbours have nothing in common.

    torch's CPU generator uses 32 bits of a seed.
    """
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def _ends(
    graph: TripleGraph, config: TransRAConfig, device: torch.device
) -> dict[int, tuple[EndSampler, EndSampler]]:
    spans = {relation: graph.edges_of(relation) for relation in range(len(graph.relations))}
    return {
        relation: (
            EndSampler.of(graph.head[of], config.degree_power, device),
            EndSampler.of(graph.tail[of], config.degree_power, device),
        )
        for relation, of in spans.items()
        if of.stop > of.start
    }


def loss_weights(graph: TripleGraph, config: TransRAConfig) -> Tensor:
    """Edge weights (E,) for the loss: mean 1 within a relation, times the relation's own weight."""
    weight = graph.weight.clone()
    for index, one in enumerate(graph.relations):
        of = graph.edges_of(index)
        if of.stop > of.start:
            mean = graph.weight[of].to(torch.float64).mean()
            weight[of] = (graph.weight[of] * (config.relation_weight(one.name) / mean)).float()
    return weight
