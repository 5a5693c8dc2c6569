"""Chunks: triples of one relation with negatives that they share, and their losses.

Legend of shapes: E edges, d dims, B triples, K shared negatives, U gathered rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from provender.producers import losses
from provender.producers.dgl_graph import degrees
from provender.producers.graph import TripleGraph
from provender.producers.negatives import NegativeSampler, accidental_hits, build_sampler
from provender.producers.transra import cross_score, pair_score, project
from provender.producers.transra_config import TransRAConfig

#: (positive, negative, log_expected, hit) -> the loss of every triple
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Chunk:
    """B triples of one relation and K negatives a side; positions are into `rows`.

    `rows` (U,) unique global ids; `head`, `tail` (B,); `negative_head`, `negative_tail` (K,);
    `weight` (B,); `log_expected_head`, `log_expected_tail` (K,).
    """

    relation: int
    rows: Tensor
    head: Tensor
    tail: Tensor
    negative_head: Tensor
    negative_tail: Tensor
    weight: Tensor
    log_expected_head: Tensor
    log_expected_tail: Tensor


@dataclass(frozen=True, eq=False)
class ChunkSource:
    """Where chunks come from: the edges and the samplers, on the device of training.

    `weight` (E,) weighs the loss: mean 1 within a relation, times the relation's own weight.
    """

    graph: TripleGraph
    device: torch.device
    negatives: int
    head: Tensor
    tail: Tensor
    weight: Tensor
    samplers: dict[str, NegativeSampler]

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
        weight = loss_weights(graph, config).to(device)
        edges = (graph.head.to(device), graph.tail.to(device), weight)
        return cls(graph, device, config.negatives, *edges, samplers)

    def draw(self, edges: Tensor, generator: torch.Generator) -> Chunk:
        """Draw the negatives of the edges (B,) at these positions, and gather what they need."""
        relation = int(self.graph.relation[edges[0]])
        heads = self.samplers[self.graph.relations[relation].head]
        tails = self.samplers[self.graph.relations[relation].tail]
        count, edges = self.negatives, edges.to(self.device)
        negative_head = heads.draw(count, generator).to(self.device)
        negative_tail = tails.draw(count, generator).to(self.device)
        own = [self.head.index_select(0, edges), self.tail.index_select(0, edges)]
        rows, position = torch.unique(
            torch.cat([*own, negative_head, negative_tail]), return_inverse=True
        )
        places = position.split([len(edges), len(edges), count, count])
        return Chunk(
            relation=relation,
            rows=rows,
            head=places[0],
            tail=places[1],
            negative_head=places[2],
            negative_tail=places[3],
            weight=self.weight.index_select(0, edges),
            log_expected_head=heads.log_expected(negative_head),
            log_expected_tail=tails.log_expected(negative_tail),
        )


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator of one epoch's draws; neighbouring seeds and epochs have nothing in common.

    torch's CPU generator uses 32 bits of a seed.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def cut_chunks(graph: TripleGraph, size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch's chunks in their order: edge positions (B,), B <= size, of one relation each."""
    chunks: list[Tensor] = []
    for relation in range(len(graph.relations)):
        of = graph.edges_of(relation)
        if of.stop > of.start:
            order = torch.randperm(of.stop - of.start, generator=generator) + of.start
            chunks.extend(order.split(size))
    return [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]


def loss_weights(graph: TripleGraph, config: TransRAConfig) -> Tensor:
    """Edge weights (E,) for the loss: mean 1 within a relation, times the relation's own weight."""
    weight = graph.weight.clone()
    for index, one in enumerate(graph.relations):
        of = graph.edges_of(index)
        if of.stop > of.start:
            mean = graph.weight[of].to(torch.float64).mean()
            weight[of] = (graph.weight[of] * (config.relation_weight(one.name) / mean)).float()
    return weight


def chunk_losses(
    rows: Tensor,
    translation: Tensor,
    deviation: Tensor | None,
    chunk: Chunk,
    loss: Loss,
    scale: float,
) -> Tensor:
    """The loss of every triple (B,), the mean of corrupting its head and corrupting its tail.

    `rows` (U, d) are the gathered entities, `translation` (d,), `deviation` (d, d) or None.
    """
    projected = project(rows, deviation)  # (U, d), each entity once
    moved = projected + translation
    head = moved.index_select(0, chunk.head)  # h M_r + r, (B, d)
    tail = projected.index_select(0, chunk.tail)  # t M_r, (B, d)
    positive = scale * pair_score(head, tail)
    by_tail = scale * cross_score(head, projected.index_select(0, chunk.negative_tail))
    by_head = scale * cross_score(tail, moved.index_select(0, chunk.negative_head))
    hit_tail = accidental_hits(chunk.tail, chunk.negative_tail)
    hit_head = accidental_hits(chunk.head, chunk.negative_head)
    return 0.5 * (
        loss(positive, by_tail, chunk.log_expected_tail, hit_tail)
        + loss(positive, by_head, chunk.log_expected_head, hit_head)
    )


def pick_loss(config: TransRAConfig) -> Loss:
    """The configured loss as a function of (positive, negative, log_expected, hit)."""
    if config.loss == "softmax":
        return losses.softmax_loss
    if config.loss == "margin":
        return partial(losses.margin_loss, margin=config.margin)
    return partial(
        losses.self_adversarial_loss,
        margin=config.margin,
        temperature=config.adversarial_temperature,
    )
